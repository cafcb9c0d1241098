import { describe, expect, it } from "vitest";
import { createReferenceTraining } from "../../backends/reference/training.js";
import type { Matrix, TrainingArithmetic } from "../../backends/training.js";
import { AdamW } from "./adamw.js";
import { Apollo } from "./apollo.js";
import { asMatrix, type ParameterKind, stateBytes, type Trainable } from "./contract.js";
import { Mezo } from "./mezo.js";
import { createScratch, Muon, orthogonalise } from "./muon.js";
import { checkOptimiser, createOptimiser, OPTIMISER_NAMES } from "./resolve.js";

const exact = () => createReferenceTraining({ precision: "f64" });

function filled(arithmetic: TrainingArithmetic, rows: number, columns: number, seed: number): Matrix {
  const matrix = asMatrix(arithmetic.allocate(rows * columns), rows, columns);
  arithmetic.addNormal(matrix, seed, 1, 0);
  return matrix;
}

function parameter(
  arithmetic: TrainingArithmetic,
  kind: ParameterKind,
  rows: number,
  columns: number,
  seed = 1,
): Trainable & { gradient: Matrix } {
  const name = `${kind}${seed}`;
  const weight = filled(arithmetic, rows, columns, seed);
  return { name, kind, rows, columns, weight, gradient: filled(arithmetic, rows, columns, seed + 100) };
}

const read = async ({ values }: Matrix): Promise<number[]> => Array.from(await values.read());

const product = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, i) => sum + x * b[i]!, 0);

const norm = (a: readonly number[]) => Math.sqrt(product(a, a));

const columnOf = (x: readonly number[], columns: number, c: number) => x.filter((_, i) => i % columns === c);

const rowOf = (x: readonly number[], columns: number, r: number) => x.slice(r * columns, (r + 1) * columns);

describe("AdamW", () => {
  it("steps as its formula says, twice, and decays all but vectors", async () => {
    const arithmetic = exact();
    for (const kind of ["matrix", "embedding", "vector"] as const) {
      const one = parameter(arithmetic, kind, 1, 6);
      const [w, g] = [await read(one.weight), await read(one.gradient)];
      const options = { beta1: 0.8, beta2: 0.9, epsilon: 1e-3, decay: 0.5 };
      const optimiser = new AdamW(arithmetic, [one], options);
      const expected = w.map((weight, i) => {
        let [m, v] = [0, 0];
        for (const step of [1, 2]) {
          m = 0.8 * m + 0.2 * g[i]!;
          v = 0.9 * v + 0.1 * g[i]! ** 2;
          const ratio = m / (1 - 0.8 ** step) / (Math.sqrt(v / (1 - 0.9 ** step)) + 1e-3);
          weight -= 0.1 * (ratio + (kind === "vector" ? 0 : 0.5 * weight));
        }
        return weight;
      });
      for (const step of [1, 2]) await optimiser.step({ rate: 0.1, step });
      for (const [i, value] of (await read(one.weight)).entries())
        expect(value).toBeCloseTo(expected[i]!, 12);
    }
  });
});

describe("Muon on experts that lie one under another", () => {
  it("does to each what it would do alone", async () => {
    const arithmetic = exact();
    const stack = { ...parameter(arithmetic, "matrix", 12, 5), experts: 3 };
    const alone = await Promise.all(
      [0, 1, 2].map(async (e) => {
        const part = parameter(arithmetic, "matrix", 4, 5);
        for (const key of ["weight", "gradient"] as const)
          await part[key].values.write((await read(stack[key])).slice(20 * e, 20 * (e + 1)));
        return part;
      }),
    );
    for (const one of [[stack], alone]) {
      const optimiser = new Muon(arithmetic, one);
      for (const step of [1, 2]) await optimiser.step({ rate: 0.1, step });
    }
    const want = (await Promise.all(alone.map(({ weight }) => read(weight)))).flat();
    for (const [i, value] of (await read(stack.weight)).entries()) expect(value).toBeCloseTo(want[i]!, 12);
  });
});

