/**
 * What runs in which order in one step, and what is kept meanwhile: one function per way of spending memory. All give
 * the same gradients. `Stream` holds the residual stream at the bounds of the layers, [S*L, E] each.
 *
 *   keep        everything that any backward operation reads stays from the forward pass on
 *   recompute   only the stream at the layers' bounds stays; each layer runs again before its backward pass
 *               (1604.06174)
 *   { chunk }   as recompute, and inside a layer only `chunk` tokens of one sequence are alive at a time; keys and
 *               values and their gradients are those of the whole sequence (StreamBP, 2506.03077)
 *   { chunk, every }  as { chunk }, and the stream stays at every so many layers' bounds only: those between run
 *               forward once more, which pays in deep models, where bounds are most of what is left (1604.06174)
 */
import type { Slot } from "./arena.js";
import { type Compiler, Frame, nodesFor, type Range, residueOf, type Store } from "./frame.js";
import type { Graph, Segment, Version } from "./graph.js";

export type MemoryMode =
  | "keep"
  | "recompute"
  | {
      readonly chunk: number;
      /** Layers from one kept bound of the stream to the next; default 1. */
      readonly every?: number;
    };

/** Sequences of a batch, and tokens of each. */
export interface BatchShape {
  readonly sequences: number;
  readonly length: number;
}

/** What passes end in. */
export interface Objective {
  /** Row-wise operations behind the last layer; some rows of its output exist at a time. */
  readonly segment: Segment;
  /**
   * Records what is made of the output's rows from row `first` of the batch on. In a training pass it leaves the loss's
   * gradient by the output in the output's place.
   */
  record(output: Slot, first: number): void;
}

/** Numbers of an objective's output (logits) that exist at a time. */
const OUTPUTS = 1 << 21;
/** Rows of them that exist at least: fewer would make poor use of the head's matrix. */
const MIN_HEAD_ROWS = 32;

/** Layers between one kept bound of the stream and the next. */
function runsOf(layers: readonly Segment[], mode: Exclude<MemoryMode, "keep">): Segment[][] {
  const every = mode === "recompute" ? 1 : (mode.every ?? 1);
  return Array.from({ length: Math.ceil(layers.length / every) }, (_, i) =>
    layers.slice(i * every, (i + 1) * every),
  );
}

export class Passes {
  readonly #compiler: Compiler;
  readonly #graph: Graph;
  readonly #batch: BatchShape;
  readonly #objective: Objective;
  readonly #rows: number;

  constructor(compiler: Compiler, graph: Graph, batch: BatchShape, objective: Objective) {
    this.#compiler = compiler;
    this.#graph = graph;
    this.#batch = batch;
    this.#objective = objective;
    this.#rows = batch.sequences * batch.length;
  }

  /** Forward only. */
  evaluate(mode: MemoryMode): void {
    let stream = this.#enter();
    for (const layer of this.#graph.layers) {
      const next = this.#takeStream(layer.output);
      this.#forwardLayer(layer, mode, stream, next);
      this.#compiler.arena.release(stream);
      stream = next;
    }
    this.#head(stream, mode, false);
    this.#compiler.arena.release(stream);
  }

  /** Forward and backward. */
  train(mode: MemoryMode): void {
    if (mode === "keep") this.#trainKept();
    else this.#trainRecomputed(mode);
  }

