/**
 * The conformance suite of training arithmetic: every operation on odd shapes, strides and offsets, held to the
 * reference in double precision, and to itself on another number of threads, bit by bit. What lies between a
 * matrix's rows and around it is held too: it must not change.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Backend } from "../../src/backends/contract.js";
import { createReferenceTraining } from "../../src/backends/reference/training.js";
import type {
  Angles,
  AttentionShape,
  Ids,
  Matrix,
  TrainingArithmetic,
  Values,
} from "../../src/backends/training.js";
import { blockFormat, LAYOUTS, rowBytes } from "../../src/formats/blocks/index.js";
import type { TensorType } from "../../src/formats/checkpoint.js";
import { TestRandom } from "../support/random.js";

/** A script of operations, run on the same random numbers by every arithmetic. */
interface Case {
  readonly name: string;
  /** Largest difference allowed, of the largest number in a matrix. Default: 1e-5. */
  readonly tolerance?: number;
  run(world: World): void | Promise<void>;
}

/** Makes matrices and ids of random numbers, and remembers them for comparison. */
class World {
  readonly random = new TestRandom(2026);
  readonly all: Values[] = [];
  readonly #written: Promise<void>[] = [];

  constructor(readonly t: TrainingArithmetic) {}

  /** Numbers of absolute value below `scale`, with `gap` numbers between rows and `at` before the first. */
  matrix(rows: number, columns: number, { gap = 3, at = 5, scale = 1, base = 0 } = {}): Matrix {
    const stride = columns + gap;
    const values = this.t.allocate(at + rows * stride + 7);
    const numbers = this.random.floats(values.length, scale).map((x) => x + base);
    this.#written.push(values.write(numbers));
    this.all.push(values);
    return { values, at, rows, columns, stride };
  }

  ids(length: number, below: number): Ids {
    return this.idsOf(Array.from({ length }, () => this.random.below(below)));
  }

  idsOf(list: readonly number[]): Ids {
    const ids = this.t.allocateIds(list.length);
    this.#written.push(ids.write(list));
    return ids;
  }

  async result(): Promise<ArrayLike<number>[]> {
    await Promise.all(this.#written);
    const results: ArrayLike<number>[] = [];
    for (const values of this.all) results.push(await values.read());
    return results;
  }
}

async function play(arithmetic: TrainingArithmetic, { run }: Case): Promise<ArrayLike<number>[]> {
  const world = new World(arithmetic);
  await run(world);
  return world.result();
}

function compare(got: ArrayLike<number>[], want: ArrayLike<number>[], tolerance: number): void {
  got.forEach((numbers, index) => {
    const wanted = Array.from(want[index]!);
    const bound = tolerance * wanted.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-6);
    const bad = wanted.findIndex((x, at) => !(Math.abs(numbers[at]! - x) <= bound));
    if (bad < 0) return;
    expect.fail(
      `matrix ${index}, number ${bad}: got ${numbers[bad]}, want ${wanted[bad]} to within ${bound}`,
    );
  });
}

const MULTIPLIES = [
  [1, 1, 1],
  [5, 7, 3],
  [13, 33, 17],
  [96, 64, 256],
  [97, 31, 257],
  [270, 40, 30],
  [20, 530, 20],
  [50, 20, 450],
].flatMap(([rows = 0, columns = 0, inner = 0]) =>
  [0, 1, 2, 3].map((transposes): Case => {
    const transposeA = (transposes & 1) > 0;
    const transposeB = (transposes & 2) > 0;
    return {
      name: `multiply ${rows} x ${columns} over ${inner}${transposeA ? ", A transposed" : ""}${transposeB ? ", B transposed" : ""}`,
      run(world) {
        const a = transposeA ? world.matrix(inner, rows) : world.matrix(rows, inner);
        const b = transposeB ? world.matrix(columns, inner, { gap: 0 }) : world.matrix(inner, columns);
        const out = world.matrix(rows, columns);
        world.t.multiply(a, b, out, { transposeA, transposeB, alpha: 0.5 });
        world.t.multiply(a, b, out, { transposeA, transposeB, accumulate: true });
      },
    };
  }),
);

