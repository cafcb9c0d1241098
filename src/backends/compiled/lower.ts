/**
 * From tape to op records: what the kernels' interpreter executes. Pure: addresses come in, bytes go out, nothing is
 * allocated. Besides translating op by op, it
 *   - inserts the quantisation of activations, once per content that quantised matrices read,
 *   - splits attention in its two phases,
 *   - lets activations whose lives do not overlap share memory,
 *   - marks the ops that must wait for the ones before them; all others run without a barrier.
 */
import { MillraceError } from "../../errors.js";
import type {
  BufferRef,
  LowRankPair,
  Op,
  RopeRef,
  RouteRef,
  RowKind,
  Tape,
  VectorRef,
  WeightRef,
} from "../../tape/tape.js";
import { mostRows, rowsOf } from "../check.js";
import type { ProgramLimits } from "../contract.js";
import { ACTIVATIONS, align, OP, OP_RECORD, type OpCode, ROPE_STYLES, ROWS } from "./abi.js";
import { attentionScratch } from "./attention-scratch.js";
import { type Access, barriers, type Range } from "./hazards.js";
import { firstHeads } from "./lane-tables.js";
import type { Kernels } from "./machine.js";
import { type Lifetime, place } from "./placement.js";

/** Something in scratch memory, by number. */
type ScratchId = number;

/** What an address in a record points to, before addresses are known. */
export type Operand =
  | { readonly kind: "none" }
  | { readonly kind: "scratch"; readonly id: ScratchId }
  | { readonly kind: "weight"; readonly id: number }
  | { readonly kind: "vector"; readonly id: number }
  | { readonly kind: "rope"; readonly id: number }
  | { readonly kind: "lowRanks"; readonly id: number };

/** An op of the interpreter; fields as in struct Op. */
export interface Instruction {
  readonly code: OpCode;
  readonly barrier: boolean;
  readonly i: readonly number[];
  readonly f: readonly number[];
  readonly p: readonly Operand[];
}

export interface Lowered {
  /** All that any step may run. */
  readonly instructions: readonly Instruction[];
  /** What a step runs, by `variantOf`: without what none of its sequences has. */
  readonly variants: readonly (readonly Instruction[])[];
  /** What each instruction reads and writes: scratch bytes, and one imaginary byte per layer's pages after them. */
  readonly accesses: readonly Access[];
  /** Offset in scratch of every scratch operand. */
  readonly scratchOffsets: readonly number[];
  readonly scratchBytes: number;
  /** By buffer id: offset in scratch, and whether its content outlives the run. */
  readonly buffers: readonly { readonly offset: number; readonly survives: boolean }[];
  /** What `lowRanks` operands point to: the pairs of an op, by adapter. */
  readonly lowRanks: readonly (readonly LowRankPair[])[];
}

/** How the weights were packed: by weight id, the number of the type that was chosen. */
export type WeightTypes = readonly number[];

interface ScratchObject {
  readonly bytes: number;
  first: number;
  last: number;
  lastRead: number;
  lastWrite: number;
}

interface Draft {
  readonly code: OpCode;
  readonly i: readonly number[];
  readonly f: readonly number[];
  readonly p: readonly Operand[];
  readonly reads: readonly ScratchId[];
  readonly writes: readonly ScratchId[];
  /** Layer whose pages are read or written. */
  readonly readsPages?: number;
  readonly writesPages?: number;
}

const NONE: Operand = { kind: "none" };
const scratch = (id: ScratchId): Operand => ({ kind: "scratch", id });
const vector = (ref: VectorRef | null): Operand => (ref ? { kind: "vector", id: ref.id } : NONE);
const weight = (ref: WeightRef): Operand => ({ kind: "weight", id: ref.id });
const ropeTable = (ref: RopeRef | null): Operand => (ref ? { kind: "rope", id: ref.id } : NONE);

/** Which of `Lowered.variants` runs where some sequence has an adapter, and some queries choose what they attend to. */
export const variantOf = (adapters: boolean, choices: boolean): number =>
  Number(adapters) + 2 * Number(choices);

