/**
 * The checks that every backend makes before it computes. They cost a few comparisons per token; page numbers are
 * the cache's word and are checked by the reference backend only.
 */

import { GROUP } from "../cache/codecs/contract.js";
import { codecs } from "../cache/codecs/index.js";
import { MillraceError } from "../errors.js";
import type { RowKind, Tape } from "../tape/tape.js";
import { type KvLayout, MOST_CHOOSERS, type ProgramLimits, type Span, type Step } from "./contract.js";

function refuse(got: string, expected: string): never {
  throw new MillraceError("INVALID_ARGUMENT", `Got ${got}; expected ${expected}.`, { got, expected });
}

function require(condition: boolean, got: string, expected: string): asserts condition {
  if (!condition) refuse(got, expected);
}

const isCount = (value: number, least = 0): boolean => Number.isInteger(value) && value >= least;

/**
 * Checks that a layout can hold the tape's cache: pages that fit their codec, each lane of the tape in exactly one group
 * of its head width. Throws INVALID_ARGUMENT.
 */
function checkLayout(tape: Tape, kv: KvLayout): void {
  require(isCount(kv.pageBytes) &&
    kv.pageBytes % 64 === 0, `pages of ${kv.pageBytes} bytes`, "a multiple of 64");
  const lanes = new Set<string>();
  for (const group of kv.groups) {
    const { pageTokens, headWidth, codec } = group;
    require(isCount(pageTokens, 1) &&
      pageTokens % GROUP === 0, `${pageTokens} tokens a page`, `a multiple of ${GROUP}`);
    const bytes = (pageTokens / GROUP) * codecs[codec].groupBytes(headWidth);
    require(bytes <=
      kv.pageBytes, `pages of ${kv.pageBytes} bytes`, `${bytes} for ${pageTokens} tokens of ${codec}`);
    const layers = new Set(group.lanes.map(({ layer }) => layer));
    require(!group.chooses ||
      layers.size === 1, `a group of ${layers.size} layers whose queries choose`, "one layer");
    for (const { layer, head } of group.lanes) {
      const spec = tape.kv[layer];
      require(spec !== undefined, `a lane of layer ${layer}`, `one of ${tape.kv.length} layers`);
      require(isCount(head) && head < spec.numKvHeads, `lane of head ${head}`, `one of ${spec.numKvHeads}`);
      require(headWidth === spec.headWidth, `a group of head width ${headWidth}`, `${spec.headWidth}`);
      require(!lanes.has(`${layer}.${head}`), `layer ${layer} head ${head} twice`, "each lane in one group");
      lanes.add(`${layer}.${head}`);
    }
  }
  for (const { layer, numKvHeads } of tape.kv) {
    for (let head = 0; head < numKvHeads; head++) {
      require(lanes.has(
        `${layer}.${head}`,
      ), `no group with layer ${layer} head ${head}`, "every lane in one");
    }
  }
}

/** Checks the steps of one program. */
export class StepCheck {
  readonly #tape: Tape;
  readonly #limits: ProgramLimits;
  readonly #vocabularySize: number;
  /** Layouts that were found to hold the tape's cache. */
  readonly #layouts = new WeakSet<KvLayout>();

  /** Throws INVALID_ARGUMENT for limits that are no whole counts, and a layout that does not hold the tape's cache. */
  constructor(tape: Tape, limits: ProgramLimits) {
    const { maxTokens, maxOutputs, maxStates = 0, kv } = limits;
    require(isCount(maxTokens, 1), `maxTokens ${maxTokens}`, "a whole number from 1");
    require(isCount(maxOutputs, 1), `maxOutputs ${maxOutputs}`, "a whole number from 1");
    require(isCount(maxStates), `maxStates ${maxStates}`, "a whole number");
    const perToken = new Set(tape.routes.map((route) => route.perToken));
    require(perToken.size <= 1, `routes of ${[...perToken].join(" and ")} experts per token`, "one number");
    this.#tape = tape;
    this.#limits = limits;
    this.#vocabularySize = vocabularyOf(tape);
    this.#checkLayout(kv);
  }

  /**
   * Checks a step against the limits: lengths, outputs, states, spans that cover the tokens in order, views and slots.
   * Throws INVALID_ARGUMENT; INVALID_TOKEN for an id outside the vocabulary.
   */
  check(step: Step): void {
    const { maxTokens, maxOutputs, maxStates = 0, kv } = this.#limits;
    const { states = NO_STATES } = step;
    const numTokens = step.tokens.length;
    require(numTokens <= maxTokens, `${numTokens} tokens`, `at most ${maxTokens}`);
    require(step.positions.length === numTokens, `${step.positions.length} positions`, `${numTokens}`);
    require(step.outputs.length <= maxOutputs, `${step.outputs.length} outputs`, `at most ${maxOutputs}`);
    require(states.length <= maxStates, `${states.length} states`, `at most ${maxStates}`);
    this.#checkTokens(step);
    checkRows("output", step.outputs, numTokens);
    checkRows("state", states, numTokens);
    let next = 0;
    for (const span of step.spans) {
      const { start, count, pages } = span;
      require(start === next && isCount(count), `a span at ${start}`, `one at ${next}: no gaps`);
      next += count;
      require(next <= numTokens, `a span that ends at ${next}`, `at most ${numTokens}`);
      if (pages) {
        this.#checkLayout(pages.kv);
        checkSpan(span, pages.kv, pages.slots, 0, count);
      } else checkSpan(span, kv, step.slots, start, numTokens);
    }
    require(next === numTokens, `spans over ${next} tokens`, `${numTokens}`);
  }