describe("orthogonalise", () => {
  it.each([
    [6, 6],
    [4, 9],
    [9, 4],
    [1, 7],
    [7, 1],
  ])(
    "makes the singular values of a %d x %d matrix about 1, and keeps its directions",
    async (rows, columns) => {
      const arithmetic = exact();
      const x = filled(arithmetic, rows, columns, 3);
      const before = await read(x);
      const result = await read(orthogonalise(arithmetic, x, createScratch(arithmetic, [{ rows, columns }])));
      expect(await read(x)).toEqual(before);
      // U V^T has inner product sum(S) with U S V^T, the most that any matrix of its length has.
      expect(product(result, before)).toBeGreaterThan(0);
      const wide = rows <= columns;
      const side = Math.min(rows, columns);
      const vector = (i: number) => (wide ? rowOf(result, columns, i) : columnOf(result, columns, i));
      for (let i = 0; i < side; i++) {
        for (let j = 0; j < side; j++) {
          const inner = product(vector(i), vector(j));
          // Singular values between 0.6 and 1.25, squared, bound the Gram matrix on both sides of 1.
          if (i === j) expect(Math.abs(inner - 1)).toBeLessThan(0.64);
          else expect(Math.abs(inner)).toBeLessThan(0.5);
        }
      }
    },
  );

  it("is the polynomial of the paper, for a matrix of one number", async () => {
    const arithmetic = exact();
    const x = asMatrix(arithmetic.allocate(1), 1, 1);
    await x.values.write([-250]);
    let expected = -1;
    for (let i = 0; i < 5; i++) expected = 3.4445 * expected - 4.775 * expected ** 3 + 2.0315 * expected ** 5;
    const [got] = await read(orthogonalise(arithmetic, x, createScratch(arithmetic, [x])));
    expect(got).toBeCloseTo(expected, 10);
  });

  it("leaves zeros zeros", async () => {
    const arithmetic = createReferenceTraining({ precision: "f32" });
    const x = asMatrix(arithmetic.allocate(12), 3, 4);
    expect(await read(orthogonalise(arithmetic, x, createScratch(arithmetic, [x])))).toEqual(
      new Array(12).fill(0),
    );
  });
});

describe("Muon", () => {
  it("moves matrices by the orthogonalised Nesterov momentum at AdamW's size, and the rest by AdamW", async () => {
    const arithmetic = exact();
    const matrix = parameter(arithmetic, "matrix", 4, 8);
    const vector = parameter(arithmetic, "vector", 1, 5, 2);
    const twin = { ...parameter(arithmetic, "vector", 1, 5, 2) };
    const [w, g] = [await read(matrix.weight), await read(matrix.gradient)];
    const momentum = filled(arithmetic, 4, 8, 101);
    const optimiser = new Muon(arithmetic, [matrix, vector], { decay: 0.25 });
    await optimiser.step({ rate: 0.1, step: 1 });
    await new AdamW(arithmetic, [twin], { decay: 0.25 }).step({ rate: 0.1, step: 1 });
    // Of a first gradient the momentum is the gradient itself, and its direction that of 1.95 times it.
    expect(await read(momentum)).toEqual(g);
    const direction = await read(orthogonalise(arithmetic, momentum, createScratch(arithmetic, [momentum])));
    const expected = w.map((x, i) => x * (1 - 0.1 * 0.25) - 0.1 * 0.2 * Math.sqrt(8) * direction[i]!);
    for (const [i, value] of (await read(matrix.weight)).entries())
      expect(value).toBeCloseTo(expected[i]!, 10);
    expect(await read(vector.weight)).toEqual(await read(twin.weight));
  });
});

describe("APOLLO", () => {
  it.each([
    ["tall", 9, 4],
    ["wide", 4, 9],
  ])(
    "scales the channels of a %s matrix by ||Adam of the projection|| / ||projection||",
    async (_, rows, columns) => {
      const arithmetic = exact();
      const one = parameter(arithmetic, "matrix", rows, columns);
      const [w, g] = [await read(one.weight), await read(one.gradient)];
      const rank = 2;
      await new Apollo("channel", arithmetic, [one], { rank, decay: 0, seed: 5 }).step({ rate: 1, step: 1 });
      const moved = (await read(one.weight)).map((x, i) => w[i]! - x);
      const channel = (x: readonly number[], c: number) =>
        rows > columns ? rowOf(x, columns, c) : columnOf(x, columns, c);
      const factors = Array.from({ length: 9 }, (_, c) => {
        const [is, was] = [channel(moved, c), channel(g, c)];
        // One factor for the whole channel.
        const factor = norm(is) / norm(was);
        for (const [i, x] of is.entries()) expect(x).toBeCloseTo(factor * was[i]!, 8);
        return factor;
      });
      // Adam's first update is a sign per number, so its length is sqrt(rank); the projection's varies by channel.
      const lengths = factors.map((factor) => Math.sqrt(rank) / factor);
      expect(new Set(lengths.map((length) => length.toFixed(6))).size).toBe(9);
      const mean = lengths.reduce((sum, length, c) => sum + (length / norm(channel(g, c))) ** 2, 0) / 9;
      // E ||P g||^2 = ||g||^2; ninefold mean of chi-squares of 2 degrees each.
      expect(mean).toBeGreaterThan(0.2);
      expect(mean).toBeLessThan(3);
    },
  );

  it("mini: one scale for the matrix, sqrt(128) by default", async () => {
    const arithmetic = exact();
    const one = parameter(arithmetic, "matrix", 6, 4);
    const [w, g] = [await read(one.weight), await read(one.gradient)];
    await new Apollo("tensor", arithmetic, [one], { decay: 0 }).step({ rate: 1, step: 1 });
    const moved = (await read(one.weight)).map((x, i) => w[i]! - x);
    const factor = norm(moved) / norm(g);
    for (const [i, x] of moved.entries()) expect(x).toBeCloseTo(factor * g[i]!, 8);
    // Rank 1: six signs over the length of six projected numbers, about that of g.
    expect(factor).toBeGreaterThan((Math.sqrt(128) * Math.sqrt(6)) / norm(g) / 6);
    expect(factor).toBeLessThan(((Math.sqrt(128) * Math.sqrt(6)) / norm(g)) * 6);
  });

  it("lets updates grow by 1 % a step at most", async () => {
    const arithmetic = exact();
    const one = parameter(arithmetic, "matrix", 6, 4);
    const g = await read(one.gradient);
    const optimiser = new Apollo("tensor", arithmetic, [one], { decay: 0 });
    const lengths: number[] = [];
    for (const step of [1, 2, 3]) {
      const before = await read(one.weight);
      // Gradients that shrink to nearly nothing and are back again make Adam's ratio jump.
      await one.gradient.values.write(g.map((x) => x * (step === 2 ? 1e-6 : 1)));
      await optimiser.step({ rate: 1, step });
      const after = await read(one.weight);
      lengths.push(norm(after.map((x, i) => x - before[i]!)));
    }
    expect(lengths[2]! / lengths[1]!).toBeLessThanOrEqual(1.01 + 1e-9);
  });
});