const SHAPE: AttentionShape = {
  sequences: 1,
  firstQuery: 0,
  numHeads: 2,
  numKvHeads: 1,
  headWidth: 32,
  scale: 0.2,
  softcap: 0,
  window: null,
  sinks: 0,
};

const ATTENTIONS = (
  [
    ["one query", 1, 1, {}],
    ["one block", 20, 20, { sequences: 2 }],
    ["blocks, GQA", 130, 130, { numHeads: 6, numKvHeads: 2, sequences: 2, headWidth: 16 }],
    ["odd heads", 100, 100, { headWidth: 20, numHeads: 3, numKvHeads: 3 }],
    ["wide heads", 50, 50, { headWidth: 128, numHeads: 1, scale: 0.1 }],
    ["a later chunk", 70, 200, { firstQuery: 110, sequences: 2, headWidth: 24 }],
    ["keys that nobody sees", 40, 230, { firstQuery: 60 }],
    ["a window", 250, 250, { window: 70 }],
    ["a narrow window", 120, 250, { window: 5, firstQuery: 130 }],
    ["a window and sinks", 250, 250, { window: 40, sinks: 3 }],
    ["a window and many sinks", 230, 330, { window: 30, sinks: 110, firstQuery: 100 }],
    ["softcap", 110, 110, { softcap: 2, scale: 1 }],
    ["scores far apart", 110, 110, { scale: 12 }],
    ["more than a chunk", 420, 420, { headWidth: 8 }],
  ] as const
).map(
  ([name, n, m, change]): Case => ({
    name: `attention and its gradients: ${name}`,
    tolerance: 3e-5,
    run(world) {
      const shape = { ...SHAPE, ...change };
      const { sequences, numHeads, numKvHeads, headWidth } = shape;
      const [width, kvWidth] = [numHeads * headWidth, numKvHeads * headWidth];
      const [q, out, dOut, dQ] = [0, 1, 2, 3].map(() => world.matrix(sequences * n, width)) as Matrix[];
      const [k, v, dK, dV] = [0, 1, 2, 3].map(() => world.matrix(sequences * m, kvWidth)) as Matrix[];
      const logSum = world.matrix(sequences * n, numHeads);
      world.t.attention(q!, k!, v!, shape, out!, logSum);
      const forward = { q: q!, k: k!, v: v!, out: out!, logSum };
      world.t.attentionBackward(forward, shape, dOut!, dQ!, dK!, dV!);
    },
  }),
);