  #checkLayout(kv: KvLayout): void {
    if (this.#layouts.has(kv)) return;
    checkLayout(this.#tape, kv);
    this.#layouts.add(kv);
  }

  #checkTokens({ tokens, positions }: Step): void {
    for (let t = 0; t < tokens.length; t++) {
      const token = tokens[t]!;
      if (!(token >= 0 && token < this.#vocabularySize)) {
        throw new MillraceError(
          "INVALID_TOKEN",
          `Token id ${token}; ids run from 0 to ${this.#vocabularySize - 1}.`,
          { token },
        );
      }
      if (!(positions[t]! >= 0)) refuse(`position ${positions[t]}`, "0 or more");
    }
  }
}

/** Checks a span's views and slots; those of its tokens begin at `first` of `numSlots` in each group. */
function checkSpan(
  { count, views }: Span,
  kv: KvLayout,
  slotsOf: readonly Int32Array[],
  first: number,
  numSlots: number,
): void {
  const numGroups = kv.groups.length;
  require(views.length === numGroups, `${views.length} views`, `${numGroups}, one per group`);
  require(slotsOf.length === numGroups, `slots of ${slotsOf.length} groups`, `${numGroups}`);
  for (let g = 0; g < numGroups; g++) {
    const view = views[g]!;
    const slots = slotsOf[g]!;
    require(slots.length === numSlots, `${slots.length} slots`, `${numSlots}`);
    require(!view.choice ||
      count <= MOST_CHOOSERS, `a span of ${count} tokens that choose`, `at most ${MOST_CHOOSERS}`);
    for (let link: typeof view | null = view; link; link = link.next) {
      const { lanes, headWidth } = kv.groups[g]!;
      require(link.lanes === lanes.length, `a view of ${link.lanes} lanes`, `${lanes.length}`);
      const keyWidth = link.thin?.width ?? headWidth;
      require(isCount(keyWidth, 1) &&
        keyWidth <= headWidth, `keys of ${keyWidth} elements`, `1 to ${headWidth}`);
      const bytes = (link.pageTokens / GROUP) * codecs[link.codec].groupBytes(headWidth, keyWidth);
      require(bytes <= kv.pageBytes, `pages of ${bytes} bytes`, `at most ${kv.pageBytes}`);
    }
    const held = view.numPages * view.pageTokens;
    for (let t = first; t < first + count; t++) {
      const slot = slots[t]!;
      if (!(slot >= 0 && slot < held)) refuse(`slot ${slot}`, `one of the ${held} of its first view`);
    }
  }
}

const NO_STATES = new Int32Array();

function checkRows(name: string, rows: Int32Array, numTokens: number): void {
  let previous = -1;
  for (const row of rows) {
    if (!(row > previous && row < numTokens))
      refuse(`${name} ${row} after ${previous}`, `ascending, below ${numTokens}`);
    previous = row;
  }
}

/** Ids that a tape's tokens may have: the rows of its smallest embedding. */
function vocabularyOf(tape: Tape): number {
  let rows = Number.POSITIVE_INFINITY;
  for (const op of tape.ops) if (op.op === "embed") rows = Math.min(rows, op.weight.rows);
  return rows;
}

/** Rows of a step, or the most that a step may have. */
export interface RowCounts {
  readonly tokens: number;
  readonly outputs: number;
  readonly states: number;
}

export const NO_ROWS: RowCounts = { tokens: 0, outputs: 0, states: 0 };

export const rowsOfStep = ({ tokens, outputs, states }: Step): RowCounts => ({
  tokens: tokens.length,
  outputs: outputs.length,
  states: states?.length ?? 0,
});

export const mostRows = ({
  maxTokens,
  maxOutputs,
  maxStates = 0,
}: Pick<ProgramLimits, "maxTokens" | "maxOutputs" | "maxStates">): RowCounts => ({
  tokens: maxTokens,
  outputs: maxOutputs,
  states: maxStates,
});

/** Rows of a buffer of this kind. */
export const rowsOf = (tape: Tape, kind: RowKind, counts: RowCounts): number =>
  kind === "routes" ? counts.tokens * (tape.routes[0]?.perToken ?? 1) : counts[kind];
