import { codecs } from "../../cache/codecs/index.js";
import type { RopeRef, Tape } from "../../tape/tape.js";
import { choiceScratch } from "../choice-scratch.js";
import type { KvChoice, KvLayout, KvPages, KvView, ProgramLimits, Region, Span, Step } from "../contract.js";
import { GUMBEL_QUANTILES, gumbelQuantiles } from "../gumbel.js";
import { fillRopeTable, ropeTableLength } from "../rope-table.js";
import { align, CHOICE, Offsets, putAddress, SPAN, STEP, VIEW } from "./abi.js";
import { LaneTables } from "./lane-tables.js";
import type { Machine } from "./machine.js";

/** Segment rotations that tables have room for before they are made anew. */
const FIRST_ROTATIONS = 64;
/** Bytes for spans, views, slots and tables of lanes before they are made anew; about thirty sequences. */
const FIRST_TABLES = 12288;

/** Words are taken in pairs, so that addresses lie on multiples of their size. */
const even = (words: number): number => words + (words & 1);

/** Offsets in the step's region of what has a fixed size. */
interface StepLayout {
  readonly tokens: number;
  readonly positions: number;
  readonly outputs: number;
  readonly states: number;
  readonly tokenSpan: number;
  readonly gumbel: number;
  readonly bytes: number;
}

function layoutOf({ maxTokens, maxOutputs, maxStates = 0 }: ProgramLimits): StepLayout {
  const offsets = new Offsets(STEP.words * 4);
  return {
    tokens: offsets.take(maxTokens * 4),
    positions: offsets.take(maxTokens * 4),
    outputs: offsets.take(maxOutputs * 4),
    states: offsets.take(maxStates * 4),
    tokenSpan: offsets.take(maxTokens * 4),
    gumbel: offsets.take(GUMBEL_QUANTILES * 4),
    bytes: offsets.bytes,
  };
}

/** Where arrays of struct Choice begin in the memory for scores, in floats, and which positions they are for. */
interface ScorePlace {
  readonly scores: number;
  readonly ends: number;
  readonly worth: number;
  readonly firstPosition: number;
  readonly positions: number;
}

const ropeBytes = (rope: RopeRef, maxTokens: number, rotations: number): number =>
  align(ropeTableLength(rope, maxTokens, rotations) * 4);

/** Bytes that a writer of these limits takes before any step asks for more. */
export const stepBytes = (tape: Tape, limits: ProgramLimits): number =>
  layoutOf(limits).bytes +
  FIRST_TABLES +
  tape.ropes.reduce((sum, rope) => sum + ropeBytes(rope, limits.maxTokens, FIRST_ROTATIONS), 0);

/** Writes steps as the structs that kernels read. One step at a time; regions are reused from step to step. */
export class StepWriter {
  readonly #machine: Machine;
  readonly #tape: Tape;
  readonly #limits: ProgramLimits;
  readonly #layout: StepLayout;
  readonly #lanes: LaneTables;
  readonly #region: Region;
  #tables: Region;
  /** What queries score that choose; none until a step has some. */
  #scores: Region | null = null;
  #ropes: Region[];
  #maxRotations = FIRST_ROTATIONS;

  constructor(machine: Machine, tape: Tape, limits: ProgramLimits) {
    this.#machine = machine;
    this.#tape = tape;
    this.#limits = limits;
    this.#layout = layoutOf(limits);
    this.#lanes = new LaneTables(tape);
    this.#region = machine.allocate(this.#layout.bytes);
    this.#tables = machine.allocate(FIRST_TABLES);
    this.#ropes = this.#allocateRopes();
    this.#region.float32(this.#layout.gumbel, GUMBEL_QUANTILES).set(gumbelQuantiles());
  }

  /** Address of the `Step` struct. */
  get address(): number {
    return this.#region.address;
  }

  /** Addresses of the rope tables; they move where `write` returns true. */
  get ropeAddresses(): number[] {
    return this.#ropes.map((region) => region.address);
  }

