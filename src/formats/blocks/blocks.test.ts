import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { TensorType } from "../checkpoint.js";
import { BLOCK_FORMATS, blockFormat, LAYOUTS, rowBytes, tensorBytes } from "./index.js";

/** Made by test/fixtures/make-blocks.py: random blocks as ggml decodes them, and its error on `bell`. */
const GOLDEN = JSON.parse(
  readFileSync(new URL("../../../test/fixtures/blocks.json", import.meta.url), "utf8"),
) as Record<string, { bytes: string; values: string; peerRmse: number }>;

const TYPES = Object.keys(LAYOUTS) as TensorType[];
const QUANTISED = Object.keys(GOLDEN) as TensorType[];

/** The generator of make-blocks.py: bell-shaped values in (-2, 2). */
function bell(count: number, seed: number): Float32Array {
  let state = seed;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 16;
  };
  return Float32Array.from({ length: count }, () => (next() + next() + next() + next()) / 65536 - 2);
}

function roundTrip(type: TensorType, values: Float32Array): Float32Array {
  const format = blockFormat(type);
  const bytes = new Uint8Array(rowBytes(type, values.length)).fill(0xa5);
  const out = new Float32Array(values.length);
  format.encode(values, bytes);
  format.decode(bytes, out);
  return out;
}

const rmse = (a: Float32Array, b: Float32Array) =>
  Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0) / a.length);

describe("decode", () => {
  it.each(QUANTISED)("%s gives ggml's values bit for bit", (type) => {
    const golden = GOLDEN[type]!;
    const bytes = new Uint8Array(Buffer.from(golden.bytes, "base64"));
    const want = new Float32Array(new Uint8Array(Buffer.from(golden.values, "base64")).buffer);
    const got = new Float32Array(want.length);
    blockFormat(type).decode(bytes, got);
    // -0 of a zero scale times a negative level is a zero all the same.
    for (const [i, value] of got.entries()) {
      if (value !== want[i]) expect.fail(`${type}: value ${i}: got ${value}, want ${want[i]}`);
    }
  });

  /** Worked out from the layouts by hand. 1.0 as a half is 00 3c, 0.5 is 00 38, 2.0 is 00 40. */
  const block = (type: TensorType, parts: Record<number, number>) => {
    const bytes = new Uint8Array(LAYOUTS[type].blockBytes);
    for (const [at, byte] of Object.entries(parts)) bytes[Number(at)] = byte;
    const out = new Float32Array(LAYOUTS[type].blockElements);
    blockFormat(type).decode(bytes, out);
    return out;
  };

  it("Q4_0: byte 0 holds values 0 and 16", () => {
    const out = block("Q4_0", { 1: 0x3c, 2: 0xf1 });
    expect([out[0], out[16], out[1]]).toEqual([-7, 7, -8]);
  });

  it("Q4_1 and Q5_1 add the minimum", () => {
    expect(block("Q4_1", { 1: 0x3c, 3: 0x40, 19: 0x51 })[31]).toBe(7);
    expect(block("Q5_1", { 1: 0x3c, 3: 0x40, 7: 0x80, 23: 0x51 })[31]).toBe(23);
  });

  it("Q5_0: bit 16 of the fifth bits belongs to value 16", () => {
    const out = block("Q5_0", { 1: 0x3c, 4: 0x01 });
    expect([out[0], out[15], out[16], out[17]]).toEqual([-16, -16, 0, -16]);
  });

  it("Q8_0 is signed", () => {
    const out = block("Q8_0", { 1: 0x38, 2: 0x80, 33: 0x7f });
    expect([out[0], out[31]]).toEqual([-64, 63.5]);
  });

  it("Q2_K: value 160 lies in the second half, byte 0, bits 2 and 3", () => {
    const out = block("Q2_K", { 10: 0x23, 48: 0b1100, 81: 0x3c, 83: 0x3c });
    expect([out[160], out[161]]).toEqual([3 * 3 - 2, -2]);
  });

  it("Q3_K: the third bit lifts a value by four, scales are offset by 32", () => {
    const out = block("Q3_K", { 0: 0x01, 96: 0x03, 104: 0x02, 32: 0x02, 109: 0x3c });
    expect([out[0], out[1]]).toEqual([(3 + 32 - 32) * 2, 3 * -4]);
  });

  it("Q4_K: sub-block 4 takes its scale from byte 8 and the top of byte 0", () => {
    const out = block("Q4_K", { 1: 0x3c, 3: 0x38, 4: 0x40, 12: 0x21, 80: 0x03 });
    expect([out[128], out[129]]).toEqual([(1 + 16) * 3 - 0.5 * 2, -1]);
  });

  it("Q5_K: bit j of byte i is the fifth bit of value i in sub-block j", () => {
    const out = block("Q5_K", { 1: 0x3c, 5: 0x02, 16: 0x02 });
    expect([out[0], out[32]]).toEqual([0, 32]);
  });

  it("Q6_K: value 96 takes the high nibble of byte 32 and bits 6 and 7", () => {
    const out = block("Q6_K", { 32: 0x50, 128: 0x80, 198: 0xff, 209: 0x3c });
    expect(out[96]).toBe(-(5 + 32 - 32));
  });

  it("IQ4_NL and IQ4_XS look levels up", () => {
    expect(block("IQ4_NL", { 1: 0x3c, 2: 0xf7 })).toMatchObject({ 0: -10, 16: 113 });
    expect(block("IQ4_XS", { 1: 0x3c, 2: 0x08, 4: 0x20, 24: 0x08 })[32]).toBe(2);
  });
});