const ELEMENTWISE: Case[] = [
  {
    name: "fill, copy, addScaled",
    run(world) {
      world.t.fill(world.matrix(7, 19), 0.25);
      world.t.fill(world.matrix(3, 5000, { gap: 0 }), 0);
      const x = world.matrix(9, 33);
      world.t.copy(x, world.matrix(9, 33, { gap: 0, at: 0 }));
      world.t.addScaled(x, world.matrix(9, 33), -0.7, 0.3);
      world.t.addScaled(world.matrix(40, 250, { gap: 0 }), world.matrix(40, 250, { gap: 0, at: 1 }), 2, 1);
    },
  },
  {
    name: "copies over what is no number",
    async run(world) {
      const out = world.matrix(2, 20);
      await world.result();
      await out.values.write(new Float32Array(out.values.length).fill(Number.NaN));
      world.t.copy(world.matrix(2, 20), out);
      const multiplied = world.matrix(3, 2, { gap: 0 });
      world.t.multiply(world.matrix(3, 20), out, multiplied, { transposeB: true });
      world.all.splice(world.all.indexOf(out.values), 1);
    },
  },
  {
    name: "addRow, sumRows, scaleRows, rowNorms, sumSquares",
    run(world) {
      const x = world.matrix(37, 75);
      world.t.sumRows(x, world.matrix(1, 75));
      world.t.addRow(world.matrix(1, 75), x);
      const norms = world.matrix(37, 1, { gap: 0 });
      world.t.rowNorms(x, norms);
      world.t.scaleRows(x, norms, world.matrix(37, 75));
      world.t.scaleRows(x, norms, x);
      world.t.sumSquares(x, world.matrix(1, 1));
      world.t.sumSquares(world.matrix(90, 100, { gap: 0 }), world.matrix(1, 1));
      world.t.sumSquares(world.matrix(3, 5000), world.matrix(1, 1));
    },
  },
  ...(["silu", "gelu", "gelu_tanh"] as const).map(
    (activation): Case => ({
      name: `glu and its gradients: ${activation}`,
      run(world) {
        const gate = world.matrix(11, 45, { scale: 6 });
        const up = world.matrix(11, 45);
        world.t.glu(gate, up, activation, world.matrix(11, 45));
        const dOut = world.matrix(11, 45);
        world.t.gluBackward(
          gate,
          up,
          activation,
          dOut,
          world.matrix(11, 45),
          world.matrix(11, 45, { gap: 0 }),
        );
      },
    }),
  ),
  ...(
    [
      [7, 3, 5],
      [90, 4, 32],
      [2, 1, 2000],
      [300, 8, 20],
    ] as const
  ).map(
    ([rows, gates, width]): Case => ({
      name: `blend and its gradients: ${rows} rows, ${gates} gates of ${width}`,
      run(world) {
        const [x, y, out, dOut, dX, dY] = [0, 1, 2, 3, 4, 5].map(() => world.matrix(rows, gates * width));
        const [gate, dGates] = [world.matrix(1, gates), world.matrix(1, gates)];
        world.t.blend(x!, y!, gate, out!);
        world.t.blendBackward(x!, y!, gate, dOut!, dX!, dY!, dGates);
        world.t.blendBackward(x!, y!, gate, dOut!, null, dY!, null);
        world.t.blendBackward(x!, y!, gate, dOut!, dX!, null, world.matrix(1, gates, { gap: 0 }));
      },
    }),
  ),
  {
    name: "crossEntropy",
    run(world) {
      const targets = world.idsOf([3, 0, 36, -1, 12, 5, 5, 20]);
      const losses = world.matrix(5, 1);
      world.t.crossEntropy(world.matrix(5, 37, { scale: 20 }), targets, 1, world.matrix(5, 1), losses);
      const wide = world.matrix(6, 1200, { gap: 0, scale: 3, base: 50 });
      world.t.crossEntropy(wide, world.ids(6, 1200), 0, world.matrix(6, 1, { gap: 0 }), world.matrix(6, 1));
    },
  },
  {
    name: "adamW",
    run(world) {
      const [weight, gradient, m] = [0, 1, 2].map(() => world.matrix(13, 77)) as Matrix[];
      const v = world.matrix(13, 77, { base: 1.5 });
      for (const step of [1, 2, 1000]) {
        const options = { rate: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, decay: 0.1, step };
        world.t.adamW(weight!, gradient!, m!, v, options);
      }
    },
  },
  {
    name: "addNormal",
    run(world) {
      world.t.addNormal(world.matrix(13, 77), 12345, 1, 0);
      world.t.addNormal(world.matrix(130, 79, { gap: 0 }), 2 ** 53 - 1, 0.5, 0.25);
    },
  },
];

