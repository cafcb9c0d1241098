import type { ChoiceRule, KvChoice, Span } from "../contract.js";
import { rotateBack } from "./rotate.js";
import { findLane, pagesOf, type Run } from "./state.js";
import { gather, isSeen, type OpOf, type Stored, scoresOf, shownOf, softmax } from "./stored.js";

type Attention = OpOf<"attention">;

/** A lane of the layer that is attended to. */
interface Head {
  readonly head: number;
  readonly lane: number;
}

/** Has the queries of a span choose what they attend to, in every group of the layer where they may. */
export function choose(run: Run, op: Attention, span: Span): void {
  const groups = new Map<number, Head[]>();
  const { kv } = pagesOf(run, span);
  for (let head = 0; head < run.tape.kv[op.layer]!.numKvHeads; head++) {
    const { group, lane } = findLane(kv, op.layer, head);
    if (span.views[group]!.choice) groups.set(group, [...(groups.get(group) ?? []), { head, lane }]);
  }
  for (const [group, heads] of groups) chooseIn(run, op, span, group, heads, span.views[group]!.choice!);
}

function chooseIn(
  run: Run,
  op: Attention,
  span: Span,
  group: number,
  heads: readonly Head[],
  { rule, chooser }: KvChoice,
): void {
  const view = span.views[group]!;
  const { headWidth: width } = run.tape.kv[op.layer]!;
  const slots = view.region.int32(view.positionsAt, view.numPages * view.pageTokens);
  const shown = shownOf(view)!;
  const at = chooser.int32(0, 1);
  const last = chooser.float32(4, view.lanes * width);
  const stored = heads.map(({ lane }) => gather(pagesOf(run, span), span, group, lane, false));
  const isOwn = new Set([...slots.keys()].filter((slot) => slots[slot]! >= 0));
  for (const slot of slots.keys()) shown[slot]! &= 1 << 31;
  for (let t = span.start; t < span.start + span.count; t++) {
    const position = run.step.positions[t]!;
    const bit = 1 << (t - span.start);
    const query = queryOf(run, op, t, heads, view.lanes);
    const chooses =
      isDue(rule, position, at[0]!) || (position % rule.every === 0 && !isLike(rule, query, last));
    if (chooses) {
      const chosen = chosenOf(rule, position, worthOf(run, op, t, heads, stored));
      for (const slot of isOwn) {
        const isChosen = chosen.has(slots[slot]!);
        shown[slot] = (shown[slot]! & ~(1 << 31)) | (isChosen ? 1 << 31 : 0);
        if (isChosen || rule.wholly) shown[slot]! |= bit;
      }
      at[0] = position;
      last.set(query);
      continue;
    }
    for (const slot of isOwn) if (shown[slot]! < 0 || slots[slot]! > at[0]!) shown[slot]! |= bit;
  }
}

const isDue = ({ stride }: ChoiceRule, position: number, last: number): boolean =>
  last < 0 || last > position || position - last >= stride;

/** The mean of each lane's query heads as they were before they were rotated, [lanes, D]; in f32, head after head. */
function queryOf(run: Run, op: Attention, t: number, heads: readonly Head[], lanes: number): Float32Array {
  const { numKvHeads, headWidth: width } = run.tape.kv[op.layer]!;
  const perKvHead = op.numHeads / numKvHeads;
  const queries = run.buffers[op.q.id]!;
  const mean = new Float32Array(lanes * width);
  for (const { head, lane } of heads) {
    for (let h = head * perKvHead; h < (head + 1) * perKvHead; h++) {
      for (let i = 0; i < width; i++)
        mean[lane * width + i]! += queries[(t * op.numHeads + h) * width + i]! / perKvHead;
    }
    if (op.rope) rotateBack(mean, lane * width, op.rope, run.ropes[op.rope.id]!, t);
  }
  return mean;
}

function isLike({ similar }: ChoiceRule, a: Float32Array, b: Float32Array): boolean {
  const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, value, i) => sum + value * y[i]!, 0);
  return dot(a, b) >= similar * Math.sqrt(dot(a, a) * dot(b, b));
}

/** What the tokens that one query sees are worth to it, by position. */
function worthOf(
  run: Run,
  op: Attention,
  t: number,
  heads: readonly Head[],
  stored: readonly (readonly Stored[])[],
): Map<number, number> {
  const perKvHead = op.numHeads / run.tape.kv[op.layer]!.numKvHeads;
  const worth = new Map<number, number>();
  for (const [i, { head }] of heads.entries()) {
    const seen = stored[i]!.filter(({ position }) => isSeen(position, run.step.positions[t]!, op.window));
    for (let h = head * perKvHead; h < (head + 1) * perKvHead; h++) {
      const probabilities = softmax(scoresOf(run, op, t, h, seen));
      for (const [s, { position }] of seen.entries())
        worth.set(position, (worth.get(position) ?? 0) + probabilities[s]!);
    }
  }
  return worth;
}

/** Positions of the tokens that a query at `position` chooses. */
function chosenOf(rule: ChoiceRule, position: number, worth: ReadonlyMap<number, number>): Set<number> {
  const { tokens, first, newest, reach } = rule;
  const value = (at: number): number => {
    if (at < first || at > position - newest) return Number.POSITIVE_INFINITY;
    let most = 0;
    for (let near = at - reach; near <= at + reach; near++) most = Math.max(most, worth.get(near) ?? 0);
    return most;
  };
  const ranked = [...worth.keys()].sort((a, b) => b - a).map((at) => ({ at, value: value(at) }));
  // Sorting is stable: of equals the newer come first.
  ranked.sort((a, b) => (a.value === b.value ? 0 : b.value - a.value));
  return new Set(ranked.slice(0, tokens).map(({ at }) => at));
}
