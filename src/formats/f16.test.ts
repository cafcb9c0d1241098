import { describe, expect, it } from "vitest";
import { bf16ToF32, f32ToBf16 } from "./bf16.js";
import { f16ToF32, f32ToF16 } from "./f16.js";

describe("f16", () => {
  it("knows its landmarks", () => {
    const landmarks: [number, number][] = [
      [0x0000, 0],
      [0x3c00, 1],
      [0xc000, -2],
      [0x7bff, 65504],
      [0x0400, 2 ** -14],
      [0x0001, 2 ** -24],
      [0x03ff, 1023 * 2 ** -24],
      [0x7c00, Infinity],
      [0xfc00, -Infinity],
      [0x3555, 0.333251953125],
    ];
    for (const [bits, value] of landmarks) {
      expect(f16ToF32(bits)).toBe(value);
      expect(f32ToF16(value)).toBe(bits);
    }
    expect(Object.is(f16ToF32(0x8000), -0)).toBe(true);
    expect(f32ToF16(-0)).toBe(0x8000);
    expect(f16ToF32(0x7e01)).toBeNaN();
    expect(f16ToF32(f32ToF16(NaN))).toBeNaN();
  });

  it("gives every half back, and rounds every midpoint to even", () => {
    for (let bits = 0; bits < 0x7c00; bits++) {
      if (f32ToF16(f16ToF32(bits)) !== bits) expect.fail(`half 0x${bits.toString(16)}`);
      const next = bits === 0x7bff ? 65536 : f16ToF32(bits + 1);
      const middle = (f16ToF32(bits) + next) / 2;
      const even = (bits & 1) === 0 ? bits : bits + 1;
      if (f32ToF16(middle) !== even) expect.fail(`midpoint above 0x${bits.toString(16)}`);
      const ulp = 2 ** (Math.floor(Math.log2(middle)) - 23);
      if (f32ToF16(middle - ulp) !== bits) expect.fail(`below the midpoint above 0x${bits.toString(16)}`);
      if (f32ToF16(-middle - ulp) !== bits + 1 + 0x8000)
        expect.fail(`past the midpoint below -0x${bits.toString(16)}`);
    }
  });
});

describe("bf16", () => {
  it("rounds to nearest, ties to even, and keeps NaN", () => {
    for (let bits = 0; bits < 0x7f80; bits++) expect(f32ToBf16(bf16ToF32(bits))).toBe(bits);
    expect(bf16ToF32(0x3f80)).toBe(1);
    expect(f32ToBf16(1 + 2 ** -8)).toBe(0x3f80);
    expect(f32ToBf16(1 + 3 * 2 ** -8)).toBe(0x3f82);
    expect(f32ToBf16(1 + 2 ** -8 + 2 ** -20)).toBe(0x3f81);
    expect(f32ToBf16(-3.4e38)).toBe(0xff80);
    expect(f32ToBf16(Infinity)).toBe(0x7f80);
    expect(bf16ToF32(f32ToBf16(NaN))).toBeNaN();
  });
});
