import { describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import type { Angles, AttentionShape, Matrix } from "../training.js";
import { createReferenceTraining } from "./training.js";

const arithmetic = createReferenceTraining();
const random = new TestRandom(5);

/** A matrix of seeded numbers in memory of its own, with gaps around and between its rows. */
async function matrix(rows: number, columns: number, scale = 1): Promise<Matrix> {
  const [at, stride] = [3, columns + 2];
  const values = arithmetic.allocate(at + rows * stride);
  await values.write(random.floats(values.length, scale));
  return { values, at, rows, columns, stride };
}

async function zeros(like: Matrix): Promise<Matrix> {
  const made = await matrix(like.rows, like.columns);
  arithmetic.fill(made, 0);
  return made;
}

async function read({ values, at, rows, columns, stride }: Matrix): Promise<number[][]> {
  const all = await values.read();
  return Array.from({ length: rows }, (_, r) => [
    ...all.subarray(at + r * stride, at + r * stride + columns),
  ]);
}

async function inner(a: Matrix, b: Matrix): Promise<number> {
  const [x, y] = [(await read(a)).flat(), (await read(b)).flat()];
  return x.reduce((sum, value, i) => sum + value * y[i]!, 0);
}

/**
 * Holds `gradients`, what a backward operation left for `inputs` when given `dOut`, against central differences of
 * the sum of out * dOut, for every element of every input.
 */
async function expectGradients(
  inputs: Readonly<Record<string, Matrix>>,
  gradients: Readonly<Record<string, Matrix>>,
  objective: () => Promise<number>,
): Promise<void> {
  for (const [name, { values, at, rows, columns, stride }] of Object.entries(inputs)) {
    const got = await read(gradients[name]!);
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        const place = at + r * stride + c;
        const [value] = await values.read(place, 1);
        const h = 1e-5;
        await values.write([value! + h], place);
        const above = await objective();
        await values.write([value! - h], place);
        const below = await objective();
        await values.write([value!], place);
        const want = (above - below) / (2 * h);
        expect(Math.abs(got[r]![c]! - want), `${name}[${r}][${c}]: ${got[r]![c]}, ${want}`).toBeLessThan(
          1e-8 * Math.max(1, Math.abs(want)),
        );
      }
    }
  }
}