  /** Writes a checked step. True where the rope tables have moved. */
  write(step: Step): boolean {
    const moved = step.rotations.length > this.#maxRotations;
    if (moved) this.#growRopes(step.rotations.length);
    this.#tape.ropes.forEach((rope, id) => {
      const length = ropeTableLength(rope, step.positions.length, step.rotations.length);
      fillRopeTable(rope, step.positions, step.rotations, this.#ropes[id]!.float32(0, length));
    });
    this.#growTables(step);
    this.#writeTables(step, this.#placeScores(step));
    this.#writeStep(step);
    return moved;
  }

  free(): void {
    for (const region of [this.#region, this.#tables, ...this.#ropes]) region.free();
    this.#scores?.free();
  }

  #allocateRopes(): Region[] {
    return this.#tape.ropes.map((rope) =>
      this.#machine.allocate(ropeBytes(rope, this.#limits.maxTokens, this.#maxRotations)),
    );
  }

  #growRopes(numRotations: number): void {
    this.#maxRotations = Math.max(numRotations, 2 * this.#maxRotations);
    const old = this.#ropes;
    this.#ropes = this.#allocateRopes();
    for (const region of old) region.free();
  }

  /** Where a span's pages lie, how they are cut, and where among `slots` those of its tokens begin. */
  #pagesOf(step: Step, { start, pages }: Span): { readonly pages: KvPages; readonly first: number } {
    if (pages) return { pages, first: 0 };
    return { pages: { kv: this.#limits.kv, arena: step.arena, slots: step.slots }, first: start };
  }

  #growTables(step: Step): void {
    const layouts = new Set<KvLayout>();
    let words = 0;
    for (const span of step.spans) {
      layouts.add(span.pages?.kv ?? this.#limits.kv);
      words += SPAN.words + span.views.length * (4 + even(span.count));
      for (const view of span.views) {
        for (let link: KvView | null = view; link; link = link.next) words += VIEW.words;
        if (view.choice) words += even(CHOICE.words);
      }
    }
    for (const layout of layouts) words += this.#lanes.of(layout).length;
    if (4 * words <= this.#tables.byteLength) return;
    const grown = this.#machine.allocate(Math.max(4 * words, 2 * this.#tables.byteLength));
    this.#tables.free();
    this.#tables = grown;
  }

  /**
   * Addresses of the memory for scores, by the view whose queries choose. Layers follow each other, so all use the same.
   */
  #placeScores(step: Step): ReadonlyMap<KvView, ScorePlace> {
    const places = new Map<KvView, ScorePlace>();
    const used = new Map<number, number>();
    for (const span of step.spans) {
      for (const [g, view] of span.views.entries()) {
        if (!view.choice) continue;
        const { lanes } = (span.pages?.kv ?? this.#limits.kv).groups[g]!;
        const { layer } = lanes[0]!;
        const { numHeads, numKvHeads, window } = this.#tape.kv[layer]!;
        const [first, last] = [step.positions[span.start]!, step.positions[span.start + span.count - 1]!];
        const firstPosition = window === null ? 0 : Math.max(0, first - window + 1);
        const positions = last + 1 - firstPosition;
        const queryHeads = (numHeads ?? numKvHeads) / numKvHeads;
        const slots = view.numPages * view.pageTokens;
        const { scores, ends, worth, length } = choiceScratch({
          lanes: lanes.length,
          queryHeads,
          tokens: span.count,
          slots,
          positions,
        });
        const at = used.get(layer) ?? 0;
        used.set(layer, at + length);
        places.set(view, {
          scores: at + scores,
          ends: at + ends,
          worth: at + worth,
          firstPosition,
          positions,
        });
      }
    }
    const bytes = 4 * Math.max(0, ...used.values());
    if (bytes > (this.#scores?.byteLength ?? 0)) {
      const grown = this.#machine.allocate(bytes);
      this.#scores?.free();
      this.#scores = grown;
    }
    return places;
  }

  #putChoice(words: Int32Array, at: number, { rule, shown, chooser }: KvChoice, place: ScorePlace): void {
    const base = this.#scores!.address;
    putAddress(words, at + CHOICE.shown, shown.address);
    putAddress(words, at + CHOICE.chooser, chooser.address);
    for (const array of ["scores", "ends", "worth"] as const)
      putAddress(words, at + CHOICE[array], base + 4 * place[array]);
    words[at + CHOICE.firstPosition] = place.firstPosition;
    words[at + CHOICE.numPositions] = place.positions;
    for (const field of ["tokens", "first", "newest", "stride", "every", "reach"] as const)
      words[at + CHOICE[field]] = rule[field];
    words[at + CHOICE.wholly] = Number(rule.wholly);
    new Float32Array(words.buffer, words.byteOffset)[at + CHOICE.similar] = rule.similar;
  }

  /** Spans first; then, as they come up, pointers to their groups' views and slots, these, and tables of lanes. */
  #writeTables(step: Step, scores: ReadonlyMap<KvView, ScorePlace>): void {
    const base = this.#tables.address;
    const words = this.#tables.int32(0, this.#tables.byteLength >> 2);
    const floats = this.#tables.float32(0, this.#tables.byteLength >> 2);
    let end = step.spans.length * SPAN.words;
    const take = (length: number): number => {
      const at = end;
      end += even(length);
      return at;
    };
    const laneTables = new Map<KvLayout, number>();
    const lanesOf = (layout: KvLayout): number => {
      let at = laneTables.get(layout);
      if (at === undefined) {
        const table = this.#lanes.of(layout);
        at = take(table.length);
        words.set(table, at);
        laneTables.set(layout, at);
      }
      return at;
    };
    /** Writes a chain of views, the first with its choice; where it lies. */
    const writeViews = (first: KvView): number => {
      const at = end;
      for (let view: KvView | null = first; view; view = view.next) {
        const viewAt = take(VIEW.words);
        const { choice = null } = view === first ? view : {};
        const choiceAt = choice ? take(CHOICE.words) : 0;
        const { address } = view.region;
        putAddress(words, viewAt + VIEW.pageIds, address + view.pageIdsAt);
        putAddress(words, viewAt + VIEW.positions, address + view.positionsAt);
        putAddress(words, viewAt + VIEW.rotations, address + view.rotationsAt);
        putAddress(words, viewAt + VIEW.mass, view.mass?.region.address ?? 0);
        putAddress(words, viewAt + VIEW.logCounts, view.logCounts?.address ?? 0);
        const thinAt = view.thin?.region.address ?? 0;
        putAddress(words, viewAt + VIEW.thinRows, view.thin ? thinAt + view.thin.rowsAt : 0);
        putAddress(words, viewAt + VIEW.thinElements, view.thin ? thinAt + view.thin.elementsAt : 0);
        putAddress(words, viewAt + VIEW.queries, view.queries?.region.address ?? 0);
        if (choice) this.#putChoice(words, choiceAt, choice, scores.get(view)!);
        putAddress(words, viewAt + VIEW.choice, choice ? base + choiceAt * 4 : 0);
        putAddress(words, viewAt + VIEW.next, view.next ? base + end * 4 : 0);
        words[viewAt + VIEW.numPages] = view.numPages;
        words[viewAt + VIEW.lanes] = view.lanes;
        words[viewAt + VIEW.pageTokens] = view.pageTokens;
        words[viewAt + VIEW.codec] = codecs[view.codec].id;
        words[viewAt + VIEW.massFrom] = view.mass?.from ?? 0;
        words[viewAt + VIEW.seed] = view.mass?.tempered?.seed ?? 0;
        floats[viewAt + VIEW.sharpness] = 1 / (view.mass?.tempered?.temperature ?? 1);
        floats[viewAt + VIEW.noise] = view.mass?.tempered?.noise ?? 0;
        words[viewAt + VIEW.queriesFrom] = view.queries?.from ?? 0;
        words[viewAt + VIEW.thinWidth] = view.thin?.width ?? 0;
      }
      return at;
    };
    for (const [index, span] of step.spans.entries()) {
      const { start, count, views, adapter } = span;
      const { pages, first } = this.#pagesOf(step, span);
      const at = index * SPAN.words;
      const viewsAt = take(2 * views.length);
      const slotsAt = take(2 * views.length);
      words[at + SPAN.start] = start;
      words[at + SPAN.count] = count;
      words[at + SPAN.adapter] = adapter ?? -1;
      putAddress(words, at + SPAN.views, base + viewsAt * 4);
      putAddress(words, at + SPAN.slots, base + slotsAt * 4);
      putAddress(words, at + SPAN.lanes, base + lanesOf(pages.kv) * 4);
      putAddress(words, at + SPAN.arena, pages.arena.address);
      putAddress(words, at + SPAN.pageBytes, pages.kv.pageBytes);
      for (const [group, view] of views.entries()) {
        putAddress(words, viewsAt + 2 * group, base + writeViews(view) * 4);
        const slots = take(count);
        words.set(pages.slots[group]!.subarray(first, first + count), slots);
        putAddress(words, slotsAt + 2 * group, base + slots * 4);
      }
    }
  }

  #writeStep(step: Step): void {
    const at = this.#layout;
    const { address } = this.#region;
    const words = this.#region.int32(0, at.bytes >> 2);
    const numTokens = step.tokens.length;
    words[STEP.numTokens] = numTokens;
    words[STEP.numOutputs] = step.outputs.length;
    words[STEP.numSpans] = step.spans.length;
    words[STEP.numRotations] = step.rotations.length;
    words[STEP.numStates] = step.states?.length ?? 0;
    putAddress(words, STEP.tokens, address + at.tokens);
    putAddress(words, STEP.positions, address + at.positions);
    putAddress(words, STEP.outputs, address + at.outputs);
    putAddress(words, STEP.states, address + at.states);
    putAddress(words, STEP.spans, this.#tables.address);
    putAddress(words, STEP.tokenSpan, address + at.tokenSpan);
    putAddress(words, STEP.gumbel, address + at.gumbel);
    words.set(step.tokens, at.tokens >> 2);
    words.set(step.positions, at.positions >> 2);
    words.set(step.outputs, at.outputs >> 2);
    if (step.states) words.set(step.states, at.states >> 2);
    step.spans.forEach(({ start, count }, span) => {
      words.fill(span, (at.tokenSpan >> 2) + start, (at.tokenSpan >> 2) + start + count);
    });
  }
}
