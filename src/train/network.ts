/**
 * A network that trains: any decoder's tape, dense or with experts, walked forward and backward over a training arithmetic. How it is
 * cut is in graph.ts, how one part of it runs in frame.ts, in which order and with how much memory in passes.ts.
 *
 * Everything is decided when a network is made: the operations of a step are compiled once for its shape, with a place
 * in memory for every intermediate result, and run again for every batch.
 */
import { fillRopeTable, ropeTableLength } from "../backends/rope-table.js";
import type { Angles, Ids, Matrix, TrainingArithmetic, Values } from "../backends/training.js";
import { MillraceError } from "../errors.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape, WeightRef } from "../tape/tape.js";
import type { Adapt, Adapter } from "./adapter.js";
import { Arena } from "./arena.js";
import type { Compiler, Gates, Operation } from "./frame.js";
import { buildGraph, type Graph, type Node, readsOf, type Version, writesOf } from "./graph.js";
import type { Batch, BatchLoss } from "./network-contract.js";
import { type Memory, type Parameter, Parameters, readTensors, type TensorSource } from "./parameters.js";
import { type BatchShape, type MemoryMode, Passes } from "./passes.js";
import { PlannedMemory, shapesOnly } from "./planned-memory.js";

export type { Adapt, AdaptedMatrix, Adapter } from "./adapter.js";
export type { Parameter } from "./parameters.js";
export type { MemoryMode } from "./passes.js";

export interface NetworkOptions {
  /** Windows of a batch. */
  readonly sequences: number;
  /** Tokens of each window. */
  readonly length: number;
  /** How activations are kept for the backward pass; see passes.ts. Default "keep". */
  readonly memory?: MemoryMode;
  /**
   * Which tensors train, by their name in the checkpoint; default all. The others stay as they are stored and are
   * decoded where they are used.
   */
  readonly trainable?: (name: string) => boolean;
  /** False: forward passes only; no gradients are allocated and `accumulate` is refused. Default true. */
  readonly gradients?: boolean;
  /** Paths beside the tape's matrices; see adapter.ts. */
  readonly adapt?: Adapt;
}

/** Bytes that a network holds; adapters' parameters are their makers' to count. */
export interface NetworkBytes {
  readonly weights: number;
  readonly gradients: number;
  /** All that exists only during a step: activations, their gradients, logits. */
  readonly activations: number;
  /** Token ids, targets, weights, losses and rotary angles. */
  readonly batch: number;
}

export class Network implements Disposable {
  /** What trains: the tape's tensors in its order, then the adapters' parameters. */
  readonly parameters: readonly Parameter[];
  readonly bytes: NetworkBytes;
  readonly vocabularySize: number;
  readonly sequences: number;
  readonly length: number;
  readonly #arithmetic: TrainingArithmetic;
  readonly #batch: Buffers;
  readonly #evaluation: readonly Operation[];
  readonly #training: readonly Operation[] | null;
  readonly #owned: readonly { free(): void }[];

  /**
   * Reads the tape's weights from the checkpoint and compiles both passes.
   * Throws INVALID_ARGUMENT for options that make no network, UNSUPPORTED_ARCHITECTURE where the tape holds what
   * training does not know, OUT_OF_BUDGET, and as `Checkpoint.read` does; nothing stays allocated then.
   */
  static async create(
    arithmetic: TrainingArithmetic,
    tape: Tape,
    checkpoint: Checkpoint,
    options: NetworkOptions,
  ): Promise<Network> {
    const built = await build(arithmetic, tape, readTensors(checkpoint), options);
    return new Network(arithmetic, tape, options, built);
  }

  /**
   * What `create` would take on a backend of f32 numbers; allocates nothing and reads no tensor. `adapt` is called as by
   * `create`. Throws as `create` does.
   */
  static async plan(tape: Tape, checkpoint: Checkpoint, options: NetworkOptions): Promise<NetworkBytes> {
    const { bytes } = await build(new PlannedMemory(), tape, shapesOnly(checkpoint), options);
    return bytes;
  }

  private constructor(
    arithmetic: TrainingArithmetic,
    tape: Tape,
    { sequences, length }: NetworkOptions,
    built: Built,
  ) {
    this.#arithmetic = arithmetic;
    this.vocabularySize = tape.logits.width;
    this.sequences = sequences;
    this.length = length;
    this.parameters = built.parameters;
    this.bytes = built.bytes;
    this.#batch = built.batch;
    this.#evaluation = built.evaluation;
    this.#training = built.training;
    this.#owned = built.owned;
  }

  /** Sets all gradients to zero. */
  zeroGradients(): void {
    for (const { gradient } of this.parameters) if (gradient) this.#arithmetic.fill(gradient, 0);
  }

