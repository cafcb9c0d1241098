/**
 * One segment of the graph over some rows of the batch, while a step is compiled: where each version lies, and the
 * operations of its forward and backward passes. Nothing computes here; operations are recorded to run later.
 *
 * A version's memory is taken when it is made and given back after its last reader, unless the backward pass will read
 * it. Gradients travel the same way back: where the forward operation added onto the residual stream, the stream's
 * gradient is simply handed on, since nothing that ran later read the version before.
 */
import type { Angles, AttentionShape, Ids, Matrix, TrainingArithmetic } from "../backends/training.js";
import type { RopeRef, WeightRef } from "../tape/tape.js";
import type { Adapter } from "./adapter.js";
import type { Arena, Slot } from "./arena.js";
import { isGrouped, type Node, type Route, readsOf, type Segment, type Version, writesOf } from "./graph.js";
import type { Operand, Parameters } from "./parameters.js";

/** What compiling a step needs to know. */
export interface Compiler {
  readonly arena: Arena;
  readonly parameters: Parameters;
  readonly adapters: ReadonlyMap<WeightRef, Adapter>;
  readonly tokens: Ids;
  /** The same ids on the host, those of the step that runs. */
  readonly hostTokens: Int32Array;
  /** Versions that some trained number decides: gradients flow to these alone. */
  readonly active: ReadonlySet<Version>;
  angles(rope: RopeRef): Angles;
  gates(layer: number): Gates;
  record(operation: Operation): void;
}

/** A layer's gates [1, K], and their gradient; null in a pass without any. */
export interface Gates {
  readonly weight: Matrix;
  readonly gradient: Matrix | null;
}

/** One recorded operation: runs in every step. */
export type Operation = (arithmetic: TrainingArithmetic) => void;

/** `sequences` x `perSequence` rows, each sequence's from `firstPosition` on. */
export interface Range {
  readonly sequences: number;
  readonly perSequence: number;
  readonly firstPosition: number;
}

/** Keys and values of one whole sequence, [length, K*D], where attention reads past the rows of its frame. */
export interface Store {
  readonly keys: Slot;
  readonly values: Slot;
  /** Gradients; null in a pass without any. */
  readonly dKeys: Slot | null;
  readonly dValues: Slot | null;
}

type NodeOf<Name extends Node["op"]> = Extract<Node, { op: Name }>;

/** Versions that a node's backward pass reads. `hasStore`: keys and values are read from a store instead. */
export function residueOf(node: Node, compiler: Compiler, hasStore: boolean): readonly Version[] {
  if (node.op === "append" || !compiler.active.has(node.out)) return [];
  switch (node.op) {
    case "embed":
    case "rope":
    case "add":
      return [];
    case "rmsNorm":
      return [node.x];
    case "matmul": {
      const operand = compiler.parameters.matrix(node.weight);
      const isRead =
        (operand.kind === "dense" && operand.gradient !== null) || compiler.adapters.has(node.weight);
      return isRead ? [node.x] : [];
    }
    case "attention": {
      const own = [node.q, node.out, node.logSum];
      return hasStore ? own : [...own, node.k, node.v];
    }
    case "blend":
      return [node.x, node.y];
    case "glu":
      return [node.gate, node.up];
    case "route":
      return [node.logits];
    case "matmulExperts": {
      const { places, starts } = node.route;
      const group = isGrouped(node.x) ? [starts] : [places, starts];
      return hasGradient(node, compiler) ? [node.x, ...group] : group;
    }
    case "combine": {
      const { weights, places } = node.route;
      return compiler.active.has(weights) ? [node.x, weights, places] : [weights, places];
    }
  }
}

const hasGradient = ({ weight }: NodeOf<"matmulExperts">, { parameters }: Compiler): boolean =>
  parameters.experts(weight).some(({ operand }) => operand.kind === "dense" && operand.gradient !== null);

