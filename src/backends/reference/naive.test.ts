/** The reference backend against formulas written another way: as the literature has them, over arrays of numbers. */
import { describe, expect, test } from "vitest";
import { expectClose } from "../../../test/conformance/compare.js";
import { kvBatch } from "../../../test/conformance/kv.js";
import { type Batch, Scene, type Table } from "../../../test/conformance/scene.js";
import { TestRandom } from "../../../test/support/random.js";
import type { BufferRef } from "../../tape/tape.js";
import { GUMBEL_QUANTILES, gumbelIndex } from "../gumbel.js";
import { createReference } from "./index.js";

type Matrix = number[][];

const rowsOf = (data: ArrayLike<number>, width: number): Matrix =>
  Array.from({ length: data.length / width }, (_, r) =>
    Array.from({ length: width }, (_, c) => data[r * width + c]!),
  );
const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0);
const dot = (a: number[], b: number[]): number => sum(a.map((x, i) => x * b[i]!));

/** Runs tokens 0 .. T-1 and reads the buffers. */
async function run(scene: Scene, numTokens: number, buffers: BufferRef[], positions?: number[]) {
  const stage = await scene.on(createReference(), { maxTokens: numTokens });
  const tokens = Array.from({ length: numTokens }, (_, t) => t);
  await stage.run({ tokens, ...(positions ? { positions } : {}) });
  const results = buffers.map((buffer) => stage.read(buffer));
  stage.dispose();
  return results;
}

const near = (what: string, got: Float32Array, want: Matrix) =>
  expectClose(what, got, want.flat(), (i) => 1e-6 * (Math.abs(want.flat()[i]!) + 0.01));

