import type { TensorType } from "../../src/formats/checkpoint.js";
import { TestRandom } from "../support/random.js";
import { expectClose, expectSameBits } from "./compare.js";
import { onBoth, ROW_COUNTS } from "./rows.js";
import { Scene } from "./scene.js";
import { EPSILON, type Suite } from "./suite.js";
import { columnsOf, encoded, FLOAT_TYPES, randomWeight, TENSOR_TYPES } from "./weights.js";

const BLOCK = 32;
const WEIGHT_ROWS = [1, 7, 16, 33, 50] as const;

/** Decoding is exact up to a product or two of f32: 4 roundings of the row's largest element. */
export function embedCases(suite: Suite): void {
  for (const type of TENSOR_TYPES) {
    suite.case(`${type}`, async () => {
      for (const [i, columns] of columnsOf(type).entries()) {
        const rows = 17 + i;
        const random = new TestRandom(columns);
        const { data, decoded } = randomWeight(random, type, rows, columns);
        const scene = new Scene();
        const weight = scene.matrix({ data, type, rows, columns });
        const plain = scene.tape.embed(weight);
        const scaled = scene.tape.embed(weight, { scale: 3.3 });
        scene.finish(plain);
        await onBoth(suite, scene, rows, (got) => {
          const largest = decoded.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
          const bound = suite.slack * 4 * EPSILON * largest;
          expectClose(`${columns} columns`, got.read(plain), decoded, () => bound);
          const times = decoded.map((x) => x * 3.3);
          expectClose(`${columns} columns, scaled`, got.read(scaled), times, () => 3.3 * bound);
        });
      }
    });
  }
}

/**
 * Whole multiples of one step from -127 to 127 with both ends in every block of 32: quantising them to int8 loses
 * nothing, so that products with quantised weights have to be right to f32 roundings.
 */
export function exactActivations(random: TestRandom, rows: number, width: number): Float32Array {
  const x = new Float32Array(rows * width);
  for (let r = 0; r < rows; r++) {
    const step = 2 ** -(4 + (r % 5));
    for (let c = 0; c < width; c++) x[r * width + c] = (random.below(255) - 127) * step;
    for (let c = 0; c < width; c += BLOCK)
      x[r * width + c + random.below(Math.min(BLOCK, width - c))] = 127 * step;
  }
  return x;
}

/**
 * Bounds of one product, S being the sum of |w x|:
 * - roundings of f32 sums in any order: (n + 8) x 2^-24 x S;
 * - where weights are quantised the backend may quantise activations to int8 per block of 32, step s = max / 127.
 *   Each element is then off by an error uniform in +-s/2, standard deviation s / sqrt(12), so the sum's is
 *   sqrt(sum of (w s)^2 / 12); 7 of those are allowed. With exact activations there is no such error.
 */
export function productBounds(
  x: Float32Array,
  decoded: Float32Array,
  columns: number,
  isExact: boolean,
): Float64Array {
  const rows = decoded.length / columns;
  const numTokens = x.length / columns;
  const bounds = new Float64Array(numTokens * rows);
  const steps = new Float64Array(columns);
  for (let t = 0; t < numTokens; t++) {
    for (let start = 0; start < columns; start += BLOCK) {
      const block = x.subarray(t * columns + start, t * columns + Math.min(columns, start + BLOCK));
      const max = block.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      steps.fill(isExact ? 0 : max / 127, start, start + BLOCK);
    }
    for (let r = 0; r < rows; r++) {
      let size = 0;
      let variance = 0;
      for (let c = 0; c < columns; c++) {
        const w = decoded[r * columns + c]!;
        size += Math.abs(w * x[t * columns + c]!);
        variance += (w * steps[c]!) ** 2 / 12;
      }
      bounds[t * rows + r] = (columns + 8) * EPSILON * size + 7 * Math.sqrt(variance);
    }
  }
  return bounds;
}

