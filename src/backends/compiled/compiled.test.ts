import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import type { Op, RopeRef, Tape, WeightSpec } from "../../tape/tape.js";
import { TapeBuilder } from "../../tape/tape.js";
import type { ProgramLimits } from "../contract.js";
import {
  ACTIVATIONS,
  BARRIER_WORDS,
  CHOICE,
  LOW_RANK,
  MATRIX,
  OP,
  OP_RECORD,
  PROGRAM,
  putAddress,
  SPAN,
  STEP,
  TRAIN_SCRATCH,
  VIEW,
  WEIGHT_TYPES,
  weightTypeNumber,
} from "./abi.js";
import { type Access, barriers, conflict, type Range } from "./hazards.js";
import { encode, type Lowered, lower } from "./lower.js";
import type { Kernels } from "./machine.js";
import { place } from "./placement.js";
import { planWeights } from "./weights.js";

const kernelSource = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`../../../kernels/${name}`, import.meta.url)), "utf8");

/** Names of a C enum, with their numbers. */
function enumOf(source: string, name: string): Map<string, number> {
  const body = new RegExp(`enum ${name} \\{([^}]*)\\}`).exec(source)?.[1] ?? "";
  const numbers = new Map<string, number>();
  let next = 0;
  for (const item of body.split(",").map((text) => text.trim())) {
    const [key = "", value] = item.split("=").map((text) => text.trim());
    if (!key) continue;
    next = value === undefined ? next : Number(value);
    numbers.set(key, next++);
  }
  return numbers;
}

/** Byte offset of every field of a C struct of fixed-width fields, and its size. */
function structOf(source: string, name: string): Map<string, number> {
  const sizes: Record<string, number> = { int32_t: 4, float: 4, uint64_t: 8, int64_t: 8 };
  const body = new RegExp(`typedef struct ${name} \\{([\\s\\S]*?)\\n\\}`).exec(source)?.[1] ?? "";
  const offsets = new Map<string, number>();
  let at = 0;
  for (const [, type = "", field = "", count = "1"] of body.matchAll(/^\s*(\w+) (\w+)(?:\[(\d+)\])?;/gm)) {
    const size = sizes[type]!;
    at = Math.ceil(at / size) * size;
    offsets.set(field, at);
    at += size * Number(count);
  }
  offsets.set("sizeof", Math.ceil(at / 8) * 8);
  return offsets;
}