describe("reference", () => {
  test("matmul is W x + b, and adds where asked", async () => {
    const random = new TestRandom(1);
    const [w, x, b, y] = [random.floats(5 * 8), random.floats(3 * 8), random.floats(5), random.floats(3 * 5)];
    const scene = new Scene();
    const input = scene.input(x, 8);
    const weight = scene.matrix({ data: w, rows: 5, columns: 8 });
    const plain = scene.tape.matmul(input, weight);
    const added = scene.tape.matmul(input, weight, { bias: scene.vector(b), addTo: scene.input(y, 5) });
    scene.finish(plain);
    const results = await run(scene, 3, [plain, added]);
    const product = rowsOf(x, 8).map((row) => rowsOf(w, 8).map((weights) => dot(row, weights)));
    near("plain", results[0]!, product);
    near(
      "added",
      results[1]!,
      product.map((row, t) => row.map((value, i) => value + b[i]! + y[t * 5 + i]!)),
    );
  });

  test("rmsNorm leaves rows whose mean square is 1, before the weight", async () => {
    const random = new TestRandom(2);
    const x = random.floats(4 * 12, 5);
    const weights = random.floats(6);
    const scene = new Scene();
    const input = scene.input(x, 12);
    const unit = scene.tape.rmsNorm(input, null, { epsilon: 0 });
    const perHead = scene.tape.rmsNorm(input, scene.vector(weights, 1), { epsilon: 1e-3, width: 6 });
    scene.finish(unit);
    const [units, heads] = await run(scene, 4, [unit, perHead]);
    for (const row of rowsOf(units!, 12)) expect(dot(row, row) / 12).toBeCloseTo(1, 6);
    near(
      "per head",
      heads!,
      rowsOf(x, 6).map((head) =>
        head.map((value, i) => (value * (1 + weights[i]!)) / Math.sqrt(dot(head, head) / 6 + 1e-3)),
      ),
    );
  });

  test("rope multiplies complex numbers", async () => {
    const random = new TestRandom(3);
    const frequencies = Float64Array.of(1, 0.3);
    const x = random.floats(3 * 12);
    const positions = [0, 7, 100_003];
    for (const style of ["half", "interleaved"] as const) {
      const scene = new Scene();
      const input = scene.input(x, 12);
      scene.tape.applyRope(input, 6, scene.tape.rope({ frequencies, magnitude: 1.5, style }));
      scene.finish(input);
      const [got] = await run(scene, 3, [input], positions);
      const pairs = style === "half" ? [[0, 2], [1, 3]] : [[0, 1], [2, 3]]; // biome-ignore format: two pairs each
      const want = rowsOf(x, 12).map((row, t) =>
        row.map((value, i) => {
          const [head, element] = [Math.floor(i / 6) * 6, i % 6];
          const pair = pairs.findIndex((each) => each.includes(element));
          if (pair < 0) return value;
          const [re, im] = pairs[pair]!.map((each) => row[head + each]!) as [number, number];
          const angle = positions[t]! * frequencies[pair]!;
          const [length, start] = [Math.hypot(re, im), Math.atan2(im, re)];
          const turned = element === pairs[pair]![0] ? Math.cos(start + angle) : Math.sin(start + angle);
          return 1.5 * length * turned;
        }),
      );
      near(style, got!, want);
    }
  });

  test("glu: known values of the three activations", async () => {
    const gates = Float32Array.of(0, 1, -1, 3, -3, 8);
    const known = {
      silu: [0, 0.7310585786, -0.2689414214, 2.8577223804, -0.1422776196, 7.9973171972],
      gelu: [0, 0.8413447461, -0.1586552539, 2.9959503, -0.0040497, 8],
      gelu_tanh: [0, 0.8411919906, -0.1588080094, 2.9963627, -0.0036373, 8],
    };
    for (const activation of ["silu", "gelu", "gelu_tanh"] as const) {
      const scene = new Scene();
      const gate = scene.input(gates.slice(), 6);
      scene.tape.glu(gate, scene.input(new Float32Array(6).fill(2), 6), activation);
      scene.finish(gate);
      const [got] = await run(scene, 1, [gate]);
      expectClose(
        activation,
        got!,
        known[activation].map((value) => 2 * value),
        () => 2e-6,
      );
    }
  });

  test("route, matmulExperts and combine make the weighted mixture of the best experts", async () => {
    const random = new TestRandom(4);
    const [experts, perToken, width, numTokens] = [6, 2, 8, 5];
    const logits = random.floats(numTokens * experts, 3);
    const w = random.floats(experts * 4 * width);
    const x = random.floats(numTokens * width);
    for (const normalize of [true, false]) {
      const scene = new Scene();
      const route = scene.tape.route(scene.input(logits, experts), { perToken, normalize });
      const weight = scene.matrix({ data: w, rows: 4, columns: width, experts });
      const y = scene.tape.matmulExperts(scene.input(x, width), weight, route);
      const out = scene.input(new Float32Array(numTokens * 4), 4);
      scene.tape.combine(y, route, out);
      scene.finish(out);
      const [got] = await run(scene, numTokens, [out]);
      const want = rowsOf(logits, experts).map((row, t) => {
        const all = row.map((logit) => Math.exp(logit) / sum(row.map(Math.exp)));
        const threshold = [...all].sort((a, b) => b - a)[perToken - 1]!;
        const taken = all.map((p) => (p >= threshold ? p : 0));
        const shares = taken.map((p) => p / (normalize ? sum(taken) : 1));
        return Array.from({ length: 4 }, (_, i) =>
          sum(shares.map((share, e) => share * dot(rowsOf(w, width)[e * 4 + i]!, rowsOf(x, width)[t]!))),
        );
      });
      near(`normalize ${normalize}`, got!, want);
    }
  });

  test("attention is softmax(cap(scale q k)) v over what a query may see", async () => {
    const [headWidth, numKvHeads, numHeads, scale, softcap, window] = [8, 2, 4, 0.4, 3, 14];
    const random = new TestRandom(5);
    const tempered = { temperature: 1.4, noise: 0.7, seed: 3 };
    const shape = {
      numLayers: 1,
      numKvHeads,
      headWidth,
      codec: "f32",
      pageTokens: 16,
      groups: "apart",
      spans: [
        { stored: 20, count: 4 },
        { stored: 0, count: 3 },
      ],
      rotations: [-6, 40],
      chained: 18,
      wantsMass: true,
      givers: 2,
      mostCounts: 5,
      tempered,
    } as const;
    // Codecs other than f32 would need decoding here.
    const { groups, batch: mixed, numPages, maxTokens } = kvBatch(random, shape);
    const plain = (table: Table): Table => ({
      ...table,
      codec: "f32",
      ...(table.next ? { next: plain(table.next) } : {}),
    });
    const batch: Batch = {
      ...mixed,
      spans: mixed.spans!.map(({ count, tables }) => ({ count, tables: tables.map(plain) })),
    };
    const frequencies = Float64Array.of(1, 0.2, 0.05, 0.01);
    const [k, v] = [random.floats(7 * 16), random.floats(7 * 16)];
    const q = random.floats(7 * 32, 2);
    const scene = new Scene();
    const rope = scene.tape.rope({ frequencies, magnitude: 1, style: "half" });
    const [kRef, vRef, qRef] = [scene.input(k, 16), scene.input(v, 16), scene.input(q, 32)];
    scene.tape.append({ layer: 0, numKvHeads, headWidth, window }, kRef, vRef);
    const out = scene.tape.attention(qRef, { layer: 0, numHeads, scale, softcap, rope });
    scene.finish(out);
    const stage = await scene.on(createReference(), { maxTokens, groups, numPages });
    await stage.run(batch);
    const got = stage.read(out);

    const turn = (head: number[], by: number): number[] =>
      head.map((_, i) => {
        const [re, im] = [head[i % 4]!, head[(i % 4) + 4]!];
        const angle = by * frequencies[i % 4]!;
        return i < 4
          ? re * Math.cos(angle) - im * Math.sin(angle)
          : re * Math.sin(angle) + im * Math.cos(angle);
      });
    const want: Matrix = [];
    const masses = new Map<string, number>();
    let start = 0;
    for (const [s, { count, tables }] of batch.spans!.entries()) {
      for (let t = start; t < start + count; t++) {
        for (let h = 0; h < numHeads; h++) {
          const head = Math.floor((h * numKvHeads) / numHeads);
          const g = groups.findIndex(({ lanes }) => lanes.some((lane) => lane.head === head));
          const query = rowsOf(q, headWidth)[t * numHeads + h]!;
          const position = batch.positions![t]!;
          const seen: { weight: number; warm: number; value: number[]; id: string }[] = [];
          for (let table: Table | undefined = tables[g]!, depth = 0; table; table = table.next, depth++) {
            for (const [slot, at] of table.positions.entries()) {
              if (at < 0 || at > position || position - at >= window) continue;
              const own =
                depth === 0
                  ? batch.slots![g]!.findIndex((each, i) => each === slot && i >= start && i < start + count)
                  : -1;
              const pair =
                own >= 0
                  ? [rowsOf(k, headWidth)[own * 2 + head]!, rowsOf(v, headWidth)[own * 2 + head]!]
                  : table.contents[0]![slot]!.map((each) => [...each]);
              const rotation = table.rotations[Math.floor(slot / table.pageTokens)]!;
              const moved = rotation < 0 ? query : turn(query, batch.rotations![rotation]!);
              const standsFor = Math.exp(table.logCounts![slot]!);
              const weight =
                standsFor * Math.exp(softcap * Math.tanh((scale * dot(moved, pair[0]!)) / softcap));
              const quantile = gumbelIndex(tempered.seed, 0, h, position, at);
              const gumbel = -Math.log(-Math.log((quantile + 0.5) / GUMBEL_QUANTILES));
              const warm = (weight * Math.exp(tempered.noise * gumbel)) ** (1 / tempered.temperature);
              seen.push({ weight, warm, value: pair[1]!, id: `${s} ${g} ${depth} ${slot}` });
            }
          }
          const total = sum(seen.map(({ weight }) => weight));
          want.push(query.map((_, i) => sum(seen.map(({ weight, value }) => (weight / total) * value[i]!))));
          if (t < start + count - shape.givers) continue;
          const warmth = sum(seen.map(({ warm }) => warm));
          for (const { warm, id } of seen) masses.set(id, (masses.get(id) ?? 0) + warm / warmth);
        }
      }
      start += count;
    }
    near("attention", got, want);
    for (const [s, views] of stage.views.entries()) {
      for (const [g, first] of views.entries()) {
        let view: typeof first | null = first;
        for (let depth = 0; view; view = view.next, depth++) {
          const slots = view.numPages * view.pageTokens;
          const expected = Array.from(
            { length: slots },
            (_, slot) => masses.get(`${s} ${g} ${depth} ${slot}`) ?? 0,
          );
          expectClose("mass", view.mass!.region.float32(0, slots), expected, () => 1e-5);
        }
      }
    }
    stage.dispose();
  });

  test("refuses a page number outside the arena", async () => {
    const random = new TestRandom(6);
    const shape = {
      numLayers: 1,
      numKvHeads: 1,
      headWidth: 8,
      codec: "f32",
      pageTokens: 16,
      groups: "together",
      spans: [{ stored: 0, count: 2 }],
    } as const;
    const { groups, batch, numPages } = kvBatch(random, shape);
    const scene = new Scene();
    const k = scene.input(random.floats(16), 8);
    scene.tape.append({ layer: 0, numKvHeads: 1, headWidth: 8, window: null }, k, k);
    scene.finish(k);
    const stage = await scene.on(createReference(), { maxTokens: 2, groups, numPages });
    const spans = batch.spans!.map(({ count, tables }) => ({
      count,
      tables: tables.map((table) => ({ ...table, pageIds: Int32Array.of(numPages) })),
    }));
    await expect(stage.run({ ...batch, spans })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    stage.dispose();
  });
});