describe("backward operations are the derivatives of the forward ones", () => {
  it.each([
    ["rows", 8, true],
    ["heads", 4, true],
    ["no weight", 4, false],
  ] as const)("rmsNorm: %s", async (_, width, hasWeight) => {
    const x = await matrix(3, 8);
    const weight = hasWeight ? await matrix(1, width) : null;
    const [out, dOut] = [await zeros(x), await matrix(3, 8)];
    const dX = await zeros(x);
    const dWeight = weight && (await zeros(weight));
    arithmetic.rmsNormBackward(x, weight, width, 1e-3, dOut, dX, dWeight);
    await expectGradients(
      { x, ...(weight && { weight }) },
      { x: dX, ...(dWeight && { weight: dWeight }) },
      async () => {
        arithmetic.rmsNorm(x, weight, width, 1e-3, out);
        return inner(out, dOut);
      },
    );
  });

  it("blend: of attention to all keys and to sinks and a window, a gate for each kv head", async () => {
    const [x, y, gates] = [await matrix(4, 6), await matrix(4, 6), await matrix(1, 2)];
    const [out, dOut] = [await zeros(x), await matrix(4, 6)];
    const [dX, dY, dGates] = [await zeros(x), await zeros(y), await zeros(gates)];
    arithmetic.blendBackward(x, y, gates, dOut, dX, dY, dGates);
    await expectGradients({ x, y, gates }, { x: dX, y: dY, gates: dGates }, async () => {
      arithmetic.blend(x, y, gates, out);
      return inner(out, dOut);
    });
    await gates.values.write([1, 0], gates.at);
    arithmetic.blend(x, y, gates, out);
    const [xs, ys] = [await read(x), await read(y)];
    expect(await read(out)).toEqual(xs.map((row, r) => [...row.slice(0, 3), ...ys[r]!.slice(3)]));
  });

  it.each(["silu", "gelu", "gelu_tanh"] as const)("glu: %s", async (activation) => {
    const [gate, up] = [await matrix(3, 7, 3), await matrix(3, 7)];
    const [out, dOut] = [await zeros(gate), await matrix(3, 7)];
    const [dGate, dUp] = [await zeros(gate), await zeros(up)];
    arithmetic.gluBackward(gate, up, activation, dOut, dGate, dUp);
    await expectGradients({ gate, up }, { gate: dGate, up: dUp }, async () => {
      arithmetic.glu(gate, up, activation, out);
      return inner(out, dOut);
    });
  });

  it.each(["interleaved", "half"] as const)("rope: %s, its inverse is the transpose", async (style) => {
    const pairs = 2;
    const table = arithmetic.allocate(9 * 2 * pairs);
    await table.write(random.floats(table.length));
    const angles: Angles = { values: table, pairs, style };
    // Two heads of six elements, of which four rotate; two sequences of three rows, from position 4 on.
    const [x, dOut] = [await matrix(6, 12), await matrix(6, 12)];
    const [out, dX] = [await zeros(x), await zeros(x)];
    arithmetic.copy(dOut, dX);
    arithmetic.rope(dX, 6, angles, 2, 4, true);
    await expectGradients({ x }, { x: dX }, async () => {
      arithmetic.copy(x, out);
      arithmetic.rope(out, 6, angles, 2, 4, false);
      return inner(out, dOut);
    });
  });

  const plain: AttentionShape = {
    sequences: 2,
    firstQuery: 0,
    numHeads: 4,
    numKvHeads: 2,
    headWidth: 3,
    scale: 0.6,
    softcap: 0,
    window: null,
    sinks: 0,
  };
  it.each<[string, AttentionShape]>([
    ["whole sequences", plain],
    ["the last rows of longer sequences", { ...plain, firstQuery: 2 }],
    ["a cap on scores", { ...plain, softcap: 1.5 }],
    ["a window", { ...plain, window: 2 }],
    ["a window and sinks", { ...plain, firstQuery: 1, window: 2, sinks: 1 }],
    ["one kv head for all", { ...plain, numKvHeads: 1 }],
  ])("attention: %s", async (_, shape) => {
    const { sequences, numHeads, numKvHeads, headWidth, firstQuery } = shape;
    const [n, m] = [5 - firstQuery, 5];
    const q = await matrix(sequences * n, numHeads * headWidth, 2);
    const k = await matrix(sequences * m, numKvHeads * headWidth, 2);
    const v = await matrix(sequences * m, numKvHeads * headWidth);
    const [out, dOut] = [await zeros(q), await matrix(q.rows, q.columns)];
    const logSum = await matrix(q.rows, numHeads);
    const [dQ, dK, dV] = [await zeros(q), await zeros(k), await zeros(v)];
    arithmetic.attention(q, k, v, shape, out, logSum);
    arithmetic.attentionBackward({ q, k, v, out, logSum }, shape, dOut, dQ, dK, dV);
    await expectGradients({ q, k, v }, { q: dQ, k: dK, v: dV }, async () => {
      arithmetic.attention(q, k, v, shape, out, logSum);
      return inner(out, dOut);
    });
  });

  it("embed, rows of equal id adding up", async () => {
    const ids = arithmetic.allocateIds(4);
    await ids.write([2, 0, 2, 2]);
    const weight = await matrix(3, 5);
    const [out, dOut] = [await matrix(4, 5), await matrix(4, 5)];
    const dWeight = await zeros(weight);
    arithmetic.embedBackward(ids, dOut, 1.5, dWeight);
    await expectGradients({ weight }, { weight: dWeight }, async () => {
      arithmetic.embed(ids, weight, 1.5, out);
      return inner(out, dOut);
    });
  });

  it.each([true, false])("route and combine, weights scaled to sum 1: %s", async (normalize) => {
    const [rows, experts, perRow, width] = [5, 6, 3, 4];
    const logits = await matrix(rows, experts, 2);
    const [weights, places] = [await matrix(rows, perRow), await matrix(rows, perRow)];
    const grouping = { places, starts: await matrix(1, experts + 1) };
    const x = await matrix(rows * perRow, width);
    const [out, dOut] = [await matrix(rows, width), await matrix(rows, width)];
    arithmetic.route(logits, normalize, weights, grouping);
    const [dX, dWeights, dLogits] = [await zeros(x), await zeros(weights), await zeros(logits)];
    arithmetic.combineBackward(x, weights, places, dOut, dX, dWeights);
    arithmetic.routeBackward(logits, normalize, dWeights, dLogits);
    await expectGradients({ x, logits }, { x: dX, logits: dLogits }, async () => {
      arithmetic.route(logits, normalize, weights, grouping);
      arithmetic.fill(out, 0);
      arithmetic.combine(x, weights, places, out);
      return inner(out, dOut);
    });
  });

  it("spread, and products by group", async () => {
    const [rows, experts, perRow, width] = [5, 3, 2, 4];
    const [weights, places] = [await matrix(rows, perRow), await matrix(rows, perRow)];
    const starts = await matrix(1, experts + 1);
    arithmetic.route(await matrix(rows, experts), true, weights, { places, starts });
    const [x, stack] = [await matrix(rows, width), await matrix(experts * 2, width)];
    const grouped = await matrix(rows * perRow, width);
    const [out, dOut] = [await matrix(rows * perRow, 2), await matrix(rows * perRow, 2)];
    const [dX, dStack, dGrouped] = [await zeros(x), await zeros(stack), await zeros(grouped)];
    arithmetic.spread(x, places, grouped);
    arithmetic.multiplyGroups(dOut, grouped, starts, dStack, { transposeA: true, accumulate: true });
    arithmetic.multiplyGroups(dOut, stack, starts, dGrouped);
    arithmetic.combine(dGrouped, null, places, dX);
    await expectGradients({ x, stack }, { x: dX, stack: dStack }, async () => {
      arithmetic.spread(x, places, grouped);
      arithmetic.multiplyGroups(grouped, stack, starts, out, { transposeB: true });
      return inner(out, dOut);
    });
  });

  it("crossEntropy leaves the gradient in the logits, none where there is no target", async () => {
    const targets = arithmetic.allocateIds(5);
    await targets.write([9, 3, -1, 0, 1]);
    const logits = await matrix(4, 6, 3);
    const weights = await matrix(4, 1);
    const [scratch, losses] = [await zeros(logits), await matrix(4, 1)];
    const objective = async (): Promise<number> => {
      arithmetic.copy(logits, scratch);
      arithmetic.crossEntropy(scratch, targets, 1, weights, losses);
      return (await read(losses)).flat().reduce((sum, loss) => sum + loss, 0);
    };
    await objective();
    expect((await read(losses))[1]).toEqual([0]);
    const gradient = await zeros(logits);
    arithmetic.copy(scratch, gradient);
    await expectGradients({ logits }, { logits: gradient }, objective);
  });
});