describe("numbers and structs are those of the C headers", () => {
  const header = kernelSource("millrace.h");

  test("enums", () => {
    const codes = Object.entries(OP).map(([name, code]) => [`OP_${name}`, code]);
    expect(new Map(codes as [string, number][])).toEqual(enumOf(header, "OpCode"));
    const types = WEIGHT_TYPES.map((type, index) => [`W_${type}`, index] as const);
    expect(new Map([...types, ["NUM_WEIGHT_TYPES", types.length]])).toEqual(
      enumOf(kernelSource("formats.h"), "WeightType"),
    );
    const activations = Object.entries(ACTIVATIONS).map(([name, code]) => [
      `ACT_${name.toUpperCase()}`,
      code,
    ]);
    expect(new Map(activations as [string, number][])).toEqual(enumOf(header, "Activation"));
  });

  test("structs", () => {
    const op = structOf(header, "Op");
    expect({ ...OP_RECORD, numI: 0, numF: 0, numP: 0 }).toEqual({
      bytes: op.get("sizeof"),
      code: op.get("code"),
      barrier: op.get("barrier"),
      i: op.get("i"),
      f: op.get("f"),
      p: op.get("p"),
      numI: 0,
      numF: 0,
      numP: 0,
    });
    const words = (fields: Map<string, number>, name: string) => fields.get(name)! / 4;
    const step = structOf(header, "Step");
    for (const [ours, theirs] of [
      ["words", "sizeof"],
      ["numTokens", "num_tokens"],
      ["numOutputs", "num_outputs"],
      ["numSpans", "num_spans"],
      ["numRotations", "num_rotations"],
      ["numStates", "num_states"],
      ["tokens", "tokens"],
      ["positions", "positions"],
      ["outputs", "outputs"],
      ["spans", "spans"],
      ["tokenSpan", "token_span"],
      ["gumbel", "gumbel"],
      ["states", "states"],
    ] as const) {
      expect([ours, STEP[ours]]).toEqual([ours, words(step, theirs)]);
    }
    const view = structOf(header, "View");
    for (const [ours, theirs] of [
      ["words", "sizeof"],
      ["pageIds", "page_ids"],
      ["positions", "positions"],
      ["rotations", "rotations"],
      ["mass", "mass"],
      ["logCounts", "log_counts"],
      ["thinRows", "thin_rows"],
      ["thinElements", "thin_elements"],
      ["queries", "queries"],
      ["next", "next"],
      ["choice", "choice"],
      ["numPages", "num_pages"],
      ["lanes", "lanes"],
      ["pageTokens", "page_tokens"],
      ["codec", "codec"],
      ["massFrom", "mass_from"],
      ["seed", "seed"],
      ["sharpness", "sharpness"],
      ["noise", "noise"],
      ["queriesFrom", "queries_from"],
      ["thinWidth", "thin_width"],
    ] as const) {
      expect([ours, VIEW[ours]]).toEqual([ours, words(view, theirs)]);
    }
    const choice = structOf(header, "Choice");
    expect(CHOICE).toEqual({
      words: words(choice, "sizeof"),
      shown: words(choice, "shown"),
      chooser: words(choice, "chooser"),
      scores: words(choice, "scores"),
      ends: words(choice, "ends"),
      worth: words(choice, "worth"),
      firstPosition: words(choice, "first_position"),
      numPositions: words(choice, "num_positions"),
      tokens: words(choice, "tokens"),
      first: words(choice, "first"),
      newest: words(choice, "newest"),
      stride: words(choice, "stride"),
      every: words(choice, "every"),
      reach: words(choice, "reach"),
      wholly: words(choice, "wholly"),
      similar: words(choice, "similar"),
    });
    const span = structOf(header, "Span");
    expect(SPAN).toEqual({
      words: words(span, "sizeof"),
      start: words(span, "start"),
      count: words(span, "count"),
      views: words(span, "views"),
      adapter: words(span, "adapter"),
      slots: words(span, "slots"),
      lanes: words(span, "lanes"),
      arena: words(span, "arena"),
      pageBytes: words(span, "page_bytes"),
    });
    const lowRank = structOf(header, "LowRank");
    expect(LOW_RANK).toEqual({
      words: words(lowRank, "sizeof"),
      down: words(lowRank, "down"),
      up: words(lowRank, "up"),
      rank: words(lowRank, "rank"),
    });
    const matrix = structOf(header, "Matrix");
    expect(MATRIX).toEqual({
      bytes: matrix.get("sizeof"),
      at: matrix.get("at"),
      stride: matrix.get("stride"),
      rows: matrix.get("rows"),
      columns: matrix.get("columns"),
    });
    expect(header).toContain(`#define TRAIN_SCRATCH ${TRAIN_SCRATCH}\n`);
    const program = structOf(kernelSource("run.c"), "Program");
    expect(PROGRAM).toEqual({
      bytes: program.get("sizeof"),
      ops: program.get("ops"),
      step: program.get("step"),
      counters: program.get("counters"),
      barrier: program.get("barrier"),
      numOps: program.get("num_ops"),
      threads: program.get("threads"),
    });
    expect(kernelSource("run.c")).toContain(`int32 [${BARRIER_WORDS}]`);
  });

  test("addresses survive their two words", () => {
    for (const address of [0, 64, 2 ** 31, 2 ** 32 - 64, 2 ** 32, 2 ** 46 + 2 ** 31 + 64]) {
      const words = new Int32Array(2);
      putAddress(words, 0, address);
      expect(Number(new BigUint64Array(words.buffer)[0])).toBe(address);
    }
  });
});

test("placement keeps apart what lives at the same time, and shares otherwise", () => {
  const random = new TestRandom(1);
  for (let round = 0; round < 50; round++) {
    const lifetimes = Array.from({ length: 40 }, () => {
      const first = Math.floor(random.next() * 100);
      const bytes = Math.floor(random.next() * 1000);
      return { bytes, first, last: first + Math.floor(random.next() * 20) };
    });
    const { offsets, bytes } = place(lifetimes);
    const padded = lifetimes.map((item) => Math.ceil(item.bytes / 64) * 64);
    lifetimes.forEach((a, i) => {
      expect(offsets[i]! % 64).toBe(0);
      expect(offsets[i]! + a.bytes).toBeLessThanOrEqual(bytes);
      lifetimes.slice(0, i).forEach((b, j) => {
        if (a.bytes === 0 || b.bytes === 0 || a.first > b.last || b.first > a.last) return;
        expect(offsets[i]! >= offsets[j]! + b.bytes || offsets[j]! >= offsets[i]! + a.bytes).toBe(true);
      });
    });
    expect(bytes).toBeLessThan(padded.reduce((sum, size) => sum + size, 0) / 2);
  }
});

