import { describe, expect, test } from "vitest";
import { expectClose } from "../../../test/conformance/compare.js";
import { TestRandom } from "../../../test/support/random.js";
import { GROUP } from "./contract.js";
import { codecs } from "./index.js";

const WIDTHS = [1, 7, 8, 16, 17, 64, 96, 128];

describe.each(Object.values(codecs))("codec $name", (codec) => {
  test("has groups of whole 64 bytes that hold their elements", () => {
    const elementBytes = { f32: 4, f16: 2, int8: 1 }[codec.name];
    for (const width of WIDTHS) {
      const padded = Math.ceil(width / 16) * 16;
      const used = (codec.name === "int8" ? 128 : 0) + 16 * (width + padded) * elementBytes;
      expect(codec.groupBytes(width) % 64).toBe(0);
      expect(codec.groupBytes(width) - used).toBeGreaterThanOrEqual(0);
      expect(codec.groupBytes(width) - used).toBeLessThan(64);
    }
  });

  test("stores each slot on its own, also in a page that does not start its buffer", () => {
    for (const width of WIDTHS) {
      const random = new TestRandom(width);
      const bytes = new Uint8Array(64 + 3 * codec.groupBytes(width));
      const page = bytes.subarray(64);
      const pairs = Array.from({ length: 3 * GROUP }, () => [
        random.floats(width, 5),
        random.floats(width, 3),
      ]);
      const order = random.permutation(pairs.length);
      for (const slot of order) codec.store(page, slot, pairs[slot]![0]!, pairs[slot]![1]!);
      expect(bytes.subarray(0, 64).every((byte) => byte === 0)).toBe(true);
      const bound = { f32: 0, f16: 2 ** -11, int8: 0.5005 / 127 }[codec.name];
      const got = [new Float32Array(width), new Float32Array(width)];
      for (const slot of order) {
        codec.load(page, slot, got[0]!, got[1]!);
        for (const which of [0, 1]) {
          const want = pairs[slot]![which]!;
          const largest = Math.max(...want.map(Math.abs));
          expectClose(`slot ${slot}`, got[which]!, want, (i) =>
            codec.name === "int8" ? bound * largest : bound * Math.abs(want[i]!) + 2 ** -25,
          );
        }
      }
    }
  });

  test("overwrites what lay in a slot, padding included", () => {
    const [width, slot] = [9, 21];
    const random = new TestRandom(1);
    const [key, value] = [random.floats(width), random.floats(width)];
    const fresh = new Uint8Array(2 * codec.groupBytes(width));
    codec.store(fresh, slot, key, value);
    const used = new Uint8Array(2 * codec.groupBytes(width)).fill(0x55);
    codec.store(used, slot, key, value);
    const out = [new Float32Array(width), new Float32Array(width)];
    codec.load(used, slot, out[0]!, out[1]!);
    const again = new Uint8Array(2 * codec.groupBytes(width));
    codec.store(again, slot, out[0]!, out[1]!);
    if (codec.name !== "int8") expect(again).toEqual(fresh);
    // The value's row, padding included, is the same in both.
    const elementBytes = { f32: 4, f16: 2, int8: 1 }[codec.name];
    const scales = codec.name === "int8" ? 128 : 0;
    const at = codec.groupBytes(width) + scales + (16 * width + (slot % 16) * 16) * elementBytes;
    expect(used.subarray(at, at + 16 * elementBytes)).toEqual(fresh.subarray(at, at + 16 * elementBytes));
  });
});

test("f16 holds what lies past its range as its largest number", () => {
  const page = new Uint8Array(codecs.f16.groupBytes(4));
  const far = Float32Array.of(65519, 1e9, Number.NEGATIVE_INFINITY, -65505);
  codecs.f16.store(page, 3, far, far);
  const [key, value] = [new Float32Array(4), new Float32Array(4)];
  codecs.f16.load(page, 3, key, value);
  expect([...key]).toEqual([65504, 65504, -65504, -65504]);
  expect([...value]).toEqual([...key]);
});

describe("page layout", () => {
  const key = Float32Array.of(1, 2, 3);
  const value = Float32Array.of(-4, 5, -127);

  test("f32: keys element-major, values token-major and padded to 16", () => {
    const page = new Uint8Array(2 * codecs.f32.groupBytes(3));
    codecs.f32.store(page, 18, key, value); // group 1, token 2
    const group = new Float32Array(page.buffer, codecs.f32.groupBytes(3));
    expect([group[2], group[16 + 2], group[32 + 2]]).toEqual([1, 2, 3]);
    expect([...group.subarray(48 + 2 * 16, 48 + 3 * 16)]).toEqual([-4, 5, -127, ...new Array(13).fill(0)]);
    expect(group.filter((x) => x !== 0)).toHaveLength(6);
  });

  test("f16: the same places, halves rounded to nearest even", () => {
    const page = new Uint8Array(codecs.f16.groupBytes(3));
    codecs.f16.store(page, 2, Float32Array.of(1, 1 + 2 ** -11, 1 + 3 * 2 ** -11), value);
    const group = new Uint16Array(page.buffer);
    expect([group[2], group[18], group[34]]).toEqual([0x3c00, 0x3c00, 0x3c02]);
    expect([...group.subarray(48 + 32, 48 + 35)]).toEqual([0xc400, 0x4500, 0xd7f0]);
  });

  test("int8: scales before, one of the key and one of the value; ties to even", () => {
    const page = new Uint8Array(codecs.int8.groupBytes(3));
    // Steps of 2: 127 -> 254, and elements half-way between steps.
    codecs.int8.store(page, 5, Float32Array.of(254, 5, 7), value);
    const scales = new Float32Array(page.buffer, 0, 32);
    expect(scales[5]).toBe(2);
    expect(scales[16 + 5]).toBe(1);
    const elements = new Int8Array(page.buffer, 128);
    expect([elements[5], elements[16 + 5], elements[32 + 5]]).toEqual([127, 2, 4]); // 2.5 -> 2, 3.5 -> 4
    expect([...elements.subarray(48 + 5 * 16, 48 + 5 * 16 + 4)]).toEqual([-4, 5, -127, 0]);
  });

  test("int8: zeros and all but nothing have scale 0", () => {
    const page = new Uint8Array(codecs.int8.groupBytes(2)).fill(9);
    codecs.int8.store(page, 0, new Float32Array(2), Float32Array.of(1e-38, -1e-40));
    const [k, v] = [new Float32Array(2).fill(1), new Float32Array(2).fill(1)];
    codecs.int8.load(page, 0, k, v);
    expect([...k, ...v].map(Math.abs)).toEqual([0, 0, 0, 0]);
  });
});