/** Entries of an op's table of pairs: up to the highest adapter that has one. */
export const tableLength = (pairs: readonly LowRankPair[]): number =>
  1 + Math.max(-1, ...pairs.map(({ adapter }) => adapter));

/** The ops one by one, save that changes of low rank that follow each other run phase by phase, to wait only once. */
function togetherOf(ops: readonly Op[]): Op[][] {
  const runs: Op[][] = [];
  for (const op of ops) {
    const run = runs.at(-1);
    const joins = (other: Op): boolean =>
      op.op === "lowRank" && other.op === "lowRank" && other.out !== op.x && other.out !== op.out;
    if (run?.every(joins)) run.push(op);
    else runs.push([op]);
  }
  return runs;
}

/** Writes the drafts: instructions without barriers, and the scratch objects they name. */
class Drafting {
  readonly drafts: Draft[] = [];
  readonly objects: ScratchObject[] = [];
  readonly buffers: readonly ScratchId[];
  readonly lowRanks: (readonly LowRankPair[])[] = [];
  readonly #routes: readonly { ids: ScratchId; weights: ScratchId; lists: ScratchId }[];
  /** By buffer: where its present content lies in quantised form. */
  readonly #quantized = new Map<ScratchId, ScratchId>();
  readonly #perToken: number;
  readonly #firstHeads: readonly number[];

