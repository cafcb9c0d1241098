/**
 * A numeric self-check for backends at load. One tape holds every op, and a matmul of every weight type; it runs over
 * tiny inputs, in two chunks of tokens, and what each op wrote is held to known answers: those of the reference
 * backend (selfcheck-answers.ts). A kernel that this machine gets wrong is refused here with its name, instead of
 * speaking nonsense.
 */
import { codecs } from "../cache/codecs/index.js";
import { MillraceError } from "../errors.js";
import { LAYOUTS } from "../formats/blocks/contract.js";
import type { TensorType } from "../formats/checkpoint.js";
import { type MemoryTensor, memoryCheckpoint } from "../formats/memory.js";
import { type BufferRef, type Tape, TapeBuilder, type WeightRef } from "../tape/tape.js";
import type { Backend, KvGroup, Step } from "./contract.js";
import { ANSWERS, type Answer } from "./selfcheck-answers.js";

/** Tokens of the two runs: 16 + 8 and 4 + 2 + 1, so that every tile width of the kernels has its turn. */
const RUNS = [24, 7] as const;
const MAX_TOKENS = 24;
const TOKENS = 31;
/** Rows of weights: a panel of 16 and one more. */
const ROWS = 17;
/** Width of most inputs: two blocks of 32. Weights in superblocks take 256. */
const WIDTH = 64;
const SUPERBLOCK = 256;
const HEAD = 64;
const KV_HEADS = 2;
const HEADS = 4;
const PAGE = 16;
const PAGES = 2;
/**
 * Of the answer's norm. Activations of quantised matmuls are whole multiples of one step (and so are keys and
 * values): quantising them is exact, and nothing but f32 roundings is left.
 */
const TOLERANCE = 3e-6;

/** What an op wrote, and its name in an error. */
interface Probe {
  readonly name: string;
  readonly buffer: BufferRef;
}

interface Script {
  readonly tape: Tape;
  readonly probes: readonly Probe[];
  readonly tensors: Record<string, MemoryTensor>;
  readonly groups: readonly KvGroup[];
}

/**
 * Runs the check; takes some milliseconds. Frees all that it allocates.
 * Throws SELF_CHECK_FAILED naming the op, what was got and what was wanted.
 */
export async function selfCheck(backend: Backend): Promise<void> {
  for (const [op, results] of await answer(backend)) {
    const wanted: readonly Answer[] = ANSWERS[op] ?? [];
    for (const [run, [got]] of results.entries()) {
      const [want, norm] = wanted[run] ?? [Number.NaN, 0];
      if (Math.abs(got - want) <= TOLERANCE * norm) continue;
      throw new MillraceError(
        "SELF_CHECK_FAILED",
        `The ${backend.name} backend (${backend.description}) fails its self-check at ${op}: the weighted sum of ` +
          `what it wrote is ${got}, expected ${want}. It is not used; choose another backend and report this.`,
        { backend: backend.name, op, run, got: String(got), want },
      );
    }
  }
}

/** What a backend answers, by op and run. */
export async function answer(backend: Backend): Promise<Map<string, Answer[]>> {
  const script = writeScript();
  const outputs = await perform(backend, script);
  return new Map(script.probes.map(({ name }, p) => [name, outputs[p]!.map(summarize)]));
}

/**
 * Weights lie in +-(0.5 .. 1) and differ from element to element, so that a wrong element, and two that changed
 * places, both move the sum by about their error.
 */
function summarize(output: Float32Array): Answer {
  const next = generator();
  let sum = 0;
  let squares = 0;
  for (let i = 0; i < output.length; i++) {
    const weight = next() / 2 ** 30 - 0.5;
    sum += output[i]! * (weight + Math.sign(weight) * 0.5);
    squares += output[i]! * output[i]!;
  }
  return [sum, Math.sqrt(squares)];
}

