import { expect } from "vitest";
import type { ChoiceRule, KvView } from "../../src/backends/contract.js";
import type { BufferRef } from "../../src/tape/tape.js";
import { TestRandom } from "../support/random.js";
import { expectClose } from "./compare.js";
import { type KvShape, kvBatch } from "./kv.js";
import { frequencies, HEAD_WIDTHS } from "./rope.js";
import { type Batch, Scene, type Stage, type Table } from "./scene.js";
import { EPSILON, type Suite } from "./suite.js";

export interface AttentionCase extends KvShape {
  readonly queriesPerKvHead: number;
  readonly window: number | null;
  readonly softcap: number;
  readonly style: "interleaved" | "half";
}

const QUERY_SIZE = 3;
const KEY_SIZE = 1;

const CHOOSES: ChoiceRule = {
  tokens: 20,
  first: 3,
  newest: 4,
  stride: 1000,
  every: 1,
  similar: 1,
  reach: 0,
  wholly: false,
};

/** A scene of one attention per layer, its inputs random; `results` are the attentions' outputs. */
export function attentionScene(
  random: TestRandom,
  shape: AttentionCase,
  numTokens: number,
): { scene: Scene; results: BufferRef[] } {
  const { numLayers, numKvHeads, headWidth, queriesPerKvHead, window, softcap, style } = shape;
  const numHeads = numKvHeads * queriesPerKvHead;
  const scene = new Scene();
  const rope = scene.tape.rope({ frequencies: frequencies(headWidth / 2), magnitude: 1, style });
  const results = Array.from({ length: numLayers }, (_, layer) => {
    const kvWidth = numKvHeads * headWidth;
    const k = scene.input(random.floats(numTokens * kvWidth, KEY_SIZE), kvWidth);
    const v = scene.input(random.floats(numTokens * kvWidth), kvWidth);
    const q = scene.input(random.floats(numTokens * numHeads * headWidth, QUERY_SIZE), numHeads * headWidth);
    scene.tape.append({ layer, numKvHeads, headWidth, window }, k, v);
    return scene.tape.attention(q, { layer, numHeads, scale: headWidth ** -0.5, softcap, rope });
  });
  return { scene: scene.finish(results[0]!), results };
}

/**
 * Bound of one output: a probability's relative error is the absolute error of its score, both in the numerator and
 * in the sum; values lie within 1. A score is a sum of D products of queries up to QUERY_SIZE and keys up to
 * KEY_SIZE: about (4 sqrt(D) + 16) roundings of a quarter of the largest possible sum, and the cap's tanh adds 8 of
 * its own size. The exponential, the sum over the tokens and the weighted sum add 64.
 */
export function attentionBound({ headWidth, softcap }: AttentionCase): number {
  const largest = headWidth ** 0.5 * QUERY_SIZE * KEY_SIZE * 0.25;
  const score = (4 * headWidth ** 0.5 + 16) * largest + 8 * softcap;
  return (2 * score + 64) * EPSILON;
}

