/**
 * The training loop: batches in, losses and gradients out of a network, a new rate for every step, weights changed by
 * an optimiser, and now and then a look at held-out windows and a checkpoint.
 *
 * Everything a step does is a function of the options and the step's number, so a run that was stopped and goes on from
 * its checkpoint ends with the very same bits.
 */
import type { Matrix, TrainingArithmetic, Values } from "../backends/training.js";
import { MillraceError } from "../errors.js";
import {
  type Curve,
  checkpointPath,
  type Fingerprint,
  loadCheckpoint,
  type Snapshot,
  saveCheckpoint,
} from "./checkpoints.js";
import type { WindowSource } from "./data.js";
import { joinWindows } from "./join-windows.js";
import type { Batch, TrainableNetwork } from "./network-contract.js";
import { asMatrix, gradientOf, type Optimiser, stateBytes, type Trainable } from "./optimisers/contract.js";
import { createOptimiser, type OptimiserSpec } from "./optimisers/resolve.js";
import { type Decay, rateAt } from "./rate.js";

/** A stretch of the run with windows of one length. */
export interface Phase {
  readonly steps: number;
  readonly train: WindowSource;
  readonly heldOut: WindowSource | null;
}

export interface TrainerOptions {
  readonly arithmetic: TrainingArithmetic;
  /** A network for `sequences` windows of `length` tokens at once, its weights the model's first ones. */
  readonly network: (length: number, sequences: number) => Promise<TrainableNetwork>;
  /** At least one. */
  readonly phases: readonly Phase[];
  /** Tokens of a step, a multiple of every phase's window length. */
  readonly batchTokens: number;
  /** Most tokens that go through the network at once, unless one window is longer. */
  readonly microTokens: number;
  readonly optimiser: OptimiserSpec;
  readonly schedule: {
    readonly rate: number;
    readonly warmup: number;
    readonly decay: Decay;
    readonly final: number;
  };
  /** Longest gradient of all weights together; longer ones are shortened to it. Null: any. */
  readonly clip: number | null;
  /** Measures the loss of the first `windows` held-out windows every so many steps, and after the last. */
  readonly evaluation: { readonly every: number; readonly windows: number } | null;
  /** Saves every so many steps and at the end; with `resume`, goes on from the checkpoint that is there, if any. */
  readonly checkpoint: {
    readonly folder: string;
    readonly every: number;
    readonly resume: boolean;
  } | null;
  /** What else the result depends on (data, first weights): a resumed run must have the same. */
  readonly fingerprint: Fingerprint;
  readonly onEvent?: (event: TrainEvent) => void;
  readonly signal?: AbortSignal;
}

export interface StepEvent {
  readonly kind: "step";
  readonly step: number;
  readonly steps: number;
  /** Mean loss of the step's batch in nats per token, before its update. */
  readonly loss: number;
  readonly rate: number;
  /** Length of the gradient before clipping; the slope for optimisers without gradients. */
  readonly gradientNorm: number;
  readonly windowLength: number;
  /** Tokens since the run began, resumed ones included. */
  readonly tokens: number;
  /** Of late. */
  readonly tokensPerSecond: number;
  readonly secondsLeft: number;
}

export type TrainEvent =
  | StepEvent
  /** Goes on from a checkpoint that has this many steps done. */
  | { readonly kind: "resumed"; readonly step: number; readonly path: string; readonly curve: Curve }
  | { readonly kind: "evaluated"; readonly step: number; readonly loss: number }
  | { readonly kind: "saved"; readonly step: number; readonly path: string };

export interface TrainerResult {
  readonly steps: number;
  readonly tokens: number;
  /** Of the last step's batch. */
  readonly loss: number;
  /** After the last step; null without held-out windows. */
  readonly heldOutLoss: number | null;
  /** By parameter, row-major. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly curve: Curve;
  /** Bytes of the optimiser's state. */
  readonly stateBytes: number;
}