describe("backward operations", () => {
  it("add to what is there", async () => {
    const [x, dOut] = [await matrix(2, 4), await matrix(2, 4)];
    const [once, twice] = [await zeros(x), await zeros(x)];
    arithmetic.rmsNormBackward(x, null, 4, 1e-5, dOut, once, null);
    for (let i = 0; i < 2; i++) arithmetic.rmsNormBackward(x, null, 4, 1e-5, dOut, twice, null);
    const want = (await read(once)).map((row) => row.map((value) => 2 * value));
    expect(await read(twice)).toEqual(want);
  });
});

describe("route", () => {
  it("groups rows by the largest logits, ties to the lower expert", async () => {
    const logits = await matrix(3, 4);
    const rows = [
      [1, 3, 3, 0],
      [0, 2, 1, 2],
      [5, 0, 0, 0],
    ];
    for (const [r, row] of rows.entries()) await logits.values.write(row, logits.at + r * logits.stride);
    const [weights, places, starts] = [await matrix(3, 2), await matrix(3, 2), await matrix(1, 5)];
    arithmetic.route(logits, true, weights, { places, starts });
    // Chosen are experts 1, 2; 1, 3; 0, 1.
    expect(await read(starts)).toEqual([[0, 1, 4, 5, 6]]);
    expect(await read(places)).toEqual([
      [1, 4],
      [2, 5],
      [0, 3],
    ]);
    const want = [0.5, 0.5, 0.5, 0.5, 1 / (1 + Math.exp(-5)), 1 / (1 + Math.exp(5))];
    for (const [i, weight] of (await read(weights)).flat().entries())
      expect(weight).toBeCloseTo(want[i]!, 14);
    arithmetic.route(logits, false, weights, { places, starts });
    expect((await read(weights))[2]![0]).toBeCloseTo(1 / (1 + 3 * Math.exp(-5)), 14);
  });
});