/** Nodes that must run for `wanted` to be there, in order. `hasStore` as in `residueOf`. */
export function nodesFor(segment: Segment, wanted: Iterable<Version>, hasStore: boolean): Node[] {
  const needed = new Set(wanted);
  return segment.nodes
    .toReversed()
    .filter((node) => {
      const runs = writesOf(node).some((version) => needed.has(version));
      if (runs) for (const version of forwardReads(node, hasStore)) needed.add(version);
      return runs;
    })
    .toReversed();
}

const forwardReads = (node: Node, hasStore: boolean): readonly Version[] =>
  hasStore && node.op === "attention" ? [node.q] : readsOf(node);

/** The version that a node's result is written over or added to, if there is one: it inherits the gradient. */
function overwritten(node: Node): Version | null {
  if (node.op === "rope") return node.x;
  return node.op === "matmul" || node.op === "add" || node.op === "combine" ? node.onto : null;
}

/** Numbers of a decoded piece of a frozen matrix. */
const PIECE = 1 << 18;

export class Frame {
  readonly #compiler: Compiler;
  readonly #segment: Segment;
  readonly #range: Range;
  readonly #store: Store | null;
  readonly #matrices = new Map<Version, Slot>();
  readonly #gradients = new Map<Version, Slot>();
  /** Memory that this frame took and must give back. */
  readonly #owned = new Set<Slot>();

  constructor(compiler: Compiler, segment: Segment, range: Range, store: Store | null = null) {
    this.#compiler = compiler;
    this.#segment = segment;
    this.#range = range;
    this.#store = store;
  }

  get rows(): number {
    return this.#range.sequences * this.#range.perSequence;
  }

  matrixOf(version: Version): Slot {
    const matrix = this.#matrices.get(version);
    if (!matrix) throw new Error(`Version ${version.id} has no memory here.`);
    return matrix;
  }