export function matmulCases(suite: Suite): void {
  for (const type of TENSOR_TYPES) {
    const isFloat = FLOAT_TYPES.includes(type);
    const shapes = columnsOf(type).map((columns, i) => ({
      columns,
      rows: WEIGHT_ROWS[i % WEIGHT_ROWS.length]!,
      numTokens: ROW_COUNTS[(i * 3 + 4) % ROW_COUNTS.length]!,
    }));
    shapes.push({ columns: 256, rows: 50, numTokens: 1 }, { columns: 256, rows: 33, numTokens: 33 });

    suite.case(`${type}: exact activations, bias, accumulation, one token as in a batch`, async () => {
      for (const { columns, rows, numTokens } of shapes) {
        await check(suite, type, { columns, rows, numTokens, isExact: true, label: "exact" });
      }
    });
    if (isFloat) continue;
    suite.case(`${type}: random activations`, async () => {
      for (const { columns, rows, numTokens } of shapes) {
        await check(suite, type, { columns, rows, numTokens, isExact: false, label: "random" });
      }
    });
    suite.case(`${type}: largest weights times largest activations do not saturate`, async () => {
      for (const numTokens of [1, 16]) await checkExtremes(suite, type, numTokens);
    });
  }

  for (const type of ["F32", "Q4_0", "Q8_0"] as const) {
    suite.case(`${type}: more rows and tokens than one thread takes at once`, async () => {
      await check(suite, type, { columns: 64, rows: 1037, numTokens: 3, isExact: true, label: "tall" });
      await check(suite, type, { columns: 64, rows: 50, numTokens: 300, isExact: true, label: "long" });
    });
  }

  suite.case("rows gathered from several tensors", async () => {
    for (const type of ["F32", "Q4_0", "Q8_0", "Q4_K"] as const) {
      const random = new TestRandom(5);
      const scene = new Scene();
      const columns = 256;
      const pieces = [7, 16, 20].map((count) => {
        const weight = randomWeight(random, type, 40, columns);
        const tensor = scene.tensor({ data: weight.data, type, shape: [40, columns] });
        const kept = weight.decoded.subarray(3 * columns, (3 + count) * columns);
        return { slice: { tensor, rowStart: 3, rowCount: count }, kept };
      });
      const decoded = Float32Array.from(pieces.flatMap(({ kept }) => [...kept]));
      const slices = pieces.map(({ slice }) => slice);
      const weight = scene.tape.weight({ slices, type, rows: 43, columns, experts: 1 });
      const data = exactActivations(random, 3, columns);
      const out = scene.tape.matmul(scene.input(data, columns), weight);
      scene.finish(out);
      await onBoth(suite, scene, 3, (got, want) => {
        const bounds = productBounds(data, decoded, columns, true);
        expectClose(type, got.read(out), want.read(out), (i) => suite.slack * bounds[i]!);
      });
    }
  });

  suite.case("over the selected rows only", async () => {
    const random = new TestRandom(6);
    const scene = new Scene();
    const weight = randomWeight(random, "Q4_0", 50, 64);
    const data = exactActivations(random, 17, 64);
    const x = scene.tape.select(scene.input(data, 64));
    const out = scene.tape.matmul(x, scene.matrix({ ...weight, type: "Q4_0", rows: 50, columns: 64 }));
    scene.finish(out);
    const outputs = [0, 5, 16];
    const kept = Float32Array.from(outputs.flatMap((t) => [...data.subarray(t * 64, (t + 1) * 64)]));
    const bounds = productBounds(kept, weight.decoded, 64, true);
    await onBoth(
      suite,
      scene,
      17,
      (got, want) => expectClose("logits", got.logits(), want.logits(), (i) => suite.slack * bounds[i]!),
      { outputs },
    );
  });
}

async function check(
  suite: Suite,
  type: TensorType,
  shape: { columns: number; rows: number; numTokens: number; isExact: boolean; label: string },
): Promise<void> {
  const { columns, rows, numTokens, isExact, label } = shape;
  const random = new TestRandom(columns * 7 + rows);
  const scene = new Scene();
  const { data, decoded } = randomWeight(random, type, rows, columns);
  const activations = isExact
    ? exactActivations(random, numTokens, columns)
    : random.floats(numTokens * columns, 2);
  const x = scene.input(activations, columns);
  const weight = scene.matrix({ data, type, rows, columns });
  const biases = random.floats(rows);
  const before = random.floats(numTokens * rows);
  const plain = scene.tape.matmul(x, weight);
  const biased = scene.tape.matmul(x, weight, { bias: scene.vector(biases) });
  const added = scene.tape.matmul(x, weight, { addTo: scene.input(before, rows) });
  scene.finish(plain);
  const what = `${label} ${type} [${rows}, ${columns}] x ${numTokens} tokens`;
  const bounds = productBounds(activations, decoded, columns, isExact);
  const bound = (i: number) => suite.slack * (bounds[i]! + 4 * EPSILON);
  await onBoth(suite, scene, numTokens, async (got, want) => {
    expectClose(what, got.read(plain), want.read(plain), bound);
    expectClose(`${what} with bias`, got.read(biased), want.read(biased), bound);
    expectClose(`${what} added on`, got.read(added), want.read(added), bound);
    const whole = got.read(plain);
    for (const token of new Set([0, numTokens >> 1, numTokens - 1])) {
      await got.run({ tokens: [token], positions: [0] });
      const alone = whole.subarray(token * rows, (token + 1) * rows);
      expectSameBits(`${what}: token ${token} alone`, got.read(plain), alone);
    }
  });
}

async function checkExtremes(suite: Suite, type: TensorType, numTokens: number): Promise<void> {
  const [rows, columns] = [18, 512];
  const signs = (r: number, c: number) => (r % 3 === 2 && c % 2 === 1 ? -1 : 1) * (r % 3 === 1 ? -1 : 1);
  const values = Float32Array.from({ length: rows * columns }, (_, i) =>
    signs(Math.floor(i / columns), i % columns),
  );
  const { data, decoded } = encoded(type, values, rows, columns);
  const activations = Float32Array.from({ length: numTokens * columns }, (_, i) => {
    const [t, c] = [Math.floor(i / columns), i % columns];
    return 127 * (t % 2 === 1 ? -1 : 1) * (t % 4 === 2 && c % 2 === 1 ? -1 : 1);
  });
  const scene = new Scene();
  const out = scene.tape.matmul(
    scene.input(activations, columns),
    scene.matrix({ data, type, rows, columns }),
  );
  scene.finish(out);
  const bounds = productBounds(activations, decoded, columns, true);
  await onBoth(suite, scene, numTokens, (got, want) => {
    expectClose(`${type} x ${numTokens}`, got.read(out), want.read(out), (i) => suite.slack * bounds[i]!);
  });
}