describe("MeZO", () => {
  it("goes down the slope along its noise, in which nothing but the seed decides", async () => {
    const arithmetic = exact();
    const step = async (seed: number) => {
      const one = parameter(arithmetic, "matrix", 3, 5);
      const before = await read(one.weight);
      const slopes = await read(one.gradient);
      const seen: number[] = [];
      // A linear loss: its slope along z is exact.
      const loss = async () => {
        seen.push(product(await read(one.weight), slopes));
        return seen.at(-1)!;
      };
      const found = await new Mezo(arithmetic, [one], { seed }).step({ rate: 0.01, step: 4 }, loss);
      const moved = (await read(one.weight)).map((x, i) => x - before[i]!);
      return { moved, slopes, found, seen };
    };
    const { moved, slopes, found, seen } = await step(7);
    expect(seen).toHaveLength(2);
    expect(found.loss).toBeCloseTo((seen[0]! + seen[1]!) / 2, 12);
    // moved = -rate * slope * z and slope = z . gradient, so that gradient . moved = -rate * slope^2.
    expect(product(moved, slopes)).toBeCloseTo(-0.01 * found.slope ** 2, 8);
    expect((await step(7)).moved).toEqual(moved);
    expect((await step(8)).moved).not.toEqual(moved);
  });

  it("puts the weights back where a loss is not finite", async () => {
    const arithmetic = exact();
    const one = parameter(arithmetic, "matrix", 3, 5);
    const before = await read(one.weight);
    const { slope } = await new Mezo(arithmetic, [one]).step({ rate: 1, step: 1 }, async () => Number.NaN);
    expect(slope).toBeNaN();
    for (const [i, x] of (await read(one.weight)).entries()) expect(x).toBeCloseTo(before[i]!, 12);
  });
});

describe("state", () => {
  it.each([
    ["adamw", 2 * (8 * 12 + 16 * 8 + 8)],
    ["muon", 8 * 12 + 2 * (16 * 8 + 8)],
    // 12 channels of rank 8 / 4, twice, and one length.
    ["apollo", 2 * 12 * 2 + 1 + 2 * (16 * 8 + 8)],
    ["apollo-mini", 2 * 12 + 1 + 2 * (16 * 8 + 8)],
    ["mezo", 0],
  ] as const)("%s keeps %d numbers", (name, numbers) => {
    const arithmetic = createReferenceTraining({ precision: "f32" });
    const parameters = [
      parameter(arithmetic, "matrix", 8, 12),
      parameter(arithmetic, "embedding", 16, 8),
      parameter(arithmetic, "vector", 1, 8),
    ];
    const before = arithmetic.bytes.current;
    const optimiser = createOptimiser(checkOptimiser(name), arithmetic, parameters);
    expect(stateBytes(optimiser, arithmetic)).toBe(4 * numbers);
    expect(new Set(optimiser.state.map((array) => array.name)).size).toBe(optimiser.state.length);
    optimiser.dispose();
    expect(arithmetic.bytes.current).toBe(before);
  });
});

describe("checkOptimiser", () => {
  it("completes what it is given, and gives the same back when asked again", () => {
    for (const name of OPTIMISER_NAMES) {
      const spec = checkOptimiser(name);
      expect(spec.name).toBe(name);
      expect(checkOptimiser(spec)).toEqual(spec);
    }
    expect(checkOptimiser({ name: "adamw", decay: 0 })).toEqual({
      name: "adamw",
      beta1: 0.9,
      beta2: 0.95,
      epsilon: 1e-8,
      decay: 0,
    });
  });

  it.each([
    ["sgd", "one of adamw, muon"],
    [{ name: "adamw", beta3: 0.5 }, 'Did you mean "beta'],
    [{ name: "adamw", beta1: 1 }, "below 1"],
    [{ name: "muon", momentum: "much" }, "below 1"],
    [{ name: "apollo", rank: 0 }, "at least 1"],
    [{ name: "mezo", seed: -1 }, "2^53"],
    [null, "one of"],
  ])("refuses %j", (spec, message) => {
    expect(() => checkOptimiser(spec)).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringContaining(message) }),
    );
  });
});
