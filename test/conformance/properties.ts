/**
 * Properties of whole programs: a small model with two layers (grouped queries, one layer with a window, experts in
 * the other), run in different batches that must give the same.
 */
import type { KvGroup, KvLayout, Span } from "../../src/backends/contract.js";
import type { CodecName } from "../../src/cache/codecs/contract.js";
import type { TensorType } from "../../src/formats/checkpoint.js";
import type { BufferRef } from "../../src/tape/tape.js";
import { TestRandom } from "../support/random.js";
import { type AttentionCase, attentionBound, attentionScene } from "./attention.js";
import { expectClose, expectSameBits } from "./compare.js";
import { kvBatch } from "./kv.js";
import { frequencies } from "./rope.js";
import { type Batch, Scene, type Stage, type Table } from "./scene.js";
import type { Suite } from "./suite.js";
import { randomWeight } from "./weights.js";

const WIDTH = 64;
const HEAD = 32;
const VOCABULARY = 48;
const PAGE = 16;

function smallModel(type: TensorType): Scene {
  const random = new TestRandom(77);
  const scene = new Scene();
  const { tape } = scene;
  const matrix = (rows: number, columns: number, experts = 1) => {
    const { data } = randomWeight(random, type, experts * rows, columns);
    return scene.matrix({ data, type, rows, columns, experts });
  };
  const norm = () => scene.vector(random.floats(WIDTH, 0.5), 1);
  const rope = tape.rope({ frequencies: frequencies(HEAD / 2), magnitude: 1, style: "half" });
  const x = tape.embed(matrix(VOCABULARY, WIDTH));
  const attend = (layer: number, window: number | null) => {
    const h = tape.rmsNorm(x, norm(), { epsilon: 1e-5 });
    const q = tape.matmul(h, matrix(4 * HEAD, WIDTH));
    const k = tape.matmul(h, matrix(2 * HEAD, WIDTH));
    const v = tape.matmul(h, matrix(2 * HEAD, WIDTH));
    tape.applyRope(q, HEAD, rope);
    tape.applyRope(k, HEAD, rope);
    tape.append({ layer, numKvHeads: 2, headWidth: HEAD, window }, k, v);
    const mixed = tape.attention(q, { layer, numHeads: 4, scale: HEAD ** -0.5, rope });
    tape.matmul(mixed, matrix(WIDTH, 4 * HEAD), { addTo: x });
  };
  const feed = (x: BufferRef) => {
    const h = tape.rmsNorm(x, norm(), { epsilon: 1e-5 });
    const gate = tape.matmul(h, matrix(96, WIDTH));
    const up = tape.matmul(h, matrix(96, WIDTH));
    tape.matmul(tape.glu(gate, up, "silu"), matrix(WIDTH, 96), { addTo: x });
  };
  attend(0, null);
  feed(x);
  attend(1, 11);
  const h = tape.rmsNorm(x, norm(), { epsilon: 1e-5 });
  const route = tape.route(tape.matmul(h, matrix(8, WIDTH)), { perToken: 2, normalize: true });
  tape.combine(tape.matmulExperts(h, matrix(WIDTH, WIDTH, 8), route), route, x);
  const last = tape.rmsNorm(tape.select(x), norm(), { epsilon: 1e-5 });
  return scene.finish(tape.matmul(last, matrix(VOCABULARY, WIDTH)));
}

const LANES = [0, 1].flatMap((layer) => [0, 1].map((head) => ({ layer, head })));
const group = (codec: CodecName): KvGroup => ({ codec, pageTokens: PAGE, headWidth: HEAD, lanes: LANES });

/** A sequence of its own: tokens, and pages from `firstPage` on, one position after another. */
class Sequence {
  #length = 0;

  constructor(
    readonly tokens: readonly number[],
    readonly firstPage: number,
    readonly codec: CodecName,
  ) {}