test("barriers stand exactly where an op conflicts with one since the last barrier", () => {
  const random = new TestRandom(2);
  const ranges = (): Range[] =>
    Array.from({ length: Math.floor(random.next() * 3) }, () => {
      const start = Math.floor(random.next() * 30);
      return { start, end: start + 1 + Math.floor(random.next() * 4) };
    });
  for (let round = 0; round < 200; round++) {
    const ops: Access[] = Array.from({ length: 20 }, () => ({ reads: ranges(), writes: ranges() }));
    const touches = (list: readonly Range[], byte: number) =>
      list.some((r) => r.start <= byte && byte < r.end);
    // By brute force, byte by byte: op b must be separated from every earlier op a that it conflicts with.
    const hazard = (a: Access, b: Access) =>
      Array.from({ length: 40 }, (_, byte) => byte).some(
        (byte) =>
          (touches(a.writes, byte) && (touches(b.writes, byte) || touches(b.reads, byte))) ||
          (touches(a.reads, byte) && touches(b.writes, byte)),
      );
    const waits = barriers(ops);
    let since = 0;
    waits.forEach((wait, index) => {
      const needed = ops.slice(since, index).some((before) => hazard(before, ops[index]!));
      expect(wait).toBe(needed);
      if (wait) since = index;
    });
  }
});

/** Layouts of simple sizes: all that lowering asks of kernels. */
const KERNELS: Kernels = {
  panelBytes: (type, columns) => (type > 2 && columns % 32 !== 0 ? 0 : columns * 16),
  quantizedRowBytes: (columns) => columns * 2,
  wantsQuantized: (type) => type > 2,
};

const E = 64;

/** Two layers of a llama-like model, `type` the storage of its matrices. */
function modelTape(type: WeightSpec["type"], numLayers = 2, experts = 0): Tape {
  const tape = new TapeBuilder();
  const weight = (tensor: string, rows: number, columns: number, of = type, count = 1) =>
    tape.weight({
      slices: [{ tensor, rowStart: 0, rowCount: rows * count }],
      type: of,
      rows,
      columns,
      experts: count,
    });
  const vector = (tensor: string) =>
    tape.vector({ slice: { tensor, rowStart: 0, rowCount: 1 }, type: "F32", width: E, add: 0 });
  const rope: RopeRef = tape.rope({ frequencies: new Float64Array(8), magnitude: 1, style: "half" });
  const x = tape.embed(weight("embed", 100, E));
  for (let l = 0; l < numLayers; l++) {
    const h = tape.rmsNorm(x, vector(`${l}.norm`), { epsilon: 1e-5 });
    const q = tape.matmul(h, weight(`${l}.q`, 64, E));
    const k = tape.matmul(h, weight(`${l}.k`, 32, E));
    const v = tape.matmul(h, weight(`${l}.v`, 32, E));
    tape.applyRope(q, 16, rope);
    tape.applyRope(k, 16, rope);
    tape.append({ layer: l, numKvHeads: 2, headWidth: 16, window: null }, k, v);
    const a = tape.attention(q, { layer: l, numHeads: 4, scale: 0.25, rope });
    tape.matmul(a, weight(`${l}.o`, E, 64), { addTo: x });
    const f = tape.rmsNorm(x, vector(`${l}.ffn`), { epsilon: 1e-5 });
    if (experts > 0) {
      const route = tape.route(tape.matmul(f, weight(`${l}.router`, experts, E, "F32")), {
        perToken: 2,
        normalize: true,
      });
      const up = tape.matmulExperts(f, weight(`${l}.ups`, 96, E, type, experts), route);
      const gate = tape.matmulExperts(f, weight(`${l}.gates`, 96, E, type, experts), route);
      const down = weight(`${l}.downs`, E, 96, type, experts);
      tape.combine(tape.matmulExperts(tape.glu(gate, up, "silu"), down, route), route, x);
    } else {
      const gate = tape.matmul(f, weight(`${l}.gate`, 96, E));
      const up = tape.matmul(f, weight(`${l}.up`, 96, E));
      tape.matmul(tape.glu(gate, up, "silu"), weight(`${l}.down`, E, 96), { addTo: x });
    }
  }
  const last = tape.rmsNorm(tape.select(x), vector("norm"), { epsilon: 1e-5 });
  return tape.finish(tape.matmul(last, weight("head", 100, E)));
}