/** By probe and run: what the op wrote. */
async function perform(backend: Backend, script: Script): Promise<Float32Array[][]> {
  const { tape, groups, probes } = script;
  const pageBytes = Math.max(...groups.map(({ codec }) => codecs[codec].groupBytes(HEAD))) * (PAGE / 16);
  const weights = await backend.load(tape, memoryCheckpoint(script.tensors));
  const lanePages = PAGES * KV_HEADS;
  const arena = backend.allocate(pageBytes * lanePages * groups.length);
  const tables = groups.map(() => backend.allocate(4 * (lanePages + PAGES * PAGE + PAGES)));
  try {
    const program = await backend.compile(tape, weights, {
      maxTokens: MAX_TOKENS,
      maxOutputs: MAX_TOKENS,
      kv: { pageBytes, groups },
      keepBuffers: true,
    });
    try {
      const results: Float32Array[][] = probes.map(() => []);
      for (const [first, count] of [[0, RUNS[0]], RUNS] as const) {
        await program.run(makeStep(first, count));
        probes.forEach(({ buffer }, p) => {
          results[p]!.push(program.read(buffer.id).slice());
        });
      }
      return results;
    } finally {
      program.dispose();
    }
  } finally {
    for (const region of [arena, ...tables]) region.free();
    weights.dispose();
  }

  function makeStep(first: number, count: number): Step {
    const tokens = Int32Array.from({ length: count }, (_, t) => first + t);
    const slots = tokens.map(slotOf);
    const views = groups.map(({ codec }, g) => {
      const region = tables[g]!;
      region.int32(0, lanePages).set(Array.from({ length: lanePages }, (_, i) => g * lanePages + i));
      const positions = region.int32(4 * lanePages, PAGES * PAGE).fill(-1);
      for (let t = 0; t < first + count; t++) positions[slotOf(t)] = t;
      const rotationsAt = 4 * (lanePages + PAGES * PAGE);
      region.int32(rotationsAt, PAGES).set([-1, 0]);
      const table = {
        lanes: KV_HEADS,
        pageTokens: PAGE,
        numPages: PAGES,
        pageIdsAt: 0,
        mass: null,
        logCounts: null,
        thin: null,
        queries: null,
        next: null,
      };
      return { ...table, codec, region, positionsAt: 4 * lanePages, rotationsAt };
    });
    return {
      tokens,
      positions: tokens,
      outputs: Int32Array.of(count - 1),
      spans: [{ start: 0, count, views, adapter: 1 }],
      slots: groups.map(() => slots),
      rotations: Float64Array.of(5),
      arena,
    };
  }
}

/** Tokens lie in no order, and most slots stay empty. */
const slotOf = (token: number): number => (token * 7) % (PAGES * PAGE);

