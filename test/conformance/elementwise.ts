import type { Activation } from "../../src/tape/tape.js";
import { TestRandom } from "../support/random.js";
import { expectClose, expectSameBits } from "./compare.js";
import { onBoth, ROW_COUNTS, WIDTHS } from "./rows.js";
import { Scene, type Stage } from "./scene.js";
import { EPSILON, type Suite } from "./suite.js";

/** Every (width, rows) pair in turn, without the full product. */
const sizes = WIDTHS.flatMap((width, i) => [
  { width, rows: ROW_COUNTS[i % ROW_COUNTS.length]! },
  { width, rows: ROW_COUNTS[(i + 3) % ROW_COUNTS.length]! },
]);

/**
 * Bound: squares are all positive, so the sum is off by a relative n/2 roundings at worst before the root halves it;
 * the root, the division and two products add a few more.
 */
export function rmsNormCases(suite: Suite): void {
  for (const { width, rows } of sizes) {
    suite.case(`width ${width}, ${rows} rows, with and without weight, in place`, async () => {
      const random = new TestRandom(width * 100 + rows);
      const scene = new Scene();
      const data = random.floats(rows * width, 3);
      data.fill(0, 0, width); // a row of zeros stays zeros
      const x = scene.input(data, width);
      const weight = scene.vector(random.floats(width, 2), 1);
      const normed = scene.tape.rmsNorm(x, weight, { epsilon: 1e-5 });
      const plain = scene.tape.rmsNorm(x, null, { epsilon: 1e-6 });
      const inPlace = scene.input(random.floats(rows * width, 1e-3), width);
      scene.tape.rmsNorm(inPlace, weight, { epsilon: 1e-5, inPlace: true });
      scene.finish(normed);
      await onBoth(suite, scene, rows, (got, want) => {
        for (const buffer of [normed, plain, inPlace]) {
          const expected = want.read(buffer);
          const bound = (i: number) => suite.slack * (width + 16) * EPSILON * Math.abs(expected[i]!);
          expectClose(`buffer ${buffer.id}`, got.read(buffer), expected, bound);
        }
      });
    });
  }
  for (const headWidth of [8, 16, 64, 96, 128]) {
    suite.case(`per head of ${headWidth}`, async () => {
      const random = new TestRandom(headWidth);
      const scene = new Scene();
      const x = scene.input(random.floats(7 * 3 * headWidth), 3 * headWidth);
      const normed = scene.tape.rmsNorm(x, scene.vector(random.floats(headWidth)), {
        epsilon: 1e-6,
        width: headWidth,
      });
      scene.finish(normed);
      await onBoth(suite, scene, 7, (got, want) => {
        const expected = want.read(normed);
        const bound = (i: number) => suite.slack * (headWidth + 16) * EPSILON * Math.abs(expected[i]!);
        expectClose("heads", got.read(normed), expected, bound);
      });
    });
  }
}

/** Bound: the exponential's (or erf's) error is relative to the product of the two inputs; 64 roundings of it. */
export function gluCases(suite: Suite): void {
  for (const activation of ["silu", "gelu", "gelu_tanh"] as const satisfies Activation[]) {
    for (const { width, rows } of sizes) {
      suite.case(`${activation}, width ${width}, ${rows} rows`, async () => {
        const random = new TestRandom(width * 100 + rows);
        const scene = new Scene();
        const gates = random.floats(rows * width, 12);
        gates.set([0, -0, 100, -100, 30, -30, 1e-6, -1e-6], 0); // where exponentials saturate
        const ups = random.floats(rows * width, 2);
        const gate = scene.input(gates, width);
        const up = scene.input(ups, width);
        scene.tape.glu(gate, up, activation);
        scene.finish(gate);
        await onBoth(suite, scene, rows, (got, want) => {
          const bound = (i: number) => suite.slack * 64 * EPSILON * Math.abs(gates[i]! * ups[i]!);
          expectClose(activation, got.read(gate), want.read(gate), bound);
        });
      });
    }
  }
}

/** One f32 addition has one right answer. */
export function addCases(suite: Suite): void {
  for (const { width, rows } of sizes) {
    suite.case(`width ${width}, ${rows} rows`, async () => {
      const random = new TestRandom(width * 100 + rows);
      const scene = new Scene();
      const x = scene.input(random.floats(rows * width), width);
      const out = scene.input(random.floats(rows * width, 100), width);
      scene.tape.add(x, out);
      scene.finish(out);
      await onBoth(suite, scene, rows, (got, want) => expectSameBits("sum", got.read(out), want.read(out)));
    });
  }
}

export function selectCases(suite: Suite): void {
  for (const { width, rows } of sizes) {
    suite.case(
      `width ${width}, ${rows} rows, of logits and states: every third and second, none, all`,
      async () => {
        const scene = new Scene();
        const data = new TestRandom(width).floats(rows * width);
        const x = scene.input(data, width);
        scene.finish(x, scene.tape.select(x, "states"));
        const all = Array.from({ length: rows }, (_, t) => t);
        const of = (chosen: readonly number[]) =>
          Float32Array.from(chosen.flatMap((t) => [...data.subarray(t * width, (t + 1) * width)]));
        const [thirds, seconds] = [all.filter((t) => t % 3 === 0), all.filter((t) => t % 2 === 1)];
        for (const [outputs, states] of [
          [thirds, seconds],
          [all, []],
          [[], all],
        ] as const) {
          const check = (got: Stage) => {
            expectSameBits("logits", got.logits(), of(outputs));
            expectSameBits("states", got.program.states(), of(states));
          };
          await onBoth(suite, scene, rows, check, { outputs, states });
        }
      },
    );
  }
}