  #trainKept(): void {
    const { arena } = this.#compiler;
    const streams = [this.#enter()];
    const frames = this.#graph.layers.map((layer) => {
      const frame = new Frame(this.#compiler, layer, this.#whole);
      const next = this.#takeStream(layer.output);
      frame.forward(streams.at(-1)!, { keep: this.#residue(layer, false), output: next });
      streams.push(next);
      return frame;
    });
    const gradient = streams.pop()!;
    this.#head(gradient, "keep", true);
    for (const frame of frames.toReversed()) {
      frame.backward(gradient, gradient);
      arena.release(streams.pop()!);
    }
    this.#leave(gradient);
  }

  #trainRecomputed(mode: Exclude<MemoryMode, "keep">): void {
    const { arena, active } = this.#compiler;
    const runs = runsOf(this.#graph.layers, mode);
    const bounds = [this.#enter()];
    for (const run of runs) {
      const [last, ...between] = this.#forwardLayers(run, mode, bounds.at(-1)!).toReversed();
      for (const stream of between) arena.release(stream);
      bounds.push(last!);
    }
    const gradient = bounds.pop()!;
    this.#head(gradient, mode, true);
    for (const run of runs.toReversed()) {
      const first = bounds.pop()!;
      const trains = active.has(run.at(-1)!.output);
      const streams = [first, ...(trains ? this.#forwardLayers(run.slice(0, -1), mode, first) : [])];
      for (const layer of trains ? run.toReversed() : []) {
        const input = streams.pop()!;
        if (active.has(layer.output)) {
          if (mode === "recompute") this.#backwardWhole(layer, input, gradient);
          else this.#backwardChunks(layer, mode.chunk, input, gradient);
        }
        arena.release(input);
      }
      for (const stream of streams) arena.release(stream);
    }
    this.#leave(gradient);
  }

  /** The stream behind each of these layers. */
  #forwardLayers(layers: readonly Segment[], mode: Exclude<MemoryMode, "keep">, before: Slot): Slot[] {
    const streams: Slot[] = [];
    for (const layer of layers) {
      const next = this.#takeStream(layer.output);
      this.#forwardLayer(layer, mode, streams.at(-1) ?? before, next);
      streams.push(next);
    }
    return streams;
  }

  // -- layers

  #forwardLayer(layer: Segment, mode: MemoryMode, input: Slot, output: Slot): void {
    if (typeof mode === "string") {
      const frame = new Frame(this.#compiler, layer, this.#whole);
      frame.forward(input, { output });
      frame.release();
      return;
    }
    for (let sequence = 0; sequence < this.#batch.sequences; sequence++) {
      this.#withStore(layer, false, (store) => {
        for (const { range, firstRow } of this.#chunks(mode.chunk, sequence)) {
          const frame = new Frame(this.#compiler, layer, range, store);
          const part = (whole: Slot): Slot => whole.slice(firstRow, range.perSequence);
          frame.forward(part(input), { output: part(output) });
          frame.release();
        }
      });
    }
  }

  #backwardWhole(layer: Segment, input: Slot, gradient: Slot): void {
    const frame = new Frame(this.#compiler, layer, this.#whole);
    const keep = this.#residue(layer, false);
    frame.forward(input, { nodes: nodesFor(layer, keep, false), keep });
    frame.backward(gradient, gradient);
  }

  /**
   * Per sequence: keys and values of all of it first, then its chunks from last to first, so that a chunk's keys and
   * values have met all their queries when their own gradient is taken further.
   */
  #backwardChunks(layer: Segment, chunk: number, input: Slot, gradient: Slot): void {
    const keep = this.#residue(layer, true);
    const again = nodesFor(layer, keep, true);
    const appends = layer.nodes.filter(({ op }) => op === "append");
    const stored = appends.flatMap((node) => (node.op === "append" ? [node.k, node.v] : []));
    const storing = [...nodesFor(layer, stored, true), ...appends];
    for (let sequence = 0; sequence < this.#batch.sequences; sequence++) {
      this.#withStore(layer, true, (store) => {
        const chunks = this.#chunks(chunk, sequence);
        for (const { range, firstRow } of chunks) {
          const frame = new Frame(this.#compiler, layer, range, store);
          frame.forward(input.slice(firstRow, range.perSequence), { nodes: storing });
          frame.release();
        }
        for (const { range, firstRow } of chunks.toReversed()) {
          const frame = new Frame(this.#compiler, layer, range, store);
          const rows = gradient.slice(firstRow, range.perSequence);
          frame.forward(input.slice(firstRow, range.perSequence), { nodes: again, keep });
          frame.backward(rows, rows);
        }
      });
    }
  }

  #residue(layer: Segment, hasStore: boolean): Set<Version> {
    return new Set(layer.nodes.flatMap((node) => residueOf(node, this.#compiler, hasStore)));
  }

  /** Keys and values of one sequence, and their zeroed gradients where asked for. */
  #withStore(layer: Segment, wantsGradients: boolean, use: (store: Store) => void): void {
    const { arena, record } = this.#compiler;
    const attention = layer.nodes.find((node) => node.op === "attention")!;
    const take = (): Slot => arena.take(this.#batch.length, attention.numKvHeads * attention.headWidth);
    const zeroed = (): Slot => {
      const slot = take();
      record((arithmetic) => arithmetic.fill(slot, 0));
      return slot;
    };
    const [keys, values] = [take(), take()];
    const [dKeys, dValues] = wantsGradients ? [zeroed(), zeroed()] : [null, null];
    use({ keys, values, dKeys, dValues });
    for (const slot of [keys, values, dKeys, dValues]) if (slot) arena.release(slot);
  }

  // -- rows

  get #whole(): Range {
    const { sequences, length } = this.#batch;
    return { sequences, perSequence: length, firstPosition: 0 };
  }

  /** The chunks of one sequence, and the row of the batch where each starts. */
  #chunks(chunk: number, sequence: number): { range: Range; firstRow: number }[] {
    const { length } = this.#batch;
    return Array.from({ length: Math.ceil(length / chunk) }, (_, i) => {
      const firstPosition = i * chunk;
      const perSequence = Math.min(chunk, length - firstPosition);
      return {
        range: { sequences: 1, perSequence, firstPosition },
        firstRow: sequence * length + firstPosition,
      };
    });
  }

  #takeStream(version: Version): Slot {
    return this.#compiler.arena.take(this.#rows, version.width);
  }