function writeScript(): Script {
  const tape = new TapeBuilder();
  const tensors: Record<string, MemoryTensor> = {};
  const probes: Probe[] = [];
  const next = generator();
  const probe = (name: string, buffer: BufferRef): void => void probes.push({ name, buffer });

  const matrix = (
    type: TensorType,
    rows: number,
    columns: number,
    data: MemoryTensor["data"],
    experts = 1,
  ) => {
    const tensor = `t${Object.keys(tensors).length}`;
    tensors[tensor] = { shape: [experts * rows, columns], type, data };
    const slices = [{ tensor, rowStart: 0, rowCount: experts * rows }];
    return tape.weight({ slices, type, rows, columns, experts });
  };
  const quantized = (type: TensorType, columns: number, experts = 1): WeightRef =>
    matrix(type, ROWS, columns, storedBytes(type, experts * ROWS * columns, next), experts);
  const input = (width: number, element: () => number): BufferRef =>
    tape.embed(matrix("F32", TOKENS, width, floats(TOKENS * width, element)));
  const float = (): number => next() / 2 ** 29 - 1;
  /** A multiple of 1/128 up to 127/128, which is reached in every run of 32. */
  let numExact = 0;
  const exact = (): number => (numExact++ % 32 === 9 ? 127 : (next() % 255) - 127) / 128;

  const x = input(WIDTH, exact);
  const wide = input(SUPERBLOCK, exact);
  probe("embed", x);
  probe("embed (wide)", wide);
  for (const type of Object.keys(LAYOUTS) as TensorType[]) {
    const from = LAYOUTS[type].blockElements === SUPERBLOCK ? wide : x;
    probe(`matmul ${type}`, tape.matmul(from, quantized(type, from.width)));
  }

  const factors = floats(WIDTH, float);
  tensors.norm = { shape: [WIDTH], data: factors };
  const slice = { tensor: "norm", rowStart: 0, rowCount: 1 };
  const weight = tape.vector({ slice, type: "F32", width: WIDTH, add: 1 });
  probe("rmsNorm", tape.rmsNorm(x, weight, { epsilon: 1e-5 }));

  const frequencies = Float64Array.from({ length: HEAD / 2 }, (_, i) => 10000 ** (-i / (HEAD / 2)));
  for (const style of ["half", "interleaved"] as const) {
    const rotated = input(HEADS * HEAD, float);
    tape.applyRope(rotated, HEAD, tape.rope({ frequencies, magnitude: 1, style }));
    probe(`rope (${style})`, rotated);
  }

  const rope = tape.rope({ frequencies, magnitude: 1, style: "half" });
  const names = ["f32", "f16", "int8"] as const satisfies KvGroup["codec"][];
  names.forEach((codec, layer) => {
    const k = input(KV_HEADS * HEAD, exact);
    const v = input(KV_HEADS * HEAD, exact);
    const q = input(HEADS * HEAD, float);
    tape.append({ layer, numKvHeads: KV_HEADS, headWidth: HEAD, window: layer === 1 ? 4 : null }, k, v);
    const softcap = layer === 2 ? 3 : 0;
    const attended = tape.attention(q, { layer, numHeads: HEADS, scale: HEAD ** -0.5, softcap, rope });
    probe(`append and attention (${codec} pages)`, attended);
  });

  for (const activation of ["silu", "gelu", "gelu_tanh"] as const) {
    const gate = input(WIDTH, () => 3 * float());
    tape.glu(gate, input(WIDTH, float), activation);
    probe(`glu (${activation})`, gate);
  }

  const sum = input(WIDTH, float);
  tape.add(x, sum);
  probe("add", sum);

  const route = tape.route(
    input(8, () => 3 * float()),
    { perToken: 2, normalize: true },
  );
  const routed = tape.matmulExperts(x, quantized("Q8_0", WIDTH, 8), route);
  probe("matmulExperts", routed);
  const combined = input(ROWS, float);
  tape.combine(routed, route, combined);
  probe("combine", combined);

  const pair = (adapter: number, rank: number) => {
    const vector = (width: number) => {
      const tensor = `t${Object.keys(tensors).length}`;
      tensors[tensor] = { shape: [width], data: floats(width, float) };
      return tape.vector({ slice: { tensor, rowStart: 0, rowCount: 1 }, type: "F32", width, add: 0 });
    };
    return { adapter, rank, down: vector(rank * WIDTH), up: vector(rank * ROWS) };
  };
  const changed = input(ROWS, float);
  tape.lowRank(x, [pair(0, 2), pair(1, 3)], changed);
  probe("lowRank", changed);

  const selected = tape.select(x);
  probe("select", selected);
  const lanesOf = (layer: number) => Array.from({ length: KV_HEADS }, (_, head) => ({ layer, head }));
  const groups = names.map((codec, layer) => ({
    codec,
    pageTokens: PAGE,
    headWidth: HEAD,
    lanes: lanesOf(layer),
  }));
  return { tape: tape.finish(selected), probes, tensors, groups };
}

/** Bytes within a block at which a 16-bit float lies: the others may hold anything. */
const FLOATS_AT: Record<TensorType, readonly number[]> = {
  F32: [2],
  F16: [0],
  BF16: [0],
  Q4_0: [0],
  Q4_1: [0, 2],
  Q5_0: [0],
  Q5_1: [0, 2],
  Q8_0: [0],
  Q2_K: [80, 82],
  Q3_K: [108],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
  IQ4_NL: [0],
  IQ4_XS: [0],
};

/** Blocks of random bits whose scales are small floats of either sign. */
function storedBytes(type: TensorType, numElements: number, next: () => number): Uint8Array {
  const { blockElements, blockBytes } = LAYOUTS[type];
  const bytes = new Uint8Array((numElements / blockElements) * blockBytes);
  for (let i = 0; i < bytes.length; i++) bytes[i] = next() >>> 22;
  // 2^-7 to 2^-6 as a half; 2^-7 to 2^1 as the upper 16 bits of a single.
  const base = type === "F32" || type === "BF16" ? 0x3c : 0x20;
  for (let block = 0; block < bytes.length; block += blockBytes) {
    for (const at of FLOATS_AT[type]) bytes[block + at + 1] = base | (bytes[block + at + 1]! & 0x83);
  }
  return bytes;
}

function floats(length: number, element: () => number): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = element();
  return values;
}

/** Numbers of 30 bits, the same ones every time (xorshift). */
function generator(): () => number {
  let state = 0x2545f491;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 2;
  };
}