const DECODER: Case[] = [
  {
    name: "embed and its gradient",
    run(world) {
      const ids = world.ids(150, 40);
      const weight = world.matrix(40, 130);
      world.t.embed(ids, weight, 0.5, world.matrix(150, 130));
      world.t.embedBackward(ids, world.matrix(150, 130), 0.5, weight);
    },
  },
  ...(
    [
      [90, 84, 84],
      [40, 96, 32],
      [3, 2000, 2000],
      [300, 60, 20],
    ] as const
  ).map(
    ([rows, columns, width]): Case => ({
      name: `rmsNorm and its gradients: ${rows} x ${columns} by ${width}`,
      run(world) {
        const x = world.matrix(rows, columns);
        const weight = world.matrix(1, width);
        const out = world.matrix(rows, columns);
        world.t.rmsNorm(x, weight, width, 1e-5, out);
        world.t.rmsNorm(x, null, width, 0.1, world.matrix(rows, columns));
        const dOut = world.matrix(rows, columns);
        world.t.rmsNormBackward(
          x,
          weight,
          width,
          1e-5,
          dOut,
          world.matrix(rows, columns),
          world.matrix(1, width),
        );
        world.t.rmsNormBackward(x, weight, width, 1e-5, dOut, world.matrix(rows, columns), null);
        world.t.rmsNormBackward(x, null, width, 0.1, dOut, world.matrix(rows, columns), null);
      },
    }),
  ),
  ...(["interleaved", "half"] as const).map(
    (style): Case => ({
      name: `rope and back: ${style}`,
      run(world) {
        for (const [headWidth, pairs] of [
          [32, 16],
          [50, 21],
        ] as const) {
          const table = world.matrix(1, 30 * 2 * pairs, { gap: 0, at: 0 });
          const angles: Angles = { values: table.values, pairs, style };
          world.t.rope(world.matrix(14, 3 * headWidth), headWidth, angles, 2, 5, false);
          world.t.rope(world.matrix(20, headWidth), headWidth, angles, 1, 10, true);
        }
      },
    }),
  ),
  {
    name: "decode of stored rows",
    tolerance: 1e-6,
    run(world) {
      for (const type of Object.keys(LAYOUTS) as TensorType[]) {
        const bytes = new Uint8Array(21 * rowBytes(type, 256));
        blockFormat(type).encode?.(world.random.floats(21 * 256), bytes);
        const stored = world.t.store(type, 21, 256, bytes);
        world.t.decode(stored, 0, world.matrix(21, 256));
        world.t.decode(stored, 14, world.matrix(5, 256));
      }
      const odd = new Float32Array(5 * 9).map((_, i) => i);
      const stored = world.t.store("F32", 5, 9, new Uint8Array(odd.buffer));
      world.t.decode(stored, 1, world.matrix(3, 9));
    },
  },
];

const EXPERTS = (
  [
    ["few rows", 3, 5, 2, 20],
    ["rows for every block", 150, 7, 3, 33],
    ["more experts than rows", 6, 40, 4, 16],
    ["all experts", 20, 4, 4, 65],
    ["one expert", 30, 1, 1, 8],
    ["wide rows", 110, 2, 1, 600],
  ] as const
).flatMap(([name, rows, experts, perRow, width]) =>
  [true, false].map(
    (normalize): Case => ({
      name: `experts: ${name}${normalize ? ", weights of sum 1" : ""}`,
      async run(world) {
        const { t } = world;
        const logits = world.matrix(rows, experts, { scale: 4 });
        const weights = world.matrix(rows, perRow);
        const places = world.matrix(rows, perRow);
        const starts = world.matrix(1, experts + 1);
        t.route(logits, normalize, weights, { places, starts });
        t.routeBackward(logits, normalize, world.matrix(rows, perRow), world.matrix(rows, experts));

        const grouped = world.matrix(rows * perRow, width);
        t.spread(world.matrix(rows, width), places, grouped);
        t.combine(grouped, weights, places, world.matrix(rows, width));
        t.combine(grouped, null, places, world.matrix(rows, width));
        const dOut = world.matrix(rows, width);
        const dGrouped = world.matrix(rows * perRow, width);
        t.combineBackward(grouped, weights, places, dOut, dGrouped, null);
        t.combineBackward(grouped, weights, places, dOut, null, world.matrix(rows, perRow));

        const other = 13;
        const stack = world.matrix(experts * other, width);
        const products = world.matrix(rows * perRow, other);
        t.multiplyGroups(grouped, stack, starts, products, { transposeB: true });
        t.multiplyGroups(products, stack, starts, dGrouped, { accumulate: true });
        t.multiplyGroups(products, grouped, starts, stack, { transposeA: true, accumulate: true });
        t.multiplyGroups(products, grouped, starts, world.matrix(experts * other, width), {
          transposeA: true,
        });
        // Some of the groups alone: what belongs to the others stays.
        const last = { ...starts, at: starts.at + experts - 1, columns: 2 };
        const one = world.matrix(width, other, { gap: 0 });
        t.multiplyGroups(grouped, one, last, products);
      },
    }),
  ),
);

const answers = new Map<Case, Promise<ArrayLike<number>[]>>();

/** What the reference makes of a script, computed once for all backends. */
function answerTo(script: Case): Promise<ArrayLike<number>[]> {
  const known = answers.get(script) ?? play(createReferenceTraining(), script);
  answers.set(script, known);
  return known;
}