const limits = (keepBuffers = false): ProgramLimits => ({
  maxTokens: 48,
  maxOutputs: 4,
  kv: { pageBytes: 64, groups: [] },
  keepBuffers,
});

function lowered(tape: Tape, keepBuffers = false): Lowered {
  const types = tape.weights.map(({ type }) => weightTypeNumber(type));
  return lower(tape, limits(keepBuffers), KERNELS, types, 2);
}

const names = Object.fromEntries(Object.entries(OP).map(([name, code]) => [code, name]));
/** Op names, with "|" before those that wait. */
/** Of a step in which no query chooses. */
const listing = ({ variants }: Lowered, instructions = variants[1]!): string =>
  instructions.map(({ code, barrier }) => (barrier ? "| " : "") + names[code]).join(" ");

describe("lower", () => {
  const layer = [
    "| RMS_NORM | QUANTIZE | MATMUL MATMUL MATMUL | ROPE ROPE | APPEND | ATTENTION | ATTENTION_MERGE",
    "| QUANTIZE | MATMUL | RMS_NORM | QUANTIZE | MATMUL MATMUL | GLU | QUANTIZE | MATMUL",
  ].join(" ");

  test("quantises each content once, and waits only where it must", () => {
    const tail = "| SELECT | RMS_NORM | QUANTIZE | MATMUL";
    for (const keep of [false, true]) {
      expect(listing(lowered(modelTape("Q4_0"), keep))).toBe(`EMBED ${layer} ${layer} ${tail}`);
    }
  });

  test("float weights need no quantised activations", () => {
    expect(listing(lowered(modelTape("F16")))).not.toContain("QUANTIZE");
  });

  test("experts read the lists that the router left", () => {
    expect(listing(lowered(modelTape("Q8_0", 1, 4)))).toContain(
      "| RMS_NORM | MATMUL | ROUTE QUANTIZE | MATMUL_EXPERTS MATMUL_EXPERTS | GLU | QUANTIZE | MATMUL_EXPERTS | COMBINE",
    );
  });

  test("a rewritten buffer is quantised again", () => {
    const tape = new TapeBuilder();
    const weight = (tensor: string) =>
      tape.weight({
        slices: [{ tensor, rowStart: 0, rowCount: 32 }],
        type: "Q8_0",
        rows: 32,
        columns: 32,
        experts: 1,
      });
    const x = tape.embed(weight("e"));
    const first = tape.matmul(x, weight("a"));
    tape.rmsNorm(x, null, { epsilon: 1e-5, inPlace: true });
    tape.matmul(x, weight("b"), { addTo: first });
    const result = lowered(tape.finish(tape.select(first)));
    expect(listing(result)).toBe("EMBED | QUANTIZE | MATMUL RMS_NORM | QUANTIZE | MATMUL | SELECT");
  });

  test("what adapters add is left out where no sequence has one", () => {
    const tape = modelTape("Q4_0", 1);
    const vector = (width: number) => ({ ...tape.vectors[0]!, width });
    const change = (op: Op): Op[] => {
      if (op.op !== "matmul") return [];
      const pair = { adapter: 0, rank: 2, down: vector(2 * op.x.width), up: vector(2 * op.out.width) };
      return [{ op: "lowRank", x: op.x, pairs: [pair], out: op.out }];
    };
    const rope = tape.ops.findIndex(({ op }) => op === "rope");
    const before = tape.ops.slice(0, rope);
    const ops = [...before, ...before.flatMap(change), ...tape.ops.slice(rope)];
    const result = lowered({ ...tape, ops });
    expect(listing(result)).toContain(
      "| MATMUL MATMUL MATMUL | LOW_RANK_DOWN LOW_RANK_DOWN LOW_RANK_DOWN " +
        "| LOW_RANK_UP LOW_RANK_UP LOW_RANK_UP | ROPE",
    );
    expect(listing(result, result.variants[0])).toBe(listing(lowered(tape)));
    expect(lowered(tape).variants[0]).toEqual(lowered(tape).variants[1]);
  });

  test("no two ops between two barriers conflict, by any range that they touch", () => {
    for (const tape of [modelTape("Q4_0", 3), modelTape("F32", 2), modelTape("Q8_0", 2, 4)]) {
      for (const keep of [false, true]) {
        const { instructions, accesses } = lowered(tape, keep);
        let since = 0;
        instructions.forEach(({ barrier }, index) => {
          if (barrier) since = index;
          for (let before = since; before < index; before++) {
            expect(conflict(accesses[before]!, accesses[index]!)).toBe(false);
          }
        });
      }
    }
  });

  test("scratch does not grow with the number of layers; kept buffers do", () => {
    const bytes = (numLayers: number, keep: boolean) =>
      lowered(modelTape("Q4_0", numLayers), keep).scratchBytes;
    expect(bytes(12, false)).toBe(bytes(2, false));
    expect(bytes(12, true)).toBeGreaterThan(4 * bytes(2, false));
  });

  test("logits survive; what other buffers held does only where it is kept", () => {
    const tape = modelTape("Q4_0");
    expect(lowered(tape).buffers[tape.logits.id]!.survives).toBe(true);
    expect(lowered(tape).buffers[1]!.survives).toBe(false);
    expect(lowered(tape, true).buffers.every(({ survives }) => survives)).toBe(true);
  });

  test("records hold the fields where C reads them", () => {
    const tape = modelTape("Q4_0", 1);
    const result = lowered(tape);
    const at = {
      scratch: 2 ** 40,
      weights: tape.weights.map((_, id) => 2 ** 33 + id * 64),
      vectors: tape.vectors.map((_, id) => 1024 + id * 64),
      ropes: [4096],
      lowRanks: [],
    };
    const bytes = new Uint8Array(result.instructions.length * OP_RECORD.bytes).fill(255);
    encode(result, at, bytes);
    const index = result.instructions.findIndex(({ code }) => code === OP.ATTENTION);
    const record = new DataView(bytes.buffer, index * OP_RECORD.bytes, OP_RECORD.bytes);
    expect(record.getInt32(0, true)).toBe(OP.ATTENTION);
    expect(record.getInt32(4, true)).toBe(1);
    const ints = Array.from({ length: 10 }, (_, k) => record.getInt32(8 + 4 * k, true));
    expect(ints).toEqual([4, 2, 16, 0, 8, 1, 48, 0, 0, 0]);
    const floats = Array.from({ length: 4 }, (_, k) => record.getFloat32(48 + 4 * k, true));
    expect(floats).toEqual([0.25, 0, 0, 0]);
    const addresses = Array.from({ length: 8 }, (_, k) => Number(record.getBigUint64(64 + 8 * k, true)));
    expect(addresses[2]).toBe(4096);
    expect(addresses.slice(5)).toEqual([0, 0, 0]);
    for (const k of [0, 1, 3, 4]) expect(addresses[k]).toBeGreaterThanOrEqual(2 ** 40);
    const matmul = result.instructions.findIndex(({ code }) => code === OP.MATMUL);
    const weightAt = new DataView(bytes.buffer).getBigUint64(matmul * OP_RECORD.bytes + 64 + 16, true);
    expect(Number(weightAt)).toBe(2 ** 33 + 64);
  });
});

describe("planWeights", () => {
  test("the same rows are packed once, and odd rows as F32", () => {
    const tape = new TapeBuilder();
    const spec = (rows: number, columns: number): WeightSpec => ({
      slices: [{ tensor: "t", rowStart: 0, rowCount: rows }],
      type: "Q8_0",
      rows,
      columns,
      experts: 1,
    });
    const x = tape.embed(tape.weight(spec(40, 64)));
    const tied = tape.matmul(tape.select(x), tape.weight(spec(40, 64)));
    tape.matmul(x, tape.weight(spec(17, 64)));
    const plan = planWeights(tape.finish(tied), KERNELS);
    expect(plan.matrixOf).toEqual([0, 0, 1]);
    expect(plan.matrices.map(({ offset }) => offset)).toEqual([0, 3 * 64 * 16]);
    expect(plan.byteLength).toBe(5 * 64 * 16);
    const odd = planWeights(
      { ...modelTape("Q8_0", 1), weights: [{ id: 0, ...spec(16, 48) }], vectors: [] },
      KERNELS,
    );
    expect(odd.matrices[0]).toMatchObject({ type: 0, decode: true, panelBytes: 48 * 16 });
  });
});