/**
 * Trains from the first step, or where the checkpoint left off, to the last.
 *
 * Throws INVALID_ARGUMENT for options that contradict each other, TRAINING_DIVERGED where a loss, gradient or weight is
 * not finite (the last checkpoint stays), ABORTED where the signal came (after saving), WRITE_FAILED where a
 * checkpoint could not be written (the last one stays), and what `loadCheckpoint` throws.
 */
export async function runTrainer(options: TrainerOptions): Promise<TrainerResult> {
  const run = new Run(options);
  try {
    return await run.toEnd();
  } finally {
    run.dispose();
  }
}

/** Where a phase lies in the run. */
interface Stretch extends Phase {
  /** Steps before it. */
  readonly start: number;
  readonly end: number;
  /** Windows of a step, and of one pass through the network. */
  readonly sequences: number;
  readonly microSequences: number;
}

/** A network of one phase and the optimiser of its weights. */
interface Engine {
  readonly stretch: Stretch;
  readonly network: TrainableNetwork;
  readonly optimiser: Optimiser;
}

class Run {
  readonly #options: TrainerOptions;
  readonly #stretches: readonly Stretch[];
  readonly #steps: number;
  readonly #fingerprint: Fingerprint;
  readonly #square: Values;
  #curve: Curve = { train: [], heldOut: [] };
  #step = 0;
  #tokens = 0;
  #saved: number | null = null;
  #engine: Engine | null = null;
  #next: { readonly step: number; readonly batches: Promise<Batch[]> } | null = null;
  #heldOut: { readonly stretch: Stretch; readonly batches: Promise<Batch[]> } | null = null;
  #clipping: Values | null = null;