describe("encode", () => {
  const values = bell(16384, 42);

  it.each(QUANTISED)("%s loses no more than ggml's own encoder", (type) => {
    expect(rmse(values, roundTrip(type, values))).toBeLessThanOrEqual(GOLDEN[type]!.peerRmse * 1.001);
  });

  it.each(["F16", "BF16"] as const)("%s rounds to its mantissa", (type) => {
    const bits = type === "F16" ? 11 : 8;
    for (const [i, value] of roundTrip(type, values).entries()) {
      expect(Math.abs(value - values[i]!)).toBeLessThanOrEqual(
        Math.max(2 ** -25, Math.abs(values[i]!) * 2 ** -bits),
      );
    }
  });

  it("F32 keeps every bit", () => {
    const odd = Float32Array.of(0.1, -0, Infinity, -1e-45, 3.4e38);
    expect([...roundTrip("F32", odd)]).toEqual([...odd]);
  });

  it.each(QUANTISED)("%s keeps zeros, and decoded values are nearly a fixed point", (type) => {
    const zeros = roundTrip(type, new Float32Array(256));
    expect(zeros.every((value) => value === 0)).toBe(true);
    const once = roundTrip(type, values.subarray(0, 4096));
    const lost = rmse(values.subarray(0, 4096), once);
    expect(rmse(once, roundTrip(type, once))).toBeLessThan(lost * 0.5);
  });

  it.each(QUANTISED)("%s bears one outlier, a constant, a ramp of one sign and tiny values", (type) => {
    const outlier = new Float32Array(256);
    outlier[77] = -1000;
    expect(roundTrip(type, outlier)[77]).toBeCloseTo(-1000, -1.5);
    const constant = roundTrip(type, new Float32Array(256).fill(0.75));
    for (const value of constant) expect(Math.abs(value - 0.75)).toBeLessThan(0.75 * 0.13);
    const ramp = Float32Array.from({ length: 256 }, (_, i) => 1 + i / 256);
    const levels = { Q2_K: 0.12, Q3_K: 0.3 }[type as string] ?? 0.15;
    expect(Math.max(...roundTrip(type, ramp).map((value, i) => Math.abs(value - ramp[i]!)))).toBeLessThan(
      levels,
    );
    const tiny = roundTrip(type, new Float32Array(256).fill(1e-30));
    expect(tiny.every((value) => Math.abs(value) <= 1e-6)).toBe(true);
  });

  it.each(TYPES)("%s refuses lengths that are not whole blocks", (type) => {
    const { blockElements, blockBytes } = LAYOUTS[type];
    const format = BLOCK_FORMATS[type];
    expect(() => format.decode(new Uint8Array(blockBytes + 1), new Float32Array(blockElements))).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
    expect(() => format.encode(new Float32Array(blockElements * 2), new Uint8Array(blockBytes))).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
  });

  it.each(QUANTISED)("%s reads and writes at an odd offset of a larger buffer", (type) => {
    const { blockElements, blockBytes } = LAYOUTS[type];
    const buffer = new Uint8Array(blockBytes + 7).fill(0xee);
    const view = buffer.subarray(3, 3 + blockBytes);
    blockFormat(type).encode(values.subarray(0, blockElements), view);
    expect([...buffer.subarray(0, 3), ...buffer.subarray(3 + blockBytes)]).toEqual([
      0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee,
    ]);
    const out = new Float32Array(blockElements);
    blockFormat(type).decode(view, out);
    expect([...out]).toEqual([...roundTrip(type, values.subarray(0, blockElements))]);
  });
});

describe("sizes", () => {
  it("counts bytes of rows and tensors", () => {
    expect(rowBytes("Q4_0", 2048)).toBe(1152);
    expect(rowBytes("Q4_K", 256)).toBe(144);
    expect(tensorBytes("Q6_K", [3, 2, 512])).toBe(3 * 2 * 420);
    expect(tensorBytes("F32", [])).toBe(4);
    expect(() => rowBytes("Q4_0", 33)).toThrow(expect.objectContaining({ code: "BAD_SHAPE" }));
    expect(() => tensorBytes("F32", [2 ** 40, 2 ** 40])).toThrow(
      expect.objectContaining({ code: "BAD_SHAPE" }),
    );
  });
});
