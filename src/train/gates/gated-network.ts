/**
 * A frozen network with a gate for each kv head, which trains the gates alone: what it makes of a text with its heads
 * partly streaming shall be what it makes of it without.
 *
 *     loss = mean over the answers' tokens of |h - h'|^2 / E  +  pressure * mean |gate|
 *
 * h are the last hidden states with all gates open (an ungated forward pass), h' those with the gates as they are, E
 * their width ("DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", arXiv
 * 2410.10819). Answers are the rows that have a target; which token it is does not matter.
 */
import type { Matrix, TrainingArithmetic, Values } from "../../backends/training.js";
import type { Checkpoint } from "../../formats/checkpoint.js";
import type { Tape } from "../../tape/tape.js";
import type { Compiler, Gates, Operation } from "../frame.js";
import type { Graph } from "../graph.js";
import {
  type Buffers,
  type Built,
  build,
  checkBatch,
  type NetworkOptions,
  type Purpose,
} from "../network.js";
import type { Batch, BatchLoss, TrainableNetwork } from "../network-contract.js";
import type { Trainable } from "../optimisers/contract.js";
import { readTensors } from "../parameters.js";
import { type MemoryMode, Passes } from "../passes.js";
import { hiddenStates, type Streaming, splitAttention } from "./split.js";

export interface GatedOptions extends Pick<NetworkOptions, "sequences" | "length" | "memory">, Streaming {
  /** Factor on the mean of the gates. */
  readonly pressure: number;
}

export class GatedNetwork implements TrainableNetwork {
  /** The gates of each layer, [1, K], all 1 at first. They are put back into 0 to 1 before every pass. */
  readonly parameters: readonly Trainable[];
  readonly #arithmetic: TrainingArithmetic;
  readonly #vocabularySize: number;
  readonly #width: number;
  readonly #options: GatedOptions;
  readonly #memory: GateMemory;
  readonly #built: Built;

  /** Reads the tape's weights as they are stored. Throws as `Network.create`; nothing stays allocated then. */
  static async create(
    arithmetic: TrainingArithmetic,
    tape: Tape,
    checkpoint: Checkpoint,
    options: GatedOptions,
  ): Promise<GatedNetwork> {
    const memory = new GateMemory(
      arithmetic,
      tape.kv.map(({ numKvHeads }) => numKvHeads),
    );
    try {
      await memory.open();
      const frozen = { ...options, trainable: () => false };
      const source = readTensors(checkpoint);
      const built = await build(arithmetic, tape, source, frozen, distillation(memory, options));
      return new GatedNetwork(arithmetic, tape, options, memory, built);
    } catch (error) {
      memory.free();
      throw error;
    }
  }

  private constructor(
    arithmetic: TrainingArithmetic,
    tape: Tape,
    options: GatedOptions,
    memory: GateMemory,
    built: Built,
  ) {
    this.#arithmetic = arithmetic;
    this.#vocabularySize = tape.logits.width;
    this.#width = tape.ops.find((op) => op.op === "embed")!.out.width;
    this.#options = options;
    this.#memory = memory;
    this.#built = built;
    this.parameters = memory.layers.map(({ weight, gradient }, layer) => {
      const { rows, columns } = weight;
      return { name: `gates.${layer}`, kind: "vector", rows, columns, weight, gradient };
    });
  }

  zeroGradients(): void {
    this.#arithmetic.fill(this.#memory.gradients, 0);
  }