/** Runs the suite; `create` opens the backend with so many threads. */
export function describeTraining(create: (threads: number) => Promise<Backend>): void {
  describe("training arithmetic", () => {
    const backends: Backend[] = [];
    let one: TrainingArithmetic;
    let three: TrainingArithmetic;

    beforeAll(async () => {
      backends.push(await create(1), await create(3));
      [one, three] = backends.map((backend) => backend.training!()) as [
        TrainingArithmetic,
        TrainingArithmetic,
      ];
    }, 120_000);

    afterAll(async () => {
      for (const backend of backends) await backend.dispose();
    });

    test.each([...MULTIPLIES, ...ATTENTIONS, ...ELEMENTWISE, ...DECODER, ...EXPERTS])(
      "$name",
      async (script) => {
        const got = await play(one, script);
        compare(got, await answerTo(script), script.tolerance ?? 1e-5);
        expect(await play(three, script)).toEqual(got);
      },
    );

    test("many operations in a row, more than are recorded at once", async () => {
      const sum = one.allocate(3);
      const x = one.allocate(3);
      await x.write([1, 2, 3]);
      const matrix = (values: Values): Matrix => ({ values, at: 0, rows: 1, columns: 3, stride: 3 });
      for (let i = 0; i < 2000; i++) one.addScaled(matrix(x), matrix(sum), 1, 1);
      expect([...(await sum.read())]).toEqual([2000, 4000, 6000]);
      expect([...(await sum.read(1, 1))]).toEqual([4000]);
    });

    test("memory is counted, zero when made, and gives up what is freed", async () => {
      const before = one.bytes.current;
      one.resetPeak();
      const values = one.allocate(1000);
      expect([...(await values.read())]).toEqual(Array(1000).fill(0));
      expect(one.bytes.current).toBe(before + 4000);
      values.free();
      values.free();
      expect(one.bytes).toEqual({ current: before, peak: before + 4000 });
      await expect(values.read()).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    });

    test("what is recorded before memory is freed still runs", async () => {
      const [from, to] = [one.allocate(4), one.allocate(4)];
      await from.write([1, 2, 3, 4]);
      const matrix = (values: Values): Matrix => ({ values, at: 0, rows: 1, columns: 4, stride: 4 });
      one.copy(matrix(from), matrix(to));
      from.free();
      expect([...(await to.read())]).toEqual([1, 2, 3, 4]);
    });

    test("matrices that do not fit are refused", async () => {
      const values = one.allocate(12);
      const matrix = (rows: number, columns: number, at = 0): Matrix => ({
        values,
        at,
        rows,
        columns,
        stride: columns,
      });
      const refused = (run: () => void, code = "INVALID_ARGUMENT") =>
        expect(run).toThrow(expect.objectContaining({ code }));
      refused(() => one.fill(matrix(4, 4), 0));
      refused(() => one.fill(matrix(3, 4, 1), 0));
      refused(() => one.copy(matrix(1, 4), matrix(1, 3)));
      refused(() => one.blend(matrix(1, 3), matrix(1, 3, 3), matrix(1, 2, 6), matrix(1, 3, 9)));
      refused(() => one.spread(matrix(2, 2), matrix(2, 1, 4), matrix(3, 2, 6)));
      refused(() => one.multiplyGroups(matrix(2, 2), matrix(3, 2), matrix(1, 3), matrix(2, 2)));
      const grouping = { places: matrix(1, 3), starts: matrix(1, 3) };
      refused(() => one.route(matrix(1, 2), true, matrix(1, 3), grouping));
      refused(() => one.multiply(matrix(2, 2), matrix(1, 2), matrix(2, 2)));
      refused(() => one.fill({ ...matrix(1, 1), values: three.allocate(1) }, 0));
      const ids = one.allocateIds(2);
      await ids.write([0, 3]);
      refused(() => one.embed(ids, matrix(3, 2), 1, matrix(2, 2, 6)), "INVALID_TOKEN");
      const shape = { ...SHAPE, numHeads: 1, headWidth: 2, firstQuery: 1 };
      refused(() =>
        one.attention(matrix(2, 2), matrix(2, 2), matrix(2, 2), shape, matrix(2, 2), matrix(2, 1)),
      );
    });
  });
}