describe("matrices", () => {
  it.each([
    [false, false],
    [true, false],
    [false, true],
    [true, true],
  ])("multiply, A transposed %s, B transposed %s", async (transposeA, transposeB) => {
    const a = await (transposeA ? matrix(3, 2) : matrix(2, 3));
    const b = await (transposeB ? matrix(4, 3) : matrix(3, 4));
    const out = await matrix(2, 4);
    const [as, bs, before] = [await read(a), await read(b), await read(out)];
    const product = before.map((row, r) =>
      row.map((_, c) =>
        [0, 1, 2].reduce(
          (sum, i) => sum + (transposeA ? as[i]![r]! : as[r]![i]!) * (transposeB ? bs[c]![i]! : bs[i]![c]!),
          0,
        ),
      ),
    );
    arithmetic.multiply(a, b, out, { transposeA, transposeB, alpha: 2, accumulate: true });
    const added = product.map((row, r) => row.map((value, c) => 2 * value + before[r]![c]!));
    expect(await read(out)).toEqual(added);
    arithmetic.multiply(a, b, out, { transposeA, transposeB });
    expect(await read(out)).toEqual(product);
  });

  it("write nothing between the rows", async () => {
    const out = await matrix(3, 4);
    const before = await out.values.read();
    arithmetic.fill(out, 7);
    const after = await out.values.read();
    const changed = [...after].flatMap((value, i) => (value === before[i] ? [] : [i]));
    expect(changed).toEqual([3, 4, 5, 6, 9, 10, 11, 12, 15, 16, 17, 18]);
  });

  it("sumRows, addRow, addScaled, scaleRows, rowNorms and sumSquares", async () => {
    const x = await matrix(2, 2);
    await x.values.write([3, 4], x.at);
    await x.values.write([-6, 8], x.at + x.stride);
    const row = await zeros({ ...x, rows: 1 });
    arithmetic.sumRows(x, row);
    expect(await read(row)).toEqual([[-3, 12]]);
    const norms = await matrix(2, 1);
    arithmetic.rowNorms(x, norms);
    expect(await read(norms)).toEqual([[5], [10]]);
    const total = await zeros({ ...x, rows: 1, columns: 1 });
    arithmetic.sumSquares(x, total);
    expect(await read(total)).toEqual([[125]]);
    arithmetic.scaleRows(x, norms, x);
    expect(await read(x)).toEqual([
      [15, 20],
      [-60, 80],
    ]);
    arithmetic.addRow(row, x);
    expect(await read(x)).toEqual([
      [12, 32],
      [-63, 92],
    ]);
    arithmetic.addScaled(x, x, 0.5, 1);
    expect(await read(x)).toEqual([
      [18, 48],
      [-94.5, 138],
    ]);
  });

  it("decode stored rows", async () => {
    const bytes = new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6).buffer);
    const stored = arithmetic.store("F32", 3, 2, bytes);
    const out = await matrix(2, 2);
    arithmetic.decode(stored, 1, out);
    expect(await read(out)).toEqual([
      [3, 4],
      [5, 6],
    ]);
  });
});