  constructor(options: TrainerOptions) {
    this.#options = options;
    this.#stretches = layOut(options);
    this.#steps = this.#stretches.at(-1)!.end;
    this.#fingerprint = fingerprintOf(options, this.#steps);
    if (options.checkpoint && options.arithmetic.precision !== "f32") {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "Checkpoints hold F32; got arithmetic in double precision.",
      );
    }
    this.#square = options.arithmetic.allocate(1);
  }

  async toEnd(): Promise<TrainerResult> {
    const { checkpoint, evaluation } = this.#options;
    const found = checkpoint?.resume ? await loadCheckpoint(checkpoint.folder, this.#fingerprint) : null;
    if (found) {
      ({ step: this.#step, tokens: this.#tokens, curve: this.#curve } = found);
      this.#saved = found.step;
    }
    await this.#enter(this.#stretchOf(this.#step + 1), found);
    if (found) {
      const { step, curve } = found;
      this.#tell({
        kind: "resumed",
        step,
        path: checkpointPath(checkpoint!.folder),
        curve: structuredClone(curve),
      });
    }
    const speed = new Speed();
    while (this.#step < this.#steps) {
      if (this.#options.signal?.aborted) await this.#abort();
      const stretch = this.#stretchOf(this.#step + 1);
      if (stretch !== this.#engine!.stretch) await this.#enter(stretch, await this.#snapshot());
      const startedAt = performance.now();
      const evaluates = evaluation !== null && this.#isDue(evaluation.every);
      const saves = checkpoint !== null && this.#isDue(checkpoint.every);
      // Asked for early, so that they are there when the step is done.
      if (evaluates) this.#heldOutBatches(stretch, evaluation.windows);
      const done = await this.#update(this.#step + 1);
      if (!done) continue;
      speed.add((performance.now() - startedAt) / 1000);
      this.#step++;
      this.#tokens += stretch.sequences * stretch.train.windowLength;
      this.#curve.train.push(Math.fround(done.loss));
      this.#tell({
        kind: "step",
        step: this.#step,
        steps: this.#steps,
        ...done,
        windowLength: stretch.train.windowLength,
        tokens: this.#tokens,
        tokensPerSecond: this.#options.batchTokens / speed.secondsPerStep,
        secondsLeft: (this.#steps - this.#step) * speed.secondsPerStep,
      });
      if (evaluates) await this.#evaluate(evaluation.windows);
      if (saves) await this.#save();
    }
    const { weights } = await this.#snapshot();
    return {
      steps: this.#step,
      tokens: this.#tokens,
      loss: this.#curve.train.at(-1)!,
      heldOutLoss: this.#curve.heldOut.at(-1)?.loss ?? null,
      weights,
      curve: this.#curve,
      stateBytes: stateBytes(this.#engine!.optimiser, this.#options.arithmetic),
    };
  }

  dispose(): void {
    this.#engine?.optimiser.dispose();
    this.#engine?.network.dispose();
    this.#engine = null;
    this.#clipping?.free();
    this.#square.free();
  }

  /** One step; null where the signal came before its update. Throws TRAINING_DIVERGED. */
  async #update(step: number): Promise<Pick<StepEvent, "loss" | "rate" | "gradientNorm"> | null> {
    const { network, optimiser } = this.#engine!;
    const { schedule, signal } = this.#options;
    const rate = rateAt({ ...schedule, steps: this.#steps }, step);
    const batches = await this.#batchesOf(step);
    const weight = batches.reduce((sum, batch) => sum + weightOf(batch), 0);
    if (optimiser.needs === "losses") {
      const { loss, slope } = await optimiser.step({ rate, step }, async () => {
        let sum = 0;
        for (const batch of batches) sum += (await network.evaluate(batch)).loss;
        return sum / weight;
      });
      await this.#options.arithmetic.sync();
      this.#checkFinite(step, "loss", loss);
      return { loss, rate, gradientNorm: Math.abs(slope) };
    }
    network.zeroGradients();
    let sum = 0;
    for (const batch of batches) {
      if (signal?.aborted) return null;
      sum += (await network.accumulate(batch, 1 / weight)).loss;
      await turn();
    }
    const loss = sum / weight;
    this.#checkFinite(step, "loss", loss);
    const gradientNorm = await this.#gradientNorm();
    this.#checkFinite(step, "gradient's length", gradientNorm);
    const { clip } = this.#options;
    if (clip !== null && gradientNorm > clip) this.#scaleGradients(clip / gradientNorm);
    await optimiser.step({ rate, step });
    await this.#options.arithmetic.sync();
    return { loss, rate, gradientNorm };
  }

  async #evaluate(windows: number): Promise<void> {
    const { stretch, network } = this.#engine!;
    const batches = this.#heldOutBatches(stretch, windows);
    if (!batches) return;
    let [loss, weight] = [0, 0];
    for (const batch of await batches) {
      const found = await network.evaluate(batch);
      loss += found.loss;
      weight += found.weight;
      await turn();
    }
    const entry = { step: this.#step, loss: Math.fround(loss / weight) };
    this.#curve.heldOut.push(entry);
    this.#tell({ kind: "evaluated", ...entry });
  }

  /** What `step` trains on. The next step's is asked for, to be made while this one's arithmetic runs. */
  async #batchesOf(step: number): Promise<Batch[]> {
    const ask = (step: number): Promise<Batch[]> => {
      const { train, start, sequences, microSequences } = this.#stretchOf(step);
      return makeBatches(train, (step - 1 - start) * sequences, sequences, microSequences);
    };
    const batches = await (this.#next?.step === step ? this.#next.batches : ask(step));
    this.#next = step < this.#steps ? { step: step + 1, batches: ask(step + 1) } : null;
    return batches;
  }

  /** The first held-out windows, whole passes through the network of them; the same ones every time. */
  #heldOutBatches(stretch: Stretch, windows: number): Promise<Batch[]> | null {
    const { heldOut, microSequences } = stretch;
    if (!heldOut) return null;
    if (this.#heldOut?.stretch !== stretch) {
      const passes = Math.max(1, Math.round(Math.min(windows, heldOut.numWindows) / microSequences));
      const batches = makeBatches(heldOut, 0, passes * microSequences, microSequences);
      this.#heldOut = { stretch, batches };
    }
    return this.#heldOut.batches;
  }

  /** Whether something that happens every so many steps, and after the last, happens after the step to come. */
  #isDue(every: number): boolean {
    return this.#step + 1 === this.#steps || (this.#step + 1) % every === 0;
  }

  async #gradientNorm(): Promise<number> {
    const { arithmetic } = this.#options;
    const square = asMatrix(this.#square, 1, 1);
    arithmetic.fill(square, 0);
    for (const parameter of this.#engine!.network.parameters) {
      arithmetic.sumSquares(gradientOf(parameter), square);
    }
    return Math.sqrt((await this.#square.read())[0]!);
  }

  #scaleGradients(factor: number): void {
    const { arithmetic } = this.#options;
    const { parameters } = this.#engine!.network;
    const rows = Math.max(...parameters.map((parameter) => parameter.rows));
    this.#clipping ??= arithmetic.allocate(rows);
    arithmetic.fill(asMatrix(this.#clipping, rows, 1), factor);
    for (const parameter of parameters) {
      const gradient = gradientOf(parameter);
      arithmetic.scaleRows(gradient, asMatrix(this.#clipping, parameter.rows, 1), gradient);
    }
  }

  /** Makes the engine of `stretch`, with the weights and state of `snapshot` where there is one. */
  async #enter(stretch: Stretch, snapshot: Snapshot | null): Promise<void> {
    const { arithmetic, optimiser: spec } = this.#options;
    this.#engine?.optimiser.dispose();
    this.#engine?.network.dispose();
    this.#engine = null;
    const network = await this.#options.network(stretch.train.windowLength, stretch.microSequences);
    let optimiser: Optimiser;
    try {
      optimiser = createOptimiser(spec, arithmetic, network.parameters);
    } catch (error) {
      network.dispose();
      throw error;
    }
    this.#engine = { stretch, network, optimiser };
    if (!snapshot) return;
    checkShapes(network.parameters, snapshot.weights);
    for (const { name, weight } of network.parameters) {
      await weight.values.write(snapshot.weights.get(name)!, weight.at);
    }
    for (const { name, values } of optimiser.state) {
      const saved = snapshot.state.get(name);
      if (saved?.length !== values.length) {
        throw new MillraceError(
          "BAD_SHAPE",
          `The checkpoint's optimiser state "${name}" has ${saved?.length ?? "no"} numbers; expected ${values.length}.`,
          { name },
        );
      }
      await values.write(saved);
    }
  }

  async #snapshot(): Promise<Snapshot> {
    const { network, optimiser } = this.#engine!;
    const weights = new Map<string, Float32Array>();
    for (const { name, weight } of network.parameters) weights.set(name, await readWhole(weight));
    const state = new Map<string, Float32Array>();
    for (const { name, values } of optimiser.state) state.set(name, Float32Array.from(await values.read()));
    return { step: this.#step, tokens: this.#tokens, weights, state, curve: this.#curve };
  }

  async #save(): Promise<void> {
    const { checkpoint } = this.#options;
    if (!checkpoint || this.#saved === this.#step) return;
    const snapshot = await this.#snapshot();
    for (const [name, values] of snapshot.weights) {
      if (!values.every(Number.isFinite))
        throw this.#diverged(this.#step, `weights "${name}" are not finite`);
    }
    const path = await saveCheckpoint(checkpoint.folder, snapshot, this.#fingerprint);
    this.#saved = this.#step;
    this.#tell({ kind: "saved", step: this.#step, path });
  }

  async #abort(): Promise<never> {
    await this.#save();
    const { checkpoint } = this.#options;
    throw new MillraceError(
      "ABORTED",
      `Training stopped after step ${this.#step} of ${this.#steps}` +
        (checkpoint ? `; ${checkpointPath(checkpoint.folder)} goes on from there.` : "; nothing was saved."),
      { step: this.#step, steps: this.#steps, path: checkpoint ? checkpointPath(checkpoint.folder) : null },
    );
  }

  #checkFinite(step: number, what: string, value: number): void {
    if (!Number.isFinite(value)) throw this.#diverged(step, `the ${what} is ${value}`);
  }

  #diverged(step: number, what: string): MillraceError {
    const { checkpoint } = this.#options;
    const kept =
      this.#saved === null
        ? "No checkpoint had been saved yet."
        : `The checkpoint of step ${this.#saved} is kept in ${checkpoint!.folder}.`;
    const advice =
      this.#step === 0
        ? "No weight had been changed: the model that training starts from holds NaN or numbers too large. Start from another."
        : `${kept} Try a lower rate, a longer warm-up or a smaller clip.`;
    return new MillraceError("TRAINING_DIVERGED", `Step ${step}: ${what}. ${advice}`, {
      step,
      saved: this.#saved,
    });
  }

  #stretchOf(step: number): Stretch {
    return this.#stretches.find(({ end }) => step <= end) ?? this.#stretches.at(-1)!;
  }

  #tell(event: TrainEvent): void {
    this.#options.onEvent?.(event);
  }
}

/**
 * Windows `first` to `first + count - 1` of a source, `together` of them a batch. Asks for all at once. Whoever awaits
 * it meets its errors; until then they are silent.
 */
function makeBatches(source: WindowSource, first: number, count: number, together: number): Promise<Batch[]> {
  const batch = async (at: number): Promise<Batch> => {
    const windows = await Promise.all(Array.from({ length: together }, (_, i) => source.window(at + i)));
    return joinWindows(windows, source.windowLength);
  };
  const batches = Promise.all(
    Array.from({ length: count / together }, (_, i) => batch(first + i * together)),
  );
  batches.catch(() => {});
  return batches;
}

/** Seconds of a step, of late: a mean that forgets. */
class Speed {
  secondsPerStep = 0;

  add(seconds: number): void {
    this.secondsPerStep = this.secondsPerStep === 0 ? seconds : 0.9 * this.secondsPerStep + 0.1 * seconds;
  }
}

/** Phases one after another. Throws INVALID_ARGUMENT where windows do not fill a step's tokens exactly. */
function layOut({ phases, batchTokens, microTokens }: TrainerOptions): Stretch[] {
  let end = 0;
  const stretches = phases.map((phase) => {
    const { windowLength } = phase.train;
    const sequences = batchTokens / windowLength;
    if (!Number.isSafeInteger(sequences) || sequences < 1) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `A step of ${batchTokens} tokens does not hold windows of ${windowLength}; expected a multiple.`,
        { batchTokens, windowLength },
      );
    }
    let microSequences = Math.min(sequences, Math.max(1, Math.floor(microTokens / windowLength)));
    while (sequences % microSequences !== 0) microSequences--;
    const start = end;
    end += phase.steps;
    return { ...phase, start, end, sequences, microSequences };
  });
  if (end < 1) throw new MillraceError("INVALID_ARGUMENT", "A run has at least one step; got none.");
  return stretches.filter(({ steps }) => steps > 0);
}