  /**
   * Records `nodes` of the segment over the rows of `input`. Versions of `keep` stay; of the others only the segment's
   * output does, in `output` where that is given.
   */
  forward(
    input: Slot,
    options: { nodes?: readonly Node[]; keep?: ReadonlySet<Version>; output?: Slot } = {},
  ): void {
    const { nodes = this.#segment.nodes, keep = new Set(), output } = options;
    const last = new Map<Version, Node>();
    for (const node of nodes) {
      for (const version of forwardReads(node, this.#store !== null)) last.set(version, node);
    }
    this.#matrices.set(this.#segment.input, input);
    for (const node of nodes) {
      const isFree = (version: Version): boolean =>
        last.get(version) === node && !keep.has(version) && this.#owned.has(this.matrixOf(version));
      const make = (version: Version): Slot => {
        const isOutput = version === this.#segment.output && output !== undefined;
        const matrix = isOutput ? output : this.#take(version);
        this.#matrices.set(version, matrix);
        return matrix;
      };
      /** The result where `before` lies, if nobody else wants that; otherwise in a copy. */
      const makeOver = (before: Version, after: Version): Slot => {
        if (isFree(before) && !(after === this.#segment.output && output)) {
          const matrix = this.matrixOf(before);
          this.#matrices.delete(before);
          this.#matrices.set(after, matrix);
          return matrix;
        }
        const from = this.matrixOf(before);
        const matrix = make(after);
        this.#do((arithmetic) => arithmetic.copy(from, matrix));
        return matrix;
      };
      this.#forwardNode(node, make, makeOver);
      const done = new Set([...forwardReads(node, this.#store !== null), ...writesOf(node)]);
      for (const version of done) {
        const isWanted = keep.has(version) || version === this.#segment.output;
        const isRead = last.get(version) !== undefined && last.get(version) !== node;
        if (!isWanted && !isRead && this.#matrices.has(version)) this.#drop(version);
      }
    }
  }

  /**
   * Records the backward pass of the whole segment, whose residue must lie here. Reads the output's gradient and
   * overwrites it; leaves the input's in `dInput` (which may be the same memory); gives all memory back.
   */
  backward(dOutput: Slot, dInput: Slot): void {
    const { input, output, nodes } = this.#segment;
    if (dInput.at !== dOutput.at) {
      this.#do((arithmetic) => arithmetic.fill(dInput, 0));
      this.#gradients.set(input, dInput);
    }
    this.#gradients.set(output, dOutput);
    const hasStore = this.#store !== null;
    const firstReader = new Map<Version, Node>();
    for (const node of nodes) {
      for (const version of residueOf(node, this.#compiler, hasStore)) {
        if (!firstReader.has(version)) firstReader.set(version, node);
      }
    }
    for (const node of nodes.toReversed()) {
      this.#backwardNode(node);
      for (const [version, reader] of firstReader) if (reader === node) this.#drop(version);
    }
    const gradient = this.#gradients.get(input);
    if (!gradient) this.#do((arithmetic) => arithmetic.fill(dInput, 0));
    else if (gradient.at !== dInput.at) this.#do((arithmetic) => arithmetic.copy(gradient, dInput));
    this.release();
  }

  /** Gives back all memory that the frame still holds. */
  release(): void {
    for (const slot of this.#owned) this.#compiler.arena.release(slot);
    this.#owned.clear();
    this.#matrices.clear();
    this.#gradients.clear();
  }

  #do(operation: Operation): void {
    this.#compiler.record(operation);
  }

  #take({ width, perToken }: Version): Slot {
    const slot = this.#compiler.arena.take(perToken === 0 ? 1 : perToken * this.rows, width);
    this.#owned.add(slot);
    return slot;
  }

  #giveBack(slot: Slot): void {
    if (this.#owned.delete(slot)) this.#compiler.arena.release(slot);
  }

  #drop(version: Version): void {
    const matrix = this.#matrices.get(version);
    if (!matrix) return;
    this.#matrices.delete(version);
    this.#giveBack(matrix);
  }

  #scratch(rows: number, columns: number, use: (scratch: Slot | null) => void): void {
    const slot = rows > 0 && columns > 0 ? this.#compiler.arena.take(rows, columns) : null;
    use(slot);
    if (slot) this.#compiler.arena.release(slot);
  }

  // -- forward

  #forwardNode(
    node: Node,
    make: (version: Version) => Slot,
    makeOver: (before: Version, after: Version) => Slot,
  ): void {
    const { parameters } = this.#compiler;
    switch (node.op) {
      case "embed":
        this.#embed(node, make(node.out));
        break;
      case "rmsNorm": {
        const { width, epsilon } = node;
        const x = this.matrixOf(node.x);
        const weight = node.weight && parameters.vector(node.weight).weight;
        const out = make(node.out);
        this.#do((arithmetic) => arithmetic.rmsNorm(x, weight, width, epsilon, out));
        break;
      }
      case "matmul": {
        const x = this.matrixOf(node.x);
        const out = node.onto ? makeOver(node.onto, node.out) : make(node.out);
        this.#matmul(node, x, out);
        break;
      }
      case "rope": {
        const out = makeOver(node.x, node.out);
        this.#rotate(node, out, false);
        break;
      }
      case "append":
        this.#append(node);
        break;
      case "attention": {
        const { q, k, v } = this.#attended(node);
        const shape = this.#attentionShape(node);
        const [out, logSum] = [make(node.out), make(node.logSum)];
        this.#do((arithmetic) => arithmetic.attention(q, k, v, shape, out, logSum));
        break;
      }
      case "blend": {
        const [x, y] = [this.matrixOf(node.x), this.matrixOf(node.y)];
        const { weight } = this.#compiler.gates(node.layer);
        const out = make(node.out);
        this.#do((arithmetic) => arithmetic.blend(x, y, weight, out));
        break;
      }
      case "glu": {
        const [gate, up] = [this.matrixOf(node.gate), this.matrixOf(node.up)];
        const out = make(node.out);
        this.#do((arithmetic) => arithmetic.glu(gate, up, node.activation, out));
        break;
      }
      case "add": {
        const x = this.matrixOf(node.x);
        const out = makeOver(node.onto, node.out);
        this.#do((arithmetic) => arithmetic.addScaled(x, out, 1, 1));
        break;
      }
      case "route": {
        const { normalize, to } = node;
        const logits = this.matrixOf(node.logits);
        const weights = make(to.weights);
        const grouping = { places: make(to.places), starts: make(to.starts) };
        this.#do((arithmetic) => arithmetic.route(logits, normalize, weights, grouping));
        break;
      }
      case "matmulExperts": {
        const out = make(node.out);
        this.#grouped(node, (x) => {
          this.#eachExpertPiece(node, (piece, starts, first) => {
            const columns = out.columnsFrom(first, piece.rows / (starts.columns - 1));
            this.#do((arithmetic) => {
              arithmetic.multiplyGroups(x, piece, starts, columns, { transposeB: true });
            });
          });
        });
        break;
      }
      case "combine": {
        const x = this.matrixOf(node.x);
        const { weights, places } = this.#routed(node.route);
        const out = makeOver(node.onto, node.out);
        this.#do((arithmetic) => arithmetic.combine(x, weights, places, out));
        break;
      }
    }
  }

  #routed({ weights, places }: Route): { weights: Slot; places: Slot } {
    return { weights: this.matrixOf(weights), places: this.matrixOf(places) };
  }

  /** Calls `use` for the rows that experts read, in their groups: x itself, or a copy for each visit. */
  #grouped({ x: version, route, out }: NodeOf<"matmulExperts">, use: (x: Slot) => void): void {
    const x = this.matrixOf(version);
    if (isGrouped(version)) {
      use(x);
      return;
    }
    const places = this.matrixOf(route.places);
    this.#scratch(out.perToken * this.rows, version.width, (scratch) => {
      this.#do((arithmetic) => arithmetic.spread(x, places, scratch!));
      use(scratch!);
    });
  }

  /**
   * Calls `use` for the matrices of some experts, one under another, and where the rows of their groups start: all
   * rows of them, or, of one expert at a time, rows from `firstRow` on as they are decoded into scratch memory.
   */
  #eachExpertPiece(
    { weight, route }: NodeOf<"matmulExperts">,
    use: (piece: Matrix, starts: Slot, firstRow: number) => void,
  ): void {
    const starts = this.matrixOf(route.starts);
    const { rows } = weight;
    for (const { operand, first, count } of this.#compiler.parameters.experts(weight)) {
      if (operand.kind === "dense") {
        use(operand.weight, starts.columnsFrom(first, count + 1), 0);
        continue;
      }
      for (let e = 0; e < count; e++) {
        const own = { ...operand, firstRow: operand.firstRow + e * rows };
        this.#eachPiece(own, weight, (piece, row) => use(piece, starts.columnsFrom(first + e, 2), row));
      }
    }
  }

  #embed({ weight, scale }: NodeOf<"embed">, out: Slot): void {
    const { parameters, tokens, hostTokens } = this.#compiler;
    const operand = parameters.matrix(weight);
    if (operand.kind === "dense") {
      this.#do((arithmetic) => arithmetic.embed(tokens, operand.weight, scale, out));
      return;
    }
    this.#scratch(scale === 1 ? 0 : out.rows, out.columns, (scratch) => {
      this.#do((arithmetic) => {
        const into = scratch ?? out;
        hostTokens.forEach((token, row) => {
          arithmetic.decode(operand.stored, operand.firstRow + token, into.slice(row, 1));
        });
        if (!scratch) return;
        arithmetic.fill(out, 0);
        arithmetic.addScaled(scratch, out, scale, 1);
      });
    });
  }

  #matmul({ weight, bias, onto }: NodeOf<"matmul">, x: Slot, out: Slot): void {
    const { parameters, adapters } = this.#compiler;
    this.#eachPiece(parameters.matrix(weight), weight, (piece, first) => {
      const columns = out.columnsFrom(first, piece.rows);
      this.#do((arithmetic) => {
        arithmetic.multiply(x, piece, columns, { transposeB: true, accumulate: onto !== null });
      });
    });
    if (bias) {
      const added = parameters.vector(bias).weight;
      this.#do((arithmetic) => arithmetic.addRow(added, out));
    }
    const adapter = adapters.get(weight);
    if (adapter) {
      this.#scratch(this.rows, adapter.scratchWidth, (scratch) => {
        this.#do(() => adapter.forward(x, out, scratch));
      });
    }
  }

  /** Calls `use` for the matrix as dense rows: once, or piece by piece as they are decoded into scratch memory. */
  #eachPiece(
    operand: Operand,
    { rows, columns }: WeightRef,
    use: (piece: Matrix, firstRow: number) => void,
  ): void {
    if (operand.kind === "dense") {
      use(operand.weight, 0);
      return;
    }
    const step = Math.min(rows, Math.max(1, Math.floor(PIECE / columns)));
    const { stored, firstRow } = operand;
    this.#scratch(step, columns, (scratch) => {
      for (let first = 0; first < rows; first += step) {
        const piece = scratch!.slice(0, Math.min(step, rows - first));
        this.#do((arithmetic) => arithmetic.decode(stored, firstRow + first, piece));
        use(piece, first);
      }
    });
  }

  #rotate({ rope, headWidth }: NodeOf<"rope">, x: Matrix, inverse: boolean): void {
    const angles = this.#compiler.angles(rope);
    const { sequences, firstPosition } = this.#range;
    this.#do((arithmetic) => arithmetic.rope(x, headWidth, angles, sequences, firstPosition, inverse));
  }

  #append({ k, v }: NodeOf<"append">): void {
    if (!this.#store) return;
    const { keys, values } = this.#store;
    const { firstPosition } = this.#range;
    for (const [version, all] of [
      [k, keys],
      [v, values],
    ] as const) {
      const from = this.matrixOf(version);
      const to = all.slice(firstPosition, this.rows);
      this.#do((arithmetic) => arithmetic.copy(from, to));
    }
  }

  /** What attention reads: a store's keys and values up to the frame's last row, or the frame's own. */
  #attended({ q, k, v }: NodeOf<"attention">): { q: Slot; k: Slot; v: Slot } {
    if (!this.#store) return { q: this.matrixOf(q), k: this.matrixOf(k), v: this.matrixOf(v) };
    const { keys, values } = this.#store;
    return { q: this.matrixOf(q), k: this.#upToHere(keys), v: this.#upToHere(values) };
  }

  #upToHere(whole: Slot): Slot {
    return whole.slice(0, this.#range.firstPosition + this.#range.perSequence);
  }

  #attentionShape(node: NodeOf<"attention">): AttentionShape {
    const { numHeads, numKvHeads, headWidth, scale, softcap, window, sinks } = node;
    const { sequences, firstPosition } = this.#range;
    const firstQuery = this.#store ? firstPosition : 0;
    return { sequences, firstQuery, numHeads, numKvHeads, headWidth, scale, softcap, window, sinks };
  }

  // -- backward

  #backwardNode(node: Node): void {
    if (node.op === "append") {
      this.#appendBackward(node);
      return;
    }
    const dOut = this.#gradients.get(node.out);
    if (!dOut || !this.#compiler.active.has(node.out)) return;
    this.#gradients.delete(node.out);
    const { parameters, tokens } = this.#compiler;
    switch (node.op) {
      case "embed": {
        const operand = parameters.matrix(node.weight);
        if (operand.kind === "stored" || !operand.gradient) break;
        const { gradient } = operand;
        this.#do((arithmetic) => arithmetic.embedBackward(tokens, dOut, node.scale, gradient));
        break;
      }
      case "rmsNorm": {
        const { width, epsilon } = node;
        const x = this.matrixOf(node.x);
        const { weight, gradient } = node.weight
          ? parameters.vector(node.weight)
          : { weight: null, gradient: null };
        const dX = this.#gradientOf(node.x);
        this.#do((arithmetic) => arithmetic.rmsNormBackward(x, weight, width, epsilon, dOut, dX, gradient));
        break;
      }
      case "matmul":
        this.#matmulBackward(node, dOut);
        break;
      case "rope":
        this.#rotate(node, dOut, true);
        break;
      case "attention":
        this.#attentionBackward(node, dOut);
        break;
      case "blend": {
        const [x, y] = [this.matrixOf(node.x), this.matrixOf(node.y)];
        const { weight, gradient } = this.#compiler.gates(node.layer);
        const toInput = (version: Version): Slot | null =>
          this.#compiler.active.has(version) ? this.#gradientOf(version) : null;
        const [dX, dY] = [toInput(node.x), toInput(node.y)];
        this.#do((arithmetic) => arithmetic.blendBackward(x, y, weight, dOut, dX, dY, gradient));
        break;
      }
      case "glu": {
        const { activation } = node;
        const [gate, up] = [this.matrixOf(node.gate), this.matrixOf(node.up)];
        const [dGate, dUp] = [this.#gradientOf(node.gate), this.#gradientOf(node.up)];
        this.#do((arithmetic) => arithmetic.gluBackward(gate, up, activation, dOut, dGate, dUp));
        break;
      }
      case "add": {
        if (this.#compiler.active.has(node.x)) {
          const dX = this.#gradientOf(node.x);
          this.#do((arithmetic) => arithmetic.addScaled(dOut, dX, 1, 1));
        }
        break;
      }
      case "route": {
        const { normalize } = node;
        const logits = this.matrixOf(node.logits);
        const dLogits = this.#gradientOf(node.logits);
        this.#do((arithmetic) => arithmetic.routeBackward(logits, normalize, dOut, dLogits));
        break;
      }
      case "matmulExperts":
        this.#expertsBackward(node, dOut);
        break;
      case "combine":
        this.#combineBackward(node, dOut);
        break;
    }
    const heir = overwritten(node);
    if (heir) this.#handOn(dOut, heir);
    else this.#giveBack(dOut);
  }

  /** The gradient of a version, zero where there was none yet. */
  #gradientOf(version: Version): Slot {
    const known = this.#gradients.get(version);
    if (known) return known;
    const made = this.#take(version);
    this.#gradients.set(version, made);
    this.#do((arithmetic) => arithmetic.fill(made, 0));
    return made;
  }

  /** Makes a gradient that has served for one version that of another. */
  #handOn(gradient: Slot, version: Version): void {
    const known = this.#gradients.get(version);
    if (!known && this.#compiler.active.has(version)) {
      this.#gradients.set(version, gradient);
      return;
    }
    if (known) this.#do((arithmetic) => arithmetic.addScaled(gradient, known, 1, 1));
    this.#giveBack(gradient);
  }

  #matmulBackward({ x: xVersion, weight, bias }: NodeOf<"matmul">, dOut: Slot): void {
    const { parameters, adapters, active } = this.#compiler;
    const dBias = bias && parameters.vector(bias).gradient;
    if (dBias) this.#do((arithmetic) => arithmetic.sumRows(dOut, dBias));
    const operand = parameters.matrix(weight);
    if (operand.kind === "dense" && operand.gradient) {
      const x = this.matrixOf(xVersion);
      const dWeight = operand.gradient;
      this.#do((arithmetic) => arithmetic.multiply(dOut, x, dWeight, { transposeA: true, accumulate: true }));
    }
    const isWanted = active.has(xVersion);
    if (isWanted) {
      const known = this.#gradients.get(xVersion);
      const dX = known ?? this.#take(xVersion);
      this.#gradients.set(xVersion, dX);
      this.#eachPiece(operand, weight, (piece, first) => {
        const columns = dOut.columnsFrom(first, piece.rows);
        const accumulate = known !== undefined || first > 0;
        this.#do((arithmetic) => arithmetic.multiply(columns, piece, dX, { accumulate }));
      });
    }
    const adapter = adapters.get(weight);
    if (adapter) {
      const x = this.matrixOf(xVersion);
      const dX = isWanted ? this.#gradientOf(xVersion) : null;
      this.#scratch(this.rows, adapter.scratchWidth, (scratch) => {
        this.#do(() => adapter.backward(x, dOut, dX, scratch));
      });
    }
  }

  #expertsBackward(node: NodeOf<"matmulExperts">, dOut: Slot): void {
    const { parameters, active } = this.#compiler;
    const starts = this.matrixOf(node.route.starts);
    if (hasGradient(node, this.#compiler)) {
      this.#grouped(node, (x) => {
        for (const { operand, first, count } of parameters.experts(node.weight)) {
          if (operand.kind === "stored" || !operand.gradient) continue;
          const { gradient } = operand;
          const own = starts.columnsFrom(first, count + 1);
          const options = { transposeA: true, accumulate: true };
          this.#do((arithmetic) => arithmetic.multiplyGroups(dOut, x, own, gradient, options));
        }
      });
    }
    if (!active.has(node.x)) return;
    const toInput = (dX: Slot, adds: boolean): void => {
      this.#eachExpertPiece(node, (piece, own, first) => {
        const columns = dOut.columnsFrom(first, piece.rows / (own.columns - 1));
        const options = { accumulate: adds || first > 0 };
        this.#do((arithmetic) => arithmetic.multiplyGroups(columns, piece, own, dX, options));
      });
    };
    if (isGrouped(node.x)) {
      const known = this.#gradients.get(node.x);
      const dX = known ?? this.#take(node.x);
      this.#gradients.set(node.x, dX);
      toInput(dX, known !== undefined);
      return;
    }
    const places = this.matrixOf(node.route.places);
    const dX = this.#gradientOf(node.x);
    this.#scratch(dOut.rows, node.x.width, (scratch) => {
      toInput(scratch!, false);
      this.#do((arithmetic) => arithmetic.combine(scratch!, null, places, dX));
    });
  }

  #combineBackward({ x: version, route }: NodeOf<"combine">, dOut: Slot): void {
    const { active } = this.#compiler;
    const { weights, places } = this.#routed(route);
    const dX = active.has(version) ? this.#gradientOf(version) : null;
    const dWeights = active.has(route.weights) ? this.#gradientOf(route.weights) : null;
    // Where nobody wants the weights' gradient, x is not kept, nor read.
    const x = dWeights ? this.matrixOf(version) : dX;
    if (!x) return;
    this.#do((arithmetic) => arithmetic.combineBackward(x, weights, places, dOut, dX, dWeights));
  }

  #attentionBackward(node: NodeOf<"attention">, dOut: Slot): void {
    const shape = this.#attentionShape(node);
    const [out, logSum] = [this.matrixOf(node.out), this.matrixOf(node.logSum)];
    const forward = { ...this.#attended(node), out, logSum };
    const dQ = this.#gradientOf(node.q);
    const { dKeys, dValues } = this.#store ?? {};
    const dK = dKeys ? this.#upToHere(dKeys) : this.#gradientOf(node.k);
    const dV = dValues ? this.#upToHere(dValues) : this.#gradientOf(node.v);
    this.#do((arithmetic) => arithmetic.attentionBackward(forward, shape, dOut, dQ, dK, dV));
  }

  /** Every query that reads these rows' keys and values has been: their gradients are complete. */
  #appendBackward({ k, v }: NodeOf<"append">): void {
    const { dKeys, dValues } = this.#store ?? {};
    if (!dKeys || !dValues) return;
    const { firstPosition } = this.#range;
    this.#handOn(dKeys.slice(firstPosition, this.rows), k);
    this.#handOn(dValues.slice(firstPosition, this.rows), v);
  }
}