describe("adamW", () => {
  it("moves by the rate in the first step, decays apart from it, and then follows its two means", async () => {
    const [weight, gradient] = [await matrix(1, 2), await matrix(1, 2)];
    const [m, v] = [await zeros(weight), await zeros(weight)];
    await weight.values.write([1, -1], weight.at);
    const options = { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 0, decay: 0.5 };
    await gradient.values.write([4, -0.25], gradient.at);
    arithmetic.adamW(weight, gradient, m, v, { ...options, step: 1 });
    const [[first, second]] = (await read(weight)) as [[number, number]];
    expect(first).toBeCloseTo(1 - 0.1 - 0.05, 12);
    expect(second).toBeCloseTo(-1 + 0.1 + 0.05, 12);
    await gradient.values.write([0, 0], gradient.at);
    arithmetic.adamW(weight, gradient, m, v, { ...options, decay: 0, step: 2 });
    const ratio = (0.9 * 0.1) / (1 - 0.81) / Math.sqrt((0.99 * 0.01) / (1 - 0.9801));
    expect((await read(weight))[0]![0]).toBeCloseTo(first - 0.1 * ratio, 12);
  });
});

describe("noise", () => {
  it("is a function of seed and place, whatever the stride, with mean 0 and variance 1", async () => {
    const [wide, narrow] = [await matrix(50, 200), await zeros({ ...(await matrix(50, 200)) })];
    arithmetic.addNormal(wide, 2 ** 40 + 3, 1, 0);
    arithmetic.addNormal(narrow, 2 ** 40 + 3, 1, 1);
    const values = (await read(wide)).flat();
    expect((await read(narrow)).flat()).toEqual(values);
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const square = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.04);
    expect(Math.abs(square - 1)).toBeLessThan(0.06);
  });
});

describe("memory", () => {
  it("is counted, its most remembered until it is reset, and freed once", () => {
    const mine = createReferenceTraining({ precision: "f32" });
    const a = mine.allocate(100);
    const b = mine.allocate(50);
    expect(mine.bytes).toEqual({ current: 600, peak: 600 });
    b.free();
    b.free();
    expect(mine.bytes).toEqual({ current: 400, peak: 600 });
    mine.resetPeak();
    expect(mine.bytes).toEqual({ current: 400, peak: 400 });
    expect(createReferenceTraining().allocate(3).length).toBe(3);
    a.free();
  });

  it("is refused where it is used wrongly", async () => {
    const x = await matrix(2, 3);
    const refused = { code: "INVALID_ARGUMENT" };
    await expect(x.values.read(0, 1e6)).rejects.toMatchObject(refused);
    await expect(x.values.write([1], -1)).rejects.toMatchObject(refused);
    for (const run of [
      () => arithmetic.allocate(-1),
      () => arithmetic.allocate(1.5),
      () => arithmetic.fill({ ...x, rows: 100 }, 0),
      () => arithmetic.copy(x, { ...x, columns: 2 }),
      () => arithmetic.multiply(x, x, x),
      () => arithmetic.store("Q8_0", 1, 32, new Uint8Array(33)),
    ]) {
      expect(run).toThrowError(expect.objectContaining(refused));
    }
    expect(() => arithmetic.allocate(1e15)).toThrowError(expect.objectContaining({ code: "OUT_OF_BUDGET" }));
    x.values.free();
    expect(() => arithmetic.fill(x, 0)).toThrowError(expect.objectContaining(refused));
  });
});