export function attentionCases(suite: Suite): void {
  const plain: AttentionCase = {
    numLayers: 1,
    numKvHeads: 2,
    headWidth: 64,
    codec: "f32",
    pageTokens: 32,
    groups: "together",
    spans: [{ stored: 20, count: 5 }],
    queriesPerKvHead: 2,
    window: null,
    softcap: 0,
    style: "half",
  };
  const codecs = ["f32", "f16", "int8"] as const;

  for (const [c, codec] of codecs.entries()) {
    HEAD_WIDTHS.forEach((headWidth, i) => {
      const shape: AttentionCase = {
        ...plain,
        codec,
        headWidth,
        numLayers: 1 + (i % 2),
        numKvHeads: [1, 2, 4][(i + c) % 3]!,
        queriesPerKvHead: 1 + ((3 * i + c) % 8),
        pageTokens: [16, 32, 64][(i + c) % 3]!,
        style: i % 2 ? "half" : "interleaved",
        spans: [
          { stored: 7, count: 1 },
          { stored: 0, count: 17 },
          { stored: 70, count: 3 },
          { stored: 0, count: 1 },
        ],
      };
      const { numKvHeads, queriesPerKvHead, pageTokens } = shape;
      const name = `${codec}, ${numKvHeads} x ${queriesPerKvHead} heads of ${headWidth}, pages of ${pageTokens}, ragged`;
      suite.case(name, () => check(suite, shape));
    });
    for (let queriesPerKvHead = 1; queriesPerKvHead <= 8; queriesPerKvHead++) {
      const shape = { ...plain, codec, queriesPerKvHead, numKvHeads: 1, spans: [{ stored: 33, count: 2 }] };
      suite.case(`${codec}, ${queriesPerKvHead} query heads per kv head`, () => check(suite, shape));
    }
    const variants: Record<string, Partial<AttentionCase>> = {
      "a window that hides the first tokens": { window: 9, spans: [{ stored: 40, count: 17 }] },
      "a window of one token": { window: 1 },
      "capped scores": { softcap: 2.5 },
      "segments rotated forth and back": {
        rotations: [-17, 1000, 0, 5_000_000],
        pageTokens: 16,
        style: "interleaved",
        spans: [
          { stored: 90, count: 4 },
          { stored: 30, count: 1 },
        ],
      },
      "a further table of another codec": { chained: 45, rotations: [33], wantsMass: true },
      "every kv head in a group of its own": {
        numKvHeads: 4,
        numLayers: 2,
        groups: "apart",
        queriesPerKvHead: 3,
      },
      "apart, chained, rotated, windowed and capped at once": {
        numKvHeads: 4,
        groups: "apart",
        chained: 20,
        rotations: [-3, 8],
        window: 12,
        softcap: 20,
        wantsMass: true,
        spans: [
          { stored: 30, count: 7 },
          { stored: 3, count: 1 },
          { stored: 0, count: 2 },
        ],
      },
      "the mass that keys receive": { wantsMass: true, numLayers: 2 },
      "the mass that the last two queries give": { wantsMass: true, givers: 2 },
      "slots that stand for several tokens": { wantsMass: true, mostCounts: 9, softcap: 3 },
      "mass from a tempered softmax, noise in it": {
        wantsMass: true,
        tempered: { temperature: 1.7, noise: 1, seed: -5 },
        numLayers: 2,
        chained: 20,
        window: 30,
      },
      "tempered mass of a long past, split among threads": {
        wantsMass: true,
        givers: 1,
        mostCounts: 3,
        tempered: { temperature: 1.3, noise: 0.5, seed: 11 },
        pageTokens: 64,
        spans: [{ stored: 1500, count: 2 }],
      },
      "one query over a long past": { pageTokens: 64, spans: [{ stored: 1500, count: 1 }], wantsMass: true },
      "three long pasts of different lengths": {
        queriesPerKvHead: 4,
        spans: [
          { stored: 700, count: 1 },
          { stored: 129, count: 1 },
          { stored: 400, count: 2 },
        ],
      },
      "keys of which some elements are stored": {
        thin: 23,
        pageTokens: 16,
        wantsMass: true,
        spans: [
          { stored: 300, count: 3 },
          { stored: 5, count: 1 },
        ],
      },
      "such keys in two tables, rotated, many queries": {
        thin: 50,
        chained: 45,
        rotations: [33, -7],
        numLayers: 2,
        queriesPerKvHead: 7,
        pageTokens: 16,
        softcap: 4,
        spans: [{ stored: 150, count: 9 }],
      },
      "squares of the last queries": { measured: 3, numLayers: 2, queriesPerKvHead: 3 },
      "what each query chooses for itself": {
        choice: CHOOSES,
        queriesPerKvHead: 3,
        spans: [
          { stored: 300, count: 7 },
          { stored: 0, count: 5 },
          { stored: 2, count: 1 },
        ],
      },
      "what queries unlike the last choose, by neighbourhood, attending to all themselves": {
        choice: { ...CHOOSES, similar: 0.1, every: 2, stride: 5, reach: 3, wholly: true },
        groups: "apart",
        chained: 20,
        rotations: [9],
        window: 250,
        spans: [{ stored: 300, count: 17 }],
      },
      "what one query chooses of a long past": {
        choice: { ...CHOOSES, tokens: 100 },
        pageTokens: 64,
        spans: [{ stored: 1500, count: 1 }],
      },
      "a long chunk": { spans: [{ stored: 100, count: 65 }] },
      "71 query heads on one kv head": { queriesPerKvHead: 71, numKvHeads: 1, headWidth: 16 },
    };
    for (const [name, variant] of Object.entries(variants)) {
      suite.case(`${codec}, ${name}`, () => check(suite, { ...plain, codec, ...variant }));
    }
  }

  suite.case("a slot that counts as several tokens is as several slots with its key and value", async () => {
    const random = new TestRandom(10);
    const shape = { ...plain, spans: [{ stored: 12, count: 1 }], mostCounts: 1 };
    const { scene, results } = attentionScene(random, shape, 1);
    const { groups, batch, numPages, maxTokens } = kvBatch(random, shape);
    const stage = await scene.on(suite.backend, { maxTokens, groups, numPages });
    // Of the twelve tokens, three others hold what the first does.
    const [first, ...others] = [...batch.spans![0]!.tables[0]!.positions.entries()]
      .filter(([, position]) => position >= 0 && position < 4)
      .map(([slot]) => slot);
    const output = async (change: (table: Table) => Table) => {
      const spans = batch.spans!.map(({ count, tables }) => ({ count, tables: tables.map(change) }));
      await stage.run({ ...batch, spans });
      return stage.read(results[0]!);
    };
    const alike = (table: Table): Table => ({
      ...table,
      contents: table.contents.map((slots) =>
        slots.map((pair, slot) => (others.includes(slot) ? slots[first!]! : pair)),
      ),
    });
    const counted = (table: Table, count: number): Table => ({
      ...table,
      positions: table.positions.map((position, slot) => (others.includes(slot) ? -1 : position)),
      logCounts: table.logCounts!.map((x, slot) => (slot === first ? Math.log(count) : x)),
    });
    const want = await output(alike);
    const bound = suite.slack * attentionBound(shape);
    expectClose("output", await output((table) => counted(table, 4)), want, () => bound);
    const uncounted = await output((table) => counted(table, 1));
    if (uncounted.every((x, i) => Math.abs(x - want[i]!) < 100 * bound))
      throw new Error("The count had no effect");
    stage.dispose();
  });

  suite.case("a query that sees nothing gives zeros", async () => {
    const random = new TestRandom(9);
    const { scene, results } = attentionScene(random, plain, 5);
    const { groups, batch, numPages, maxTokens } = kvBatch(random, plain);
    // All stored tokens lie in the future of queries at position 0, and their own slots stay unlisted.
    const spans = batch.spans!.map(({ count, tables }) => ({
      count,
      tables: tables.map((table) => ({
        ...table,
        positions: table.positions.map((p) => (p < 0 ? -1 : 1000)),
      })),
    }));
    const stage = await scene.on(suite.backend, { maxTokens, groups, numPages });
    await stage.run({ ...batch, spans, positions: batch.positions!.map(() => 0) });
    const got = stage.read(results[0]!);
    expectClose("output", got, new Float32Array(got.length), () => 0);
    stage.dispose();
  });
}