  // -- both ends

  #enter(): Slot {
    const stream = this.#takeStream(this.#graph.entry.output);
    const frame = new Frame(this.#compiler, this.#entrySegment, this.#whole);
    frame.forward(stream, { output: stream });
    frame.release();
    return stream;
  }

  #leave(gradient: Slot): void {
    const frame = new Frame(this.#compiler, this.#entrySegment, this.#whole);
    frame.backward(gradient, gradient);
    this.#compiler.arena.release(gradient);
  }

  /** The embedding has no stream before it; a version that nothing reads stands for one. */
  get #entrySegment(): Segment {
    const { nodes, output } = this.#graph.entry;
    return { nodes, output, input: { id: -1, width: output.width, perToken: 1 } };
  }

  /**
   * The objective of all rows, some at a time; in a training pass each of them then leaves its gradient where its rows
   * of the stream were.
   */
  #head(stream: Slot, mode: MemoryMode, trains: boolean): void {
    const { segment: head } = this.#objective;
    const { arena, record } = this.#compiler;
    const fitting = Math.floor(OUTPUTS / head.output.width / 16) * 16;
    const wanted = typeof mode === "object" ? Math.min(fitting, mode.chunk) : fitting;
    const step = Math.max(MIN_HEAD_ROWS, wanted);
    const keep = new Set([...this.#residue(head, false), head.output]);
    for (let first = 0; first < this.#rows; first += step) {
      const rows = Math.min(step, this.#rows - first);
      const frame = new Frame(this.#compiler, head, { sequences: 1, perSequence: rows, firstPosition: 0 });
      const input = stream.slice(first, rows);
      frame.forward(input, trains ? { keep } : {});
      const output = frame.matrixOf(head.output);
      this.#objective.record(output, first);
      if (trains) {
        const gradient = arena.take(rows, head.input.width);
        frame.backward(output, gradient);
        record((arithmetic) => arithmetic.copy(gradient, input));
        arena.release(gradient);
      } else frame.release();
    }
  }
}