  /** The next `count` tokens. */
  take(count: number) {
    const positions = Array.from({ length: count }, (_, i) => this.#length + i);
    this.#length += count;
    return { tokens: positions.map((p) => this.tokens[p]!), positions, table: this.#table() };
  }

  #table(): Table {
    const numPages = Math.ceil(this.#length / PAGE);
    return {
      codec: this.codec,
      pageTokens: PAGE,
      pageIds: Int32Array.from({ length: numPages * LANES.length }, (_, i) => this.firstPage + i),
      positions: Int32Array.from({ length: numPages * PAGE }, (_, p) => (p < this.#length ? p : -1)),
      rotations: new Int32Array(numPages).fill(-1),
      contents: [],
    };
  }
}

const PAGES_EACH = 3 * LANES.length;

function batchOf(parts: readonly ReturnType<Sequence["take"]>[]): Batch {
  const positions = parts.flatMap((part) => part.positions);
  return {
    tokens: parts.flatMap((part) => part.tokens),
    positions,
    spans: parts.map(({ tokens, table }) => ({ count: tokens.length, tables: [table] })),
    slots: [positions],
  };
}

const randomTokens = (seed: number, length: number): number[] => {
  const random = new TestRandom(seed);
  return Array.from({ length }, () => random.below(VOCABULARY));
};

/** Tokens get bit-identical results whatever else rides in the batch. */
export function batchInvarianceCases(suite: Suite): void {
  for (const [type, codec] of [
    ["F32", "f32"],
    ["Q8_0", "f16"],
    ["Q4_0", "int8"],
  ] as const) {
    suite.case(`${type} weights, ${codec} pages: sequences together and one by one`, async () => {
      const lengths = [17, 1, 40, 5, 16];
      const steps = 3;
      const make = () =>
        lengths.map((length, s) => new Sequence(randomTokens(s, length + steps), s * PAGES_EACH, codec));
      const on = () =>
        smallModel(type).on(suite.backend, {
          maxTokens: 100,
          groups: [group(codec)],
          numPages: PAGES_EACH * lengths.length,
        });
      const together: Float32Array[][] = lengths.map(() => []);
      const stage = await on();
      const sequences = make();
      for (let step = 0; step <= steps; step++) {
        await stage.run(batchOf(sequences.map((sequence, s) => sequence.take(step === 0 ? lengths[s]! : 1))));
        const logits = stage.logits();
        let row = 0;
        lengths.forEach((length, s) => {
          const rows = step === 0 ? length : 1;
          together[s]!.push(logits.slice(row * VOCABULARY, (row + rows) * VOCABULARY));
          row += rows;
        });
      }
      stage.dispose();
      const alone = await on();
      for (const [s, sequence] of make().entries()) {
        for (let step = 0; step <= steps; step++) {
          await alone.run(batchOf([sequence.take(step === 0 ? lengths[s]! : 1)]));
          expectSameBits(`sequence ${s}, step ${step}`, alone.logits(), together[s]![step]!);
        }
      }
      alone.dispose();
    });
  }
}

/** Ways to cut the cache: codecs, page sizes, which lanes share a table, and in which order. */
const CUTS: readonly (readonly KvGroup[])[] = [
  [group("f16")],
  [group("f32")],
  [...LANES].reverse().map((lane, g) => ({
    codec: (["int8", "f16", "f32"] as const)[g % 3]!,
    pageTokens: [16, 32, 64][g % 3]!,
    headWidth: HEAD,
    lanes: [lane],
  })),
];

/** Page tables with room for `capacity` tokens, of which the first `length` lie there. */
function tablesOf(groups: readonly KvGroup[], length: number, capacity: number): Table[] {
  let firstPage = 0;
  return groups.map(({ codec, pageTokens, lanes }) => {
    const numPages = Math.ceil(capacity / pageTokens);
    const pageIds = Int32Array.from({ length: numPages * lanes.length }, (_, i) => firstPage + i);
    firstPage += pageIds.length;
    const positions = Int32Array.from({ length: numPages * pageTokens }, (_, p) => (p < length ? p : -1));
    const rotations = new Int32Array(numPages).fill(-1);
    return { codec, pageTokens, pageIds, positions, rotations, contents: [] };
  });
}

/** Sequences share a step whatever arenas their pages lie in, and however they are cut; no bit changes. */
export function ownPagesCases(suite: Suite): void {
  for (const type of ["F32", "Q4_0"] as const) {
    suite.case(`${type} weights: sequences with pages of their own, together and one by one`, async () => {
      const lengths = [17, 3, 20];
      const steps = 3;
      const tokens = lengths.map((length, s) => randomTokens(40 + s, length + steps));
      const open = () =>
        Promise.all(
          CUTS.map((groups) => smallModel(type).on(suite.backend, { maxTokens: 48, groups, numPages: 24 })),
        );
      const batch = (s: number, step: number): Batch => {
        const first = step === 0 ? 0 : lengths[s]! + step - 1;
        const end = lengths[s]! + step;
        const positions = Array.from({ length: end - first }, (_, i) => first + i);
        return {
          tokens: positions.map((position) => tokens[s]![position]!),
          positions,
          spans: [{ count: end - first, tables: tablesOf(CUTS[s]!, end, lengths[s]! + steps) }],
          slots: CUTS[s]!.map(() => positions),
        };
      };
      const [alone, homes] = [await open(), await open()];
      const layouts = homes.map(({ pageBytes, groups }): KvLayout => ({ pageBytes, groups }));
      // Whatever a program was compiled for, and whether a sequence says that its pages are those or does not.
      for (const [host, own] of [
        [0, true],
        [0, false],
        [2, true],
      ] as const) {
        for (let step = 0; step <= steps; step++) {
          const parts = homes.map((home, s) => home.step(batch(s, step)));
          let start = 0;
          const spans = parts.map((part, s): Span => {
            const [{ count, views }] = part.spans as [Span];
            start += count;
            const span = { start: start - count, count, views };
            if (s === host && !own) return span;
            return { ...span, pages: { kv: layouts[s]!, arena: part.arena, slots: part.slots } };
          });
          const ofHost = parts[host]!;
          const hostStart = spans[host]!.start;
          const join = (pick: (part: (typeof parts)[number]) => Int32Array) =>
            Int32Array.from(parts.flatMap((part) => [...pick(part)]));
          await homes[host]!.program.run({
            tokens: join((part) => part.tokens),
            positions: join((part) => part.positions),
            outputs: Int32Array.from({ length: start }, (_, t) => t),
            spans,
            slots: ofHost.slots.map((slots) => {
              const all = new Int32Array(start);
              all.set(slots, hostStart);
              return all;
            }),
            rotations: new Float64Array(),
            arena: ofHost.arena,
          });
          const together = homes[host]!.logits();
          for (const [s, stage] of alone.entries()) {
            await stage.run(batch(s, step));
            const { start: at, count } = spans[s]!;
            const rows = together.slice(at * VOCABULARY, (at + count) * VOCABULARY);
            expectSameBits(`sequence ${s}, step ${step}, in the program of ${host}`, rows, stage.logits());
          }
        }
      }
      for (const stage of [...alone, ...homes]) stage.dispose();
    });
  }
}

/** The sum of the probabilities is cut differently, so f32 roundings may differ: 2^-14 of the largest logit. */
export function chunkedPrefillCases(suite: Suite): void {
  for (const codec of ["f32", "f16"] as const) {
    suite.case(`${codec} pages: in chunks, and token by token, as at once`, async () => {
      const length = 40;
      const run = async (chunks: readonly number[]) => {
        const stage = await smallModel("F32").on(suite.backend, {
          maxTokens: length,
          groups: [group(codec)],
          numPages: PAGES_EACH,
        });
        const sequence = new Sequence(randomTokens(1, length), 0, codec);
        const rows: Float32Array[] = [];
        for (const count of chunks) {
          await stage.run(batchOf([sequence.take(count)]));
          rows.push(stage.logits());
        }
        stage.dispose();
        return Float32Array.from(rows.flatMap((row) => [...row]));
      };
      const whole = await run([length]);
      const largest = whole.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
      const bound = () => suite.slack * 2 ** -14 * largest;
      expectClose("chunks", await run([7, 16, 1, 16]), whole, bound);
      expectClose("token by token", await run(new Array<number>(length).fill(1)), whole, bound);
    });
  }
}

const SEQUENCES: AttentionCase = {
  numLayers: 1,
  numKvHeads: 2,
  headWidth: 64,
  codec: "f16",
  pageTokens: 16,
  groups: "together",
  spans: [
    { stored: 75, count: 4 },
    { stored: 20, count: 1 },
  ],
  queriesPerKvHead: 2,
  window: 60,
  softcap: 0,
  style: "half",
};

/** Runs the same attention over tables and batch changed by `change`. */
async function attend(
  suite: Suite,
  change: (batch: Batch) => Batch,
): Promise<{ plain: Float32Array; changed: Float32Array }> {
  const random = new TestRandom(21);
  const { groups, batch, numPages, maxTokens } = kvBatch(random, SEQUENCES);
  const { scene, results } = attentionScene(random, SEQUENCES, maxTokens);
  const run = async (which: Batch): Promise<Float32Array> => {
    const stage: Stage = await scene.on(suite.backend, { maxTokens, groups, numPages });
    await stage.run(which);
    const result = stage.read(results[0]!);
    stage.dispose();
    return result;
  };
  return { plain: await run(batch), changed: await run(change(batch)) };
}

const mapTables = (batch: Batch, change: (table: Table) => Table): Batch => ({
  ...batch,
  spans: batch.spans!.map(({ count, tables }) => ({ count, tables: tables.map(change) })),
});

/** Where pages lie in the arena changes no bit; their order in the table only the order of sums. */
export function pagePlacementCases(suite: Suite): void {
  suite.case("other page numbers, the same bits", async () => {
    const { plain, changed } = await attend(suite, (batch) => {
      const ids = batch.spans!.flatMap(({ tables }) => tables.flatMap(({ pageIds }) => [...pageIds]));
      const moved = new Map(ids.map((id, i) => [id, ids[(i + 5) % ids.length]!]));
      return mapTables(batch, (table) => ({ ...table, pageIds: table.pageIds.map((id) => moved.get(id)!) }));
    });
    expectSameBits("attention", changed, plain);
  });

  suite.case("pages listed in reverse, the same within roundings", async () => {
    const { plain, changed } = await attend(suite, (batch) => {
      const size = SEQUENCES.pageTokens;
      const counts = batch.spans!.map(({ tables }) => tables[0]!.rotations.length);
      const span = batch.spans!.flatMap(({ count }, s) => new Array<number>(count).fill(s));
      const reversed = (slot: number, numPages: number) =>
        (numPages - 1 - Math.floor(slot / size)) * size + (slot % size);
      return {
        ...mapTables(batch, (table) => {
          const numPages = table.rotations.length;
          const lanes = table.pageIds.length / numPages;
          return {
            ...table,
            pageIds: table.pageIds.map(
              (_, i) => table.pageIds[(numPages - 1 - Math.floor(i / lanes)) * lanes + (i % lanes)]!,
            ),
            positions: table.positions.map((_, slot) => table.positions[reversed(slot, numPages)]!),
            contents: table.contents.map((slots) => slots.map((_, slot) => slots[reversed(slot, numPages)]!)),
          };
        }),
        slots: batch.slots!.map((slots) => slots.map((slot, t) => reversed(slot, counts[span[t]!]!))),
      };
    });
    const bound = suite.slack * attentionBound(SEQUENCES);
    expectClose("attention", changed, plain, () => bound);
  });
}

/**
 * Attention with rotated queries and keys depends on differences of positions only. The table's cosines are rounded
 * to f32 at either place, so scores may be off by a few roundings of |q| |k|: the bound of attention, doubled.
 */
export function positionShiftCases(suite: Suite): void {
  suite.case("all positions shifted by a constant leave attention as it is", async () => {
    const { headWidth } = SEQUENCES;
    const numTokens = 40;
    const random = new TestRandom(31);
    const scene = new Scene();
    const rope = scene.tape.rope({ frequencies: frequencies(headWidth / 2), magnitude: 1, style: "half" });
    const q = scene.input(random.floats(numTokens * 2 * headWidth, 3), 2 * headWidth);
    const k = scene.input(random.floats(numTokens * headWidth), headWidth);
    const v = scene.input(random.floats(numTokens * headWidth), headWidth);
    scene.tape.applyRope(q, headWidth, rope);
    scene.tape.applyRope(k, headWidth, rope);
    scene.tape.append({ layer: 0, numKvHeads: 1, headWidth, window: 13 }, k, v);
    const out = scene.tape.attention(q, { layer: 0, numHeads: 2, scale: headWidth ** -0.5, rope });
    scene.finish(out);
    const lanes = [{ layer: 0, head: 0 }];
    const at = async (shift: number): Promise<Float32Array> => {
      const stage = await scene.on(suite.backend, {
        maxTokens: numTokens,
        groups: [{ codec: "f32", pageTokens: 16, headWidth, lanes }],
        numPages: 3,
      });
      const positions = Array.from({ length: numTokens }, (_, t) => t + shift);
      const table: Table = {
        codec: "f32",
        pageTokens: 16,
        pageIds: Int32Array.from([2, 0, 1]),
        positions: Int32Array.from({ length: 48 }, (_, s) => (s < numTokens ? s + shift : -1)),
        rotations: Int32Array.from([-1, -1, -1]),
        contents: [],
      };
      const tokens = positions.map((_, t) => t);
      await stage.run({ tokens, positions, spans: [{ count: numTokens, tables: [table] }], slots: [tokens] });
      const result = stage.read(out);
      stage.dispose();
      return result;
    };
    const plain = await at(0);
    const bound = suite.slack * 2 * attentionBound(SEQUENCES);
    for (const shift of [1, 1000, 50_000_000])
      expectClose(`shift ${shift}`, await at(shift), plain, () => bound);
  });

  suite.case("a segment moved by a rotation scores as if its keys had been stored there", async () => {
    // Keys stored rotated at p and queries moved by r: as keys stored at p with every query rotated at position + r.
    const headWidth = 64;
    const [stored, moved] = [20, 1234];
    const random = new TestRandom(32);
    const keys = random.floats(stored * headWidth);
    const values = random.floats(stored * headWidth);
    const queries = random.floats(stored * headWidth, 3);
    const run = async (rotation: number | null): Promise<Float32Array> => {
      const scene = new Scene();
      const rope = scene.tape.rope({ frequencies: frequencies(headWidth / 2), magnitude: 1, style: "half" });
      const k = scene.input(keys, headWidth);
      const v = scene.input(values, headWidth);
      const q = scene.input(queries, headWidth);
      scene.tape.append({ layer: 0, numKvHeads: 1, headWidth, window: null }, k, v);
      // Rotating the queries by hand: every token of this batch stands at position `moved`.
      if (rotation === null) scene.tape.applyRope(q, headWidth, rope);
      const out = scene.tape.attention(q, { layer: 0, numHeads: 1, scale: headWidth ** -0.5, rope });
      scene.finish(out);
      const stage = await scene.on(suite.backend, {
        maxTokens: stored,
        groups: [{ codec: "f32", pageTokens: 32, headWidth, lanes: [{ layer: 0, head: 0 }] }],
        numPages: 1,
      });
      const tokens = Array.from({ length: stored }, (_, t) => t);
      const table: Table = {
        codec: "f32",
        pageTokens: 32,
        pageIds: Int32Array.from([0]),
        positions: Int32Array.from({ length: 32 }, (_, s) => (s < stored ? s : -1)),
        rotations: Int32Array.from([rotation === null ? -1 : 0]),
        contents: [],
      };
      await stage.run({
        tokens,
        positions: tokens.map(() => moved),
        spans: [{ count: stored, tables: [table] }],
        slots: [tokens],
        rotations: rotation === null ? [] : [rotation],
      });
      const result = stage.read(out);
      stage.dispose();
      return result;
    };
    const bound = suite.slack * 2 * attentionBound(SEQUENCES);
    expectClose("attention", await run(moved), await run(null), () => bound);
  });
}