async function check(suite: Suite, shape: AttentionCase): Promise<void> {
  const random = new TestRandom(shape.headWidth * 100 + shape.queriesPerKvHead);
  const { groups, batch, numPages, maxTokens } = kvBatch(random, shape);
  const { scene, results } = attentionScene(random, shape, maxTokens);
  const stages: Stage[] = [];
  for (const backend of [suite.backend, suite.reference]) {
    const stage = await scene.on(backend, { maxTokens, groups, numPages });
    stages.push(stage);
    await stage.run(batch);
  }
  const [got, want] = stages as [Stage, Stage];
  const bound = suite.slack * attentionBound(shape);
  for (const [layer, result] of results.entries()) {
    expectClose(`layer ${layer}`, got.read(result), want.read(result), () => bound);
  }
  if (shape.wantsMass) compareMass(got, want, shape, batch, bound);
  if (shape.measured !== undefined) compareQueries(got, want, shape);
  if (shape.choice) compareChoices(got, want, batch);
  for (const stage of stages) stage.dispose();
}

/** Random scores are never so close that rounding would choose another token. */
function compareChoices(got: Stage, want: Stage, batch: Batch): void {
  got.views.forEach((views, s) => {
    views.forEach((view, g) => {
      const [mine, theirs] = [view, want.views[s]![g]!].map(({ choice, numPages, pageTokens }) =>
        choice!.shown.int32(0, numPages * pageTokens),
      );
      expect([...mine!]).toEqual([...theirs!]);
      // Somebody attends to a part, where there is more than may be chosen.
      const { positions } = batch.spans![s]!.tables[g]!;
      const everybody = 2 ** batch.spans![s]!.count - 1;
      const unseen = mine!.filter((word, slot) => positions[slot]! >= 0 && (word & everybody) !== everybody);
      if (positions.filter((p) => p >= 0).length > 150) expect(unseen.length).toBeGreaterThan(100);
      const chosenAt = [view, want.views[s]![g]!].map(({ choice }) => choice!.chooser.int32(0, 1)[0]);
      expect(chosenAt[0]).toBe(chosenAt[1]);
    });
  });
}

/** Sums of squares up to QUERY_SIZE^2, as many as there are queries, a rounding for each. */
function compareQueries(
  got: Stage,
  want: Stage,
  { headWidth, measured, queriesPerKvHead }: AttentionCase,
): void {
  const count = measured! * queriesPerKvHead;
  got.views.forEach((views, s) => {
    views.forEach((view, g) => {
      const sums = [view, want.views[s]![g]!].map(({ queries, lanes }) =>
        queries!.region.float32(0, lanes * headWidth),
      );
      if (!sums[1]!.some((sum) => sum > 1)) throw new Error("No query was measured");
      expectClose(
        `queries of span ${s} group ${g}`,
        sums[0]!,
        sums[1]!,
        () => 2 * count ** 2 * QUERY_SIZE ** 2 * EPSILON,
      );
    });
  });
}

/** Mass adds up probabilities of all queries of a span: the bound grows with their number. */
function compareMass(got: Stage, want: Stage, shape: AttentionCase, batch: Batch, bound: number): void {
  got.views.forEach((views, s) => {
    const numQueries = batch.spans![s]!.count * shape.queriesPerKvHead;
    views.forEach((view, g) => {
      let [mine, theirs]: [KvView | null, KvView | null] = [view, want.views[s]![g]!];
      for (let depth = 0; mine && theirs; depth++) {
        const length = mine.lanes * mine.numPages * mine.pageTokens;
        const [a, b] = [mine.mass!.region.float32(0, length), theirs.mass!.region.float32(0, length)];
        expectClose(`mass of span ${s} group ${g} table ${depth}`, a, b, () => bound * numQueries);
        [mine, theirs] = [mine.next, theirs.next];
      }
    });
  });
}
