import { TestRandom } from "../support/random.js";
import { expectClose, expectSameBits } from "./compare.js";
import { onBoth } from "./rows.js";
import { Scene } from "./scene.js";
import { EPSILON, type Suite } from "./suite.js";

/** Sequences of one batch: their tokens, and the adapter that each names. */
const SPANS = [
  { count: 3, tables: [], adapter: 0 },
  { count: 1, tables: [] },
  { count: 5, tables: [], adapter: 2 },
  { count: 2, tables: [], adapter: 1 },
  { count: 1, tables: [], adapter: 9 },
];
const TOKENS = 12;
/** By adapter; the second one changes another matrix only. */
const RANKS = [3, null, 8] as const;

/**
 * Bound: two chains of sums, of width and rank terms, whose values are at most the sums of the magnitudes.
 */
export function lowRankCases(suite: Suite): void {
  for (const [width, outWidth] of [
    [8, 16],
    [32, 96],
    [100, 7],
    [257, 300],
  ] as const) {
    const build = () => {
      const random = new TestRandom(width);
      const scene = new Scene();
      const x = scene.input(random.floats(TOKENS * width), width);
      const start = random.floats(TOKENS * outWidth);
      const pair = (adapter: number, rank: number) => ({
        adapter,
        rank,
        down: scene.vector(random.floats(rank * width)),
        up: scene.vector(random.floats(rank * outWidth)),
      });
      const pairs = RANKS.flatMap((rank, adapter) => (rank === null ? [] : [pair(adapter, rank)]));
      const other = scene.input(random.floats(TOKENS * outWidth), outWidth);
      scene.tape.lowRank(x, [pair(1, 2)], other);
      const out = scene.input(start, outWidth);
      scene.tape.lowRank(x, pairs, out);
      return { scene, x, out, other, pairs, start };
    };

    suite.case(`${width} to ${outWidth}: each sequence with its own adapter, or none`, async () => {
      const { scene, out, other, start } = build();
      scene.finish(out);
      const same = (values: Float32Array, from: number, to: number) =>
        values.slice(from * outWidth, to * outWidth);
      await onBoth(
        suite,
        scene,
        TOKENS,
        (got, want) => {
          const bound = suite.slack * (width + 16) * 8 * width * EPSILON;
          for (const buffer of [out, other]) {
            expectClose(`buffer ${buffer.id}`, got.read(buffer), want.read(buffer), () => bound);
          }
          // Rows without an adapter, and those of adapters that do not change this matrix.
          for (const [from, to] of [
            [3, 4],
            [9, 12],
          ] as const) {
            expectSameBits("untouched rows", same(got.read(out), from, to), same(start, from, to));
          }
        },
        { spans: SPANS },
      );
    });

    suite.case(`${width} to ${outWidth}: of rows whose logits are wanted`, async () => {
      const { scene, x, out, pairs } = build();
      const [from, to] = [scene.tape.select(x), scene.tape.select(out)];
      scene.tape.lowRank(from, pairs, to);
      scene.finish(to);
      await onBoth(
        suite,
        scene,
        TOKENS,
        (got, want) => {
          const bound = suite.slack * (width + 16) * 16 * width * EPSILON;
          expectClose("logits", got.logits(), want.logits(), () => bound);
        },
        { spans: SPANS, outputs: [2, 3, 8, 9, 11] },
      );
    });
  }

  suite.case("a sequence alone has the bits that it has beside others", async () => {
    const random = new TestRandom(5);
    const scene = new Scene();
    const x = scene.input(random.floats(TOKENS * 96), 96);
    const out = scene.input(random.floats(TOKENS * 64), 64);
    const pair = {
      rank: 4,
      down: scene.vector(random.floats(4 * 96)),
      up: scene.vector(random.floats(4 * 64)),
    };
    scene.tape.lowRank(x, [{ adapter: 2, ...pair }], out);
    scene.finish(out);
    const stage = await scene.on(suite.backend, { maxTokens: TOKENS });
    try {
      await stage.run({ tokens: Array.from({ length: TOKENS }, (_, t) => t), spans: SPANS });
      const together = stage.read(out).slice(4 * 64, 9 * 64);
      await stage.run({ tokens: [4, 5, 6, 7, 8], spans: [{ count: 5, tables: [], adapter: 2 }] });
      expectSameBits("rows", stage.read(out), together);
    } finally {
      stage.dispose();
    }
  });
}
