import { TestRandom } from "../support/random.js";
import { expectClose, expectSameBits } from "./compare.js";
import { onBoth, ROW_COUNTS } from "./rows.js";
import { Scene } from "./scene.js";
import { EPSILON, type Suite } from "./suite.js";

export const HEAD_WIDTHS = [8, 16, 64, 96, 128] as const;

/** Frequencies as models have them: base^(-i / pairs). */
export const frequencies = (pairs: number, base = 10000): Float64Array =>
  Float64Array.from({ length: pairs }, (_, i) => base ** (-i / pairs));

/** Two products and a sum of values up to the largest of a row: 8 roundings of it. The table is shared. */
export function ropeCases(suite: Suite): void {
  HEAD_WIDTHS.forEach((headWidth, w) => {
    for (const style of ["interleaved", "half"] as const) {
      for (const partial of [1, 2]) {
        const numTokens = ROW_COUNTS[(w * 2 + partial) % ROW_COUNTS.length]!;
        const numHeads = 1 + ((w + partial) % 5);
        suite.case(`${style}, ${numHeads} heads of ${headWidth}, 1/${partial} of it rotated`, async () => {
          const random = new TestRandom(headWidth + partial);
          const width = numHeads * headWidth;
          const data = random.floats(numTokens * width, 3);
          const scene = new Scene();
          const x = scene.input(data, width);
          const pairs = headWidth / 2 / partial;
          const magnitude = partial === 1 ? 1 : 1.25;
          const rope = scene.tape.rope({ frequencies: frequencies(pairs), magnitude, style });
          scene.tape.applyRope(x, headWidth, rope);
          scene.finish(x);
          const positions = Array.from({ length: numTokens }, (_, t) =>
            t % 3 === 2 ? 70_000_001 + t : t * 5,
          );
          await onBoth(
            suite,
            scene,
            numTokens,
            (got, want) => {
              const result = got.read(x);
              expectClose("rotated", result, want.read(x), () => suite.slack * 8 * EPSILON * 3 * magnitude);
              const rest = (from: Float32Array) => from.filter((_, i) => i % headWidth >= 2 * pairs);
              expectSameBits("elements past the rotated width", rest(result), rest(data));
            },
            { positions },
          );
        });
      }
    }
  });

  suite.case("keeps every pair's length, at any position", async () => {
    const [numTokens, headWidth] = [33, 64];
    const data = new TestRandom(3).floats(numTokens * headWidth);
    const scene = new Scene();
    const x = scene.input(data, headWidth);
    const rope = scene.tape.rope({ frequencies: frequencies(32), magnitude: 1, style: "half" });
    scene.tape.applyRope(x, headWidth, rope);
    scene.finish(x);
    const positions = Array.from({ length: numTokens }, (_, t) => t * 9_999_991);
    const lengths = (from: Float32Array) =>
      Float32Array.from({ length: numTokens * 32 }, (_, i) => {
        const at = Math.floor(i / 32) * headWidth + (i % 32);
        return Math.hypot(from[at]!, from[at + 32]!);
      });
    await onBoth(
      suite,
      scene,
      numTokens,
      (got) => expectClose("lengths", lengths(got.read(x)), lengths(data), () => suite.slack * 16 * EPSILON),
      { positions },
    );
  });
}
