/**
 * The checks that every backend makes before it computes. They cost a few comparisons per token; page numbers are
 * the cache's word and are checked by the reference backend only.
 */

import { GROUP } from "../cache/codecs/contract.js";
import { codecs } from "../cache/codecs/index.js";
import { MillraceError } from "../errors.js";
import type { RowKind, Tape } from "../tape/tape.js";
import { MOST_CHOOSERS, type ProgramLimits, type Step } from "./contract.js";

function refuse(got: string, expected: string): never {
  throw new MillraceError("INVALID_ARGUMENT", `Got ${got}; expected ${expected}.`, { got, expected });
}

function require(condition: boolean, got: string, expected: string): asserts condition {
  if (!condition) refuse(got, expected);
}

const isCount = (value: number, least = 0): boolean => Number.isInteger(value) && value >= least;

/**
 * Checks that the limits can hold the tape: whole counts, pages that fit their codec, each lane of the tape in
 * exactly one group of its head width. Throws INVALID_ARGUMENT.
 */
export function checkLimits(tape: Tape, { maxTokens, maxOutputs, maxStates = 0, kv }: ProgramLimits): void {
  require(isCount(maxTokens, 1), `maxTokens ${maxTokens}`, "a whole number from 1");
  require(isCount(maxOutputs, 1), `maxOutputs ${maxOutputs}`, "a whole number from 1");
  require(isCount(maxStates), `maxStates ${maxStates}`, "a whole number");
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
  const perToken = new Set(tape.routes.map((route) => route.perToken));
  require(perToken.size <= 1, `routes of ${[...perToken].join(" and ")} experts per token`, "one number");
}

/**
 * Checks a step against the program's limits: lengths, outputs, states, spans that cover the tokens in order, views and
 * slots. Throws INVALID_ARGUMENT; INVALID_TOKEN for an id outside `vocabularySize`.
 */
export function checkStep(step: Step, limits: ProgramLimits, vocabularySize: number): void {
  const { states = NO_STATES } = step;
  const { maxStates = 0 } = limits;
  const numTokens = step.tokens.length;
  const numGroups = limits.kv.groups.length;
  require(numTokens <= limits.maxTokens, `${numTokens} tokens`, `at most ${limits.maxTokens}`);
  require(step.positions.length === numTokens, `${step.positions.length} positions`, `${numTokens}`);
  require(step.outputs.length <=
    limits.maxOutputs, `${step.outputs.length} outputs`, `at most ${limits.maxOutputs}`);
  require(states.length <= maxStates, `${states.length} states`, `at most ${maxStates}`);
  require(step.slots.length === numGroups, `slots of ${step.slots.length} groups`, `${numGroups}`);
  for (let t = 0; t < numTokens; t++) {
    const token = step.tokens[t]!;
    if (!(token >= 0 && token < vocabularySize)) {
      throw new MillraceError(
        "INVALID_TOKEN",
        `Token id ${token}; ids run from 0 to ${vocabularySize - 1}.`,
        { token },
      );
    }
    if (!(step.positions[t]! >= 0)) refuse(`position ${step.positions[t]}`, "0 or more");
  }
  checkRows("output", step.outputs, numTokens);
  checkRows("state", states, numTokens);
  let next = 0;
  for (const span of step.spans) {
    require(span.start === next && isCount(span.count), `a span at ${span.start}`, `one at ${next}: no gaps`);
    next = span.start + span.count;
    require(next <= numTokens, `a span that ends at ${next}`, `at most ${numTokens}`);
    require(span.views.length === numGroups, `${span.views.length} views`, `${numGroups}, one per group`);
    for (let g = 0; g < numGroups; g++) {
      const view = span.views[g]!;
      const slots = step.slots[g]!;
      require(!view.choice ||
        span.count <=
          MOST_CHOOSERS, `a span of ${span.count} tokens that choose`, `at most ${MOST_CHOOSERS}`);
      require(slots.length === numTokens, `${slots.length} slots`, `${numTokens}`);
      for (let link: typeof view | null = view; link; link = link.next) {
        const { lanes, headWidth } = limits.kv.groups[g]!;
        require(link.lanes === lanes.length, `a view of ${link.lanes} lanes`, `${lanes.length}`);
        const keyWidth = link.thin?.width ?? headWidth;
        require(isCount(keyWidth, 1) &&
          keyWidth <= headWidth, `keys of ${keyWidth} elements`, `1 to ${headWidth}`);
        const bytes = (link.pageTokens / GROUP) * codecs[link.codec].groupBytes(headWidth, keyWidth);
        require(bytes <= limits.kv.pageBytes, `pages of ${bytes} bytes`, `at most ${limits.kv.pageBytes}`);
      }
      const numSlots = view.numPages * view.pageTokens;
      for (let t = span.start; t < next; t++) {
        const slot = slots[t]!;
        if (!(slot >= 0 && slot < numSlots))
          refuse(`slot ${slot}`, `one of the ${numSlots} of its first view`);
      }
    }
  }
  require(next === numTokens, `spans over ${next} tokens`, `${numTokens}`);
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
export function vocabularyOf(tape: Tape): number {
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