  /**
   * Forward and backward: ADDS the gradient of `scale` times the batch's loss (a sum: for the gradient of the mean,
   * scale by 1 / weight) onto the parameters' gradients. Not re-entrant.
   * Throws INVALID_ARGUMENT for a batch of another shape, a scale that is not positive, or a network without
   * gradients; INVALID_TOKEN for an id outside the vocabulary; WORKER_CRASHED.
   */
  async accumulate(batch: Batch, scale: number): Promise<BatchLoss> {
    if (!this.#training) throw invalid("a network without gradients", "one made with them");
    if (!(scale > 0 && Number.isFinite(scale))) throw invalid(`a scale of ${scale}`, "a number above 0");
    return this.#run(batch, scale, this.#training);
  }

  /** Forward only. Throws as `accumulate` does. Not re-entrant. */
  async evaluate(batch: Batch): Promise<BatchLoss> {
    return this.#run(batch, 1, this.#evaluation);
  }

  /** Frees all memory but that of adapters' parameters. Idempotent. */
  dispose(): void {
    for (const memory of this.#owned) memory.free();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async #run(batch: Batch, scale: number, operations: readonly Operation[]): Promise<BatchLoss> {
    checkBatch(batch, this.sequences * this.length, this.vocabularySize);
    await this.#batch.write(batch, scale);
    for (const operation of operations) operation(this.#arithmetic);
    const losses = await this.#batch.readLosses();
    let [loss, weight] = [0, 0];
    batch.targets.forEach((target, row) => {
      if (target < 0) return;
      loss += losses[row]!;
      weight += batch.weights?.[row] ?? 1;
    });
    return { loss: loss / scale, weight };
  }
}

export interface Built {
  readonly parameters: readonly Parameter[];
  readonly bytes: NetworkBytes;
  readonly batch: Buffers;
  readonly evaluation: readonly Operation[];
  /** Null in a network without gradients. */
  readonly training: readonly Operation[] | null;
  readonly owned: readonly { free(): void }[];
}

/** What a network is made for: the graph that it walks and trains, and what its passes are. */
export interface Purpose {
  graph(graph: Graph): Graph;
  gates(layer: number): Gates;
  record(
    pass: "evaluate" | "train",
    compiler: Compiler,
    graph: Graph,
    batch: Buffers,
    mode: MemoryMode,
  ): void;
}

/** Saying the next token. */
const prediction: Purpose = {
  graph: (graph) => graph,
  gates(layer) {
    throw new Error(`Layer ${layer} has no gates.`);
  },
  record(pass, compiler, graph, batch, mode) {
    const passes = new Passes(compiler, graph, batch, {
      segment: graph.head,
      record(logits, first) {
        const weights = batch.weights(first, logits.rows);
        const losses = batch.losses(first, logits.rows);
        compiler.record((arithmetic) => {
          arithmetic.crossEntropy(logits, batch.targets, first, weights, losses);
        });
      },
    });
    passes[pass](mode);
  },
};

/** All of a network but what runs it. Frees what it took where it throws. */
export async function build(
  memory: Memory,
  tape: Tape,
  source: TensorSource,
  options: NetworkOptions,
  purpose: Purpose = prediction,
): Promise<Built> {
  checkOptions(options);
  const graph = purpose.graph(buildGraph(tape));
  const { trainable = () => true, gradients = true, memory: mode = "keep" } = options;
  const start = memory.bytes.current;
  const parameters = await Parameters.load(memory, tape, source, { trainable, gradients });
  const loaded = memory.bytes.current;
  const owned: { free(): void }[] = [parameters];
  try {
    const batch = new Buffers(memory, tape, options);
    owned.push(batch);
    await batch.writeAngles(tape);
    const adapters = collectAdapters(tape, options.adapt);
    const active = activeVersions(graph, parameters, adapters);
    // One pass runs at a time: both are planned over the same memory.
    const arena = new Arena();
    const compile = (pass: "evaluate" | "train"): Operation[] => {
      const operations: Operation[] = [];
      const { tokens, hostTokens } = batch;
      const compiler: Compiler = {
        ...{ arena, parameters, adapters, tokens, hostTokens, active },
        angles: ({ id }) => batch.angles[id]!,
        gates: purpose.gates,
        record: (operation) => operations.push(operation),
      };
      purpose.record(pass, compiler, graph, batch, mode);
      return operations;
    };
    const evaluation = compile("evaluate");
    const training = gradients ? compile("train") : null;
    const beforeArena = memory.bytes.current;
    arena.commit(memory);
    owned.push(arena);
    const trained = parameters.list.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
    const gradientBytes = gradients ? trained * (memory.precision === "f64" ? 8 : 4) : 0;
    return {
      parameters: [...parameters.list, ...new Set([...adapters.values()].flatMap((each) => each.parameters))],
      bytes: {
        weights: loaded - start - gradientBytes,
        gradients: gradientBytes,
        activations: memory.bytes.current - beforeArena,
        batch: beforeArena - loaded,
      },
      batch,
      evaluation,
      training,
      owned,
    };
  } catch (error) {
    for (const made of owned) made.free();
    throw error;
  }
}

/** What a batch needs in backend memory, beside activations. */
export class Buffers implements BatchShape {
  readonly sequences: number;
  readonly length: number;
  readonly tokens: Ids;
  readonly hostTokens: Int32Array;
  readonly targets: Ids;
  /** By the rope's id. */
  readonly angles: readonly Angles[];
  readonly #weights: Values;
  readonly #losses: Values;
  readonly #owned: { free(): void }[] = [];

  constructor(memory: Memory, { ropes }: Tape, { sequences, length }: NetworkOptions) {
    const own = <T extends { free(): void }>(made: T): T => {
      this.#owned.push(made);
      return made;
    };
    const rows = sequences * length;
    this.sequences = sequences;
    this.length = length;
    this.hostTokens = new Int32Array(rows);
    try {
      this.tokens = own(memory.allocateIds(rows));
      this.targets = own(memory.allocateIds(rows));
      this.#weights = own(memory.allocate(rows));
      this.#losses = own(memory.allocate(rows));
      this.angles = ropes.map((rope) => ({
        values: own(memory.allocate(ropeTableLength(rope, length, 0))),
        pairs: rope.frequencies.length,
        style: rope.style,
      }));
    } catch (error) {
      this.free();
      throw error;
    }
  }

  /** Fills the tables of angles, which are the same in every step. */
  async writeAngles({ ropes }: Tape): Promise<void> {
    const positions = Int32Array.from({ length: this.length }, (_, position) => position);
    for (const [i, rope] of ropes.entries()) {
      const table = new Float32Array(ropeTableLength(rope, this.length, 0));
      fillRopeTable(rope, positions, new Float64Array(0), table);
      await this.angles[i]!.values.write(table);
    }
  }

  /** Of each row's loss. */
  weights(first: number, rows: number): Matrix {
    return { values: this.#weights, at: first, rows, columns: 1, stride: 1 };
  }

  /** Left here by a pass. */
  losses(first: number, rows: number): Matrix {
    return { values: this.#losses, at: first, rows, columns: 1, stride: 1 };
  }

  async write({ tokens, targets, weights }: Batch, scale: number): Promise<void> {
    this.hostTokens.set(tokens);
    await this.tokens.write(tokens);
    await this.targets.write(targets);
    await this.#weights.write(Float64Array.from(targets, (_, row) => scale * (weights?.[row] ?? 1)));
  }

  readLosses(): Promise<Float32Array | Float64Array> {
    return this.#losses.read();
  }

  free(): void {
    for (const memory of this.#owned) memory.free();
  }
}

function collectAdapters(tape: Tape, adapt: Adapt | undefined): Map<WeightRef, Adapter> {
  const adapters = new Map<WeightRef, Adapter>();
  for (const op of adapt ? tape.ops : []) {
    if (op.op !== "matmul") continue;
    const { slices, rows, columns } = op.weight;
    const { tensor, rowStart } = slices[0]!;
    const adapter = adapt?.({ tensor, rowStart, rows, columns });
    if (adapter) adapters.set(op.weight, adapter);
  }
  return adapters;
}

/** Versions that depend on anything that trains. */
function activeVersions(
  { entry, layers, head }: Graph,
  parameters: Parameters,
  adapters: ReadonlyMap<WeightRef, Adapter>,
): Set<Version> {
  const active = new Set<Version>();
  const trains = (weight: WeightRef): boolean =>
    parameters.experts(weight).some(({ operand }) => operand.kind === "dense" && operand.gradient !== null);
  const hasOwn = (node: Node): boolean => {
    if (node.op === "embed" || node.op === "matmulExperts") return trains(node.weight);
    if (node.op === "rmsNorm")
      return node.weight !== null && parameters.vector(node.weight).gradient !== null;
    if (node.op === "blend") return true;
    if (node.op !== "matmul") return false;
    const bias = node.bias && parameters.vector(node.bias).gradient;
    return bias !== null || trains(node.weight) || adapters.has(node.weight);
  };
  for (const node of [...entry.nodes, ...layers.flatMap(({ nodes }) => nodes), ...head.nodes]) {
    if (!hasOwn(node) && !readsOf(node).some((version) => active.has(version))) continue;
    for (const version of writesOf(node)) active.add(version);
  }
  return active;
}

function checkOptions({ sequences, length, memory = "keep" }: NetworkOptions): void {
  const { chunk = 1, every = 1 } = typeof memory === "object" ? memory : {};
  const counts = { sequences, length, chunk, every };
  for (const [name, value] of Object.entries(counts)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw invalid(`${name} ${value}`, "a whole number of at least 1");
    }
  }
}

export function checkBatch({ tokens, targets, weights }: Batch, rows: number, vocabulary: number): void {
  for (const [name, list] of Object.entries({ tokens, targets, ...(weights && { weights }) })) {
    if (list.length !== rows) throw invalid(`${list.length} ${name}`, `${rows}`);
  }
  for (const [list, least] of [
    [tokens, 0],
    [targets, -1],
  ] as const) {
    const bad = list.find((id) => id < least || id >= vocabulary);
    if (bad === undefined) continue;
    throw new MillraceError(
      "INVALID_TOKEN",
      `Token id ${bad} is outside the vocabulary of ${vocabulary}. Was the data tokenized for another model?`,
      { token: bad, vocabulary },
    );
  }
}

const invalid = (got: string, expected: string): MillraceError =>
  new MillraceError("INVALID_ARGUMENT", `Training got ${got}; expected ${expected}.`, { got, expected });