function fingerprintOf(options: TrainerOptions, steps: number): Fingerprint {
  const { optimiser, schedule, phases, batchTokens, microTokens, clip, fingerprint } = options;
  return {
    ...fingerprint,
    steps,
    phases: phases.map(({ steps, train }) => `${train.windowLength} x ${steps}`).join(", "),
    batchTokens,
    microTokens,
    clip,
    optimiser: JSON.stringify(optimiser),
    schedule: JSON.stringify(schedule),
  };
}

function checkShapes(parameters: readonly Trainable[], weights: ReadonlyMap<string, Float32Array>): void {
  for (const { name, rows, columns } of parameters) {
    const got = weights.get(name)?.length;
    if (got === rows * columns) continue;
    throw new MillraceError(
      "BAD_SHAPE",
      `The checkpoint's weights "${name}" are ${got ?? "no"} numbers; expected [${rows}, ${columns}]. ` +
        "It belongs to another model.",
      { name, rows, columns },
    );
  }
}

async function readWhole({ values, at, rows, columns }: Matrix): Promise<Float32Array> {
  return Float32Array.from(await values.read(at, rows * columns));
}

function weightOf({ targets, weights }: Batch): number {
  let sum = 0;
  for (let i = 0; i < targets.length; i++) if (targets[i]! >= 0) sum += weights ? weights[i]! : 1;
  return sum;
}

/** Lets the event loop turn once. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