  async accumulate(batch: Batch, scale: number): Promise<BatchLoss> {
    const found = await this.#run(batch, scale, this.#built.training!);
    const { gradients, ones } = this.#memory;
    const share = (scale * found.weight * this.#options.pressure) / gradients.columns;
    this.#arithmetic.addScaled(ones, gradients, share, 1);
    return found;
  }

  evaluate(batch: Batch): Promise<BatchLoss> {
    return this.#run(batch, 1, this.#built.evaluation);
  }

  dispose(): void {
    for (const memory of this.#built.owned) memory.free();
    this.#memory.free();
  }

  async #run(batch: Batch, scale: number, operations: readonly Operation[]): Promise<BatchLoss> {
    const { sequences, length, pressure } = this.#options;
    checkBatch(batch, sequences * length, this.#vocabularySize);
    const gates = await this.#memory.clamp();
    const weights = Float32Array.from(batch.targets, (target, row) =>
      target < 0 ? 0 : (batch.weights?.[row] ?? 1),
    );
    await this.#built.batch.write({ ...batch, weights }, (2 * scale) / this.#width);
    for (const operation of operations) operation(this.#arithmetic);
    const distances = await this.#built.batch.readLosses();
    let [loss, weight] = [0, 0];
    weights.forEach((each, row) => {
      loss += (each * distances[row]! ** 2) / this.#width;
      weight += each;
    });
    const mean = gates.reduce((sum, gate) => sum + gate, 0) / gates.length;
    return { loss: loss + weight * pressure * mean, weight };
  }
}

/** Passes that end in the distance of hidden states to those of the same rows without gates. */
function distillation(memory: GateMemory, streaming: Streaming): Purpose {
  let plain: Graph;
  return {
    graph(graph) {
      plain = graph;
      return splitAttention(graph, streaming);
    },
    gates: (layer) => memory.layers[layer]!,
    record(pass, compiler, graph, batch, mode) {
      const { output } = hiddenStates(plain);
      const wanted = compiler.arena.take(batch.sequences * batch.length, output.width);
      recordWanted(compiler, plain, batch, mode, wanted);
      new Passes(compiler, graph, batch, {
        segment: hiddenStates(graph),
        // The difference's length is the loss, for the host to square; the difference times its weight, the gradient.
        record(states, first) {
          const want = wanted.slice(first, states.rows);
          const weights = batch.weights(first, states.rows);
          const losses = batch.losses(first, states.rows);
          compiler.record((arithmetic) => {
            arithmetic.addScaled(want, states, -1, 1);
            arithmetic.rowNorms(states, losses);
            arithmetic.scaleRows(states, weights, states);
          });
        },
      })[pass](mode);
      compiler.arena.release(wanted);
    },
  };
}

function recordWanted(
  compiler: Compiler,
  plain: Graph,
  batch: Buffers,
  mode: MemoryMode,
  wanted: ReturnType<Compiler["arena"]["take"]>,
): void {
  new Passes(compiler, plain, batch, {
    segment: hiddenStates(plain),
    record(states, first) {
      const to = wanted.slice(first, states.rows);
      compiler.record((arithmetic) => arithmetic.copy(states, to));
    },
  }).evaluate(mode);
}

/** The gates of all layers, one after another, and their gradients. */
class GateMemory {
  readonly layers: readonly Gates[];
  /** [1, gates] each. */
  readonly gradients: Matrix;
  readonly ones: Matrix;
  readonly #gates: Values;

  constructor(arithmetic: TrainingArithmetic, heads: readonly number[]) {
    const count = heads.reduce((sum, each) => sum + each, 0);
    const row = (values: Values, at = 0, columns = count): Matrix => ({
      ...{ values, at, rows: 1, columns, stride: columns },
    });
    this.#gates = arithmetic.allocate(count);
    this.gradients = row(arithmetic.allocate(count));
    this.ones = row(arithmetic.allocate(count));
    let at = 0;
    this.layers = heads.map((columns) => {
      const first = at;
      at += columns;
      return {
        weight: row(this.#gates, first, columns),
        gradient: row(this.gradients.values, first, columns),
      };
    });
  }

  /** All gates open. */
  async open(): Promise<void> {
    const ones = new Float32Array(this.#gates.length).fill(1);
    await this.#gates.write(ones);
    await this.ones.values.write(ones);
  }

  /** Puts gates back into 0 to 1, and says what they are. */
  async clamp(): Promise<number[]> {
    const gates = [...(await this.#gates.read())];
    const clamped = gates.map(clampGate);
    if (clamped.some((gate, i) => gate !== gates[i])) await this.#gates.write(clamped);
    return clamped;
  }

  free(): void {
    for (const values of [this.#gates, this.gradients.values, this.ones.values]) values.free();
  }
}

/** A gate as it counts: 0 to 1. */
export const clampGate = (gate: number): number => Math.min(1, Math.max(0, gate));