  constructor(
    readonly tape: Tape,
    readonly limits: ProgramLimits,
    readonly kernels: Kernels,
    readonly weightTypes: WeightTypes,
    readonly numThreads: number,
  ) {
    const { maxTokens } = limits;
    this.#perToken = tape.routes[0]?.perToken ?? 1;
    this.#firstHeads = firstHeads(tape);
    this.buffers = tape.buffers.map(({ rows, width }) => this.#object(this.#rows(rows) * width * 4));
    this.#routes = tape.routes.map(({ experts, perToken }) => ({
      ids: this.#object(maxTokens * perToken * 4),
      weights: this.#object(maxTokens * perToken * 4),
      lists: this.#object((experts + 1 + maxTokens * perToken) * 4),
    }));
    for (const run of togetherOf(tape.ops)) {
      const drafts = run.map((op) => this.#translate(op));
      for (let phase = 0; drafts.some(({ length }) => phase < length); phase++) {
        for (const draft of drafts.flatMap((list) => list[phase] ?? [])) this.#push(draft);
      }
    }
  }

  #object(bytes: number): ScratchId {
    return (
      this.objects.push({ bytes, first: Number.POSITIVE_INFINITY, last: -1, lastRead: -1, lastWrite: -1 }) - 1
    );
  }

  #rows(kind: RowKind): number {
    return rowsOf(this.tape, kind, mostRows(this.limits));
  }

  #of(buffer: BufferRef): ScratchId {
    return this.buffers[buffer.id]!;
  }

  #push(draft: Draft): void {
    const index = this.drafts.push(draft) - 1;
    for (const id of [...draft.reads, ...draft.writes]) {
      const object = this.objects[id]!;
      object.first = Math.min(object.first, index);
      object.last = index;
    }
    for (const id of draft.reads) this.objects[id]!.lastRead = index;
    for (const id of draft.writes) {
      this.objects[id]!.lastWrite = index;
      this.#quantized.delete(id);
    }
  }

  /** [rowsKind, rowWidth, third, experts per token]: how most kernels know their rows. */
  #rowFields(buffer: BufferRef, third = 0): number[] {
    return [ROWS[buffer.rows], buffer.width, third, this.#perToken];
  }

  /** The quantised form of x, computed now unless an earlier op did so since x was last written. */
  #quantize(x: BufferRef): ScratchId {
    const from = this.#of(x);
    const known = this.#quantized.get(from);
    if (known !== undefined) return known;
    const to = this.#object(this.#rows(x.rows) * this.kernels.quantizedRowBytes(x.width));
    const p = [scratch(from), scratch(to)];
    this.#push({ code: OP.QUANTIZE, i: this.#rowFields(x), f: [], p, reads: [from], writes: [to] });
    this.#quantized.set(from, to);
    return to;
  }

  /** The operands x and q of a matrix product, and which of them is read. Quantises x where that is wanted. */
  #factor(x: BufferRef, matrix: WeightRef): { p: [Operand, Operand]; read: ScratchId; type: number } {
    const type = this.weightTypes[matrix.id]!;
    const id = this.#of(x);
    if (!this.kernels.wantsQuantized(type)) return { p: [scratch(id), NONE], read: id, type };
    const quantized = this.#quantize(x);
    return { p: [scratch(id), scratch(quantized)], read: quantized, type };
  }

  #routeOf(route: RouteRef): { ids: ScratchId; weights: ScratchId; lists: ScratchId } {
    return this.#routes[route.id]!;
  }

  #translate(op: Op): Draft[] {
    switch (op.op) {
      case "embed": {
        const out = this.#of(op.out);
        const i = [op.weight.columns, this.weightTypes[op.weight.id]!];
        return [
          {
            code: OP.EMBED,
            i,
            f: [op.scale],
            p: [weight(op.weight), scratch(out)],
            reads: [],
            writes: [out],
          },
        ];
      }
      case "rmsNorm": {
        const [x, out] = [this.#of(op.x), this.#of(op.out)];
        const p = [scratch(x), vector(op.weight), scratch(out)];
        const i = this.#rowFields(op.x, op.width);
        return [{ code: OP.RMS_NORM, i, f: [op.epsilon], p, reads: [x], writes: [out] }];
      }
      case "matmul": {
        const out = this.#of(op.out);
        const factor = this.#factor(op.x, op.weight);
        const { columns, rows } = op.weight;
        return [
          {
            code: OP.MATMUL,
            i: [ROWS[op.x.rows], columns, rows, this.#perToken, factor.type, Number(op.accumulate)],
            f: [],
            p: [...factor.p, weight(op.weight), vector(op.bias), scratch(out)],
            reads: op.accumulate ? [factor.read, out] : [factor.read],
            writes: [out],
          },
        ];
      }
      case "lowRank": {
        const [x, out] = [this.#of(op.x), this.#of(op.out)];
        const rank = Math.max(...op.pairs.map((pair) => pair.rank));
        const projected = this.#object(this.#rows(op.x.rows) * rank * 4);
        const table: Operand = { kind: "lowRanks", id: this.lowRanks.push(op.pairs) - 1 };
        const fields = (width: number): number[] => [ROWS[op.x.rows], width, rank, tableLength(op.pairs)];
        return [
          {
            code: OP.LOW_RANK_DOWN,
            i: fields(op.x.width),
            f: [],
            p: [scratch(x), table, scratch(projected)],
            reads: [x],
            writes: [projected],
          },
          {
            code: OP.LOW_RANK_UP,
            i: fields(op.out.width),
            f: [],
            p: [scratch(projected), table, scratch(out)],
            reads: [projected, out],
            writes: [out],
          },
        ];
      }
      case "rope": {
        const x = this.#of(op.x);
        const i = [op.x.width, op.headWidth, op.rope.frequencies.length, ROPE_STYLES[op.rope.style]];
        return [{ code: OP.ROPE, i, f: [], p: [scratch(x), ropeTable(op.rope)], reads: [x], writes: [x] }];
      }
      case "append": {
        const kv = this.tape.kv[op.layer]!;
        const [k, v] = [this.#of(op.k), this.#of(op.v)];
        const p = [scratch(k), scratch(v)];
        const i = [kv.numKvHeads, kv.headWidth, this.#firstHeads[op.layer]!];
        return [{ code: OP.APPEND, i, f: [], p, reads: [k, v], writes: [], writesPages: op.layer }];
      }
      case "attention": {
        const kv = this.tape.kv[op.layer]!;
        const [q, out] = [this.#of(op.q), this.#of(op.out)];
        const { maxTokens } = this.limits;
        const needs = attentionScratch({ ...kv, ...op, maxTokens, numThreads: this.numThreads });
        const [partials, threads] = [this.#object(needs.partialBytes), this.#object(needs.threadBytes)];
        const { rope } = op;
        const i = [op.numHeads, kv.numKvHeads, kv.headWidth, op.window ?? 0, rope?.frequencies.length ?? 0];
        i.push(rope ? ROPE_STYLES[rope.style] : 0, maxTokens, this.#firstHeads[op.layer]!);
        const p = [scratch(q), scratch(out), ropeTable(rope), scratch(partials), scratch(threads)];
        const common = {
          i,
          f: [op.scale, op.softcap],
          p,
          writes: [partials, threads, out],
          readsPages: op.layer,
        };
        // Each waits for the one before it: all work in the memory of their thread.
        return [
          { code: OP.CHOICE_SCORES, ...common, reads: [q] },
          { code: OP.CHOICE, ...common, reads: [q] },
          { code: OP.ATTENTION, ...common, reads: [q] },
          { code: OP.ATTENTION_MERGE, ...common, reads: [q, partials, out] },
        ];
      }
      case "glu": {
        const [gate, up, out] = [this.#of(op.gate), this.#of(op.up), this.#of(op.out)];
        const i = [...this.#rowFields(op.gate), ACTIVATIONS[op.activation]];
        const p = [scratch(gate), scratch(up), scratch(out)];
        return [{ code: OP.GLU, i, f: [], p, reads: [gate, up], writes: [out] }];
      }
      case "add": {
        const [x, out] = [this.#of(op.x), this.#of(op.out)];
        const p = [scratch(x), scratch(out)];
        return [{ code: OP.ADD, i: this.#rowFields(op.x), f: [], p, reads: [x, out], writes: [out] }];
      }
      case "select": {
        const [x, out] = [this.#of(op.x), this.#of(op.out)];
        return [
          {
            code: OP.SELECT,
            i: [op.x.width, ROWS[op.out.rows]],
            f: [],
            p: [scratch(x), scratch(out)],
            reads: [x],
            writes: [out],
          },
        ];
      }
      case "route": {
        const logits = this.#of(op.logits);
        const { ids, weights, lists } = this.#routeOf(op.route);
        const i = [op.route.experts, op.route.perToken, Number(op.normalize)];
        const p = [logits, ids, weights, lists].map(scratch);
        return [{ code: OP.ROUTE, i, f: [], p, reads: [logits], writes: [ids, weights, lists] }];
      }
      case "matmulExperts": {
        const out = this.#of(op.out);
        const factor = this.#factor(op.x, op.weight);
        const { ids, lists } = this.#routeOf(op.route);
        const { columns, rows, experts } = op.weight;
        return [
          {
            code: OP.MATMUL_EXPERTS,
            i: [ROWS[op.x.rows], columns, rows, op.route.perToken, factor.type, experts],
            f: [],
            p: [...factor.p, weight(op.weight), scratch(ids), scratch(out), scratch(lists)],
            reads: [factor.read, ids, lists],
            writes: [out],
          },
        ];
      }
      case "combine": {
        const [x, out] = [this.#of(op.x), this.#of(op.out)];
        const { weights } = this.#routeOf(op.route);
        const p = [scratch(x), scratch(weights), scratch(out)];
        const i = [op.x.width, op.route.perToken];
        return [{ code: OP.COMBINE, i, f: [], p, reads: [x, weights, out], writes: [out] }];
      }
      default:
        op satisfies never;
        throw new MillraceError("INTERNAL", "The tape holds an op that the kernels do not know.");
    }
  }
}

/**
 * Lowers a tape for `numThreads` threads.
 * Throws INVALID_ARGUMENT where the tape asks for something that the kernels do not do.
 */
export function lower(
  tape: Tape,
  limits: ProgramLimits,
  kernels: Kernels,
  weightTypes: WeightTypes,
  numThreads: number,
): Lowered {
  const drafting = new Drafting(tape, limits, kernels, weightTypes, numThreads);
  const { drafts, objects, buffers, lowRanks } = drafting;
  const isBuffer = new Set(buffers);
  const { keepBuffers = false } = limits;
  const kept = new Set(typeof keepBuffers === "boolean" ? [] : keepBuffers.map((id) => buffers[id]));
  const survives = objects.map(
    ({ lastRead, lastWrite }, id) =>
      keepBuffers === true || kept.has(id) || (isBuffer.has(id) && lastWrite >= lastRead),
  );
  const logits = buffers[tape.logits.id]!;
  survives[logits] = true;
  if (tape.states) survives[buffers[tape.states.id]!] = true;
  const lifetimes = objects.map(({ bytes, first, last }, id): Lifetime => {
    if (keepBuffers === true) return { bytes, first: 0, last: drafts.length };
    return { bytes: last < 0 ? 0 : bytes, first, last: survives[id] ? drafts.length : last };
  });
  const { offsets, bytes } = place(lifetimes);

  const range = (id: ScratchId): Range => ({ start: offsets[id]!, end: offsets[id]! + objects[id]!.bytes });
  const pages = (layer: number | undefined): Range[] =>
    layer === undefined ? [] : [{ start: bytes + layer, end: bytes + layer + 1 }];
  const accesses = drafts.map(
    ({ reads, writes, readsPages, writesPages }): Access => ({
      reads: [...reads.map(range), ...pages(readsPages)],
      writes: [...writes.map(range), ...pages(writesPages)],
    }),
  );
  const instructionsOf = (indexes: readonly number[]): Instruction[] => {
    const waits = barriers(indexes.map((index) => accesses[index]!));
    return indexes.map((index, k) => {
      const { code, i, f, p } = drafts[index]!;
      return { code, i, f, p, barrier: waits[k]! };
    });
  };
  const all = drafts.map((_, index) => index);
  const codeOf = (index: number): OpCode => drafts[index]!.code;
  const ofAdapters = (index: number) =>
    codeOf(index) === OP.LOW_RANK_DOWN || codeOf(index) === OP.LOW_RANK_UP;
  const ofChoices = (index: number) => codeOf(index) === OP.CHOICE_SCORES || codeOf(index) === OP.CHOICE;
  const without = (...kinds: readonly ((index: number) => boolean)[]) =>
    instructionsOf(all.filter((index) => !kinds.some((isOf) => isOf(index))));
  const instructions = without();
  return {
    instructions,
    variants: [without(ofAdapters, ofChoices), without(ofChoices), without(ofAdapters), instructions],
    accesses,
    scratchOffsets: offsets,
    scratchBytes: align(bytes),
    buffers: buffers.map((id) => ({ offset: offsets[id]!, survives: survives[id]! })),
    lowRanks,
  };
}

/** Where everything that records point to lies. */
export interface Addresses {
  readonly scratch: number;
  readonly weights: readonly number[];
  readonly vectors: readonly number[];
  readonly ropes: readonly number[];
  readonly lowRanks: readonly number[];
}

function resolve(operand: Operand, lowered: Lowered, at: Addresses): number {
  switch (operand.kind) {
    case "none":
      return 0;
    case "scratch":
      return at.scratch + lowered.scratchOffsets[operand.id]!;
    case "weight":
      return at.weights[operand.id]!;
    case "vector":
      return at.vectors[operand.id]!;
    case "rope":
      return at.ropes[operand.id]!;
    case "lowRanks":
      return at.lowRanks[operand.id]!;
  }
}

/** Writes instructions of `lowered` as `Op` structs, OP_RECORD.bytes each, into `out`. */
export function encode(
  lowered: Lowered,
  at: Addresses,
  out: Uint8Array,
  instructions: readonly Instruction[] = lowered.instructions,
): void {
  const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
  instructions.forEach(({ code, barrier, i, f, p }, index) => {
    if (i.length > OP_RECORD.numI || f.length > OP_RECORD.numF || p.length > OP_RECORD.numP) {
      throw new MillraceError("INTERNAL", `Op ${code} has more fields than a record.`, { code });
    }
    const base = index * OP_RECORD.bytes;
    out.fill(0, base, base + OP_RECORD.bytes);
    view.setInt32(base + OP_RECORD.code, code, true);
    view.setInt32(base + OP_RECORD.barrier, Number(barrier), true);
    i.forEach((value, k) => {
      view.setInt32(base + OP_RECORD.i + 4 * k, value, true);
    });
    f.forEach((value, k) => {
      view.setFloat32(base + OP_RECORD.f + 4 * k, value, true);
    });
    p.forEach((operand, k) => {
      view.setBigUint64(base + OP_RECORD.p + 8 * k, BigInt(resolve(operand, lowered, at)), true);
    });
  });
}
