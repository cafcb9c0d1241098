import { describe, expect, it } from "vitest";
import { createNull } from "../backends/null.js";
import { MillraceError } from "../errors.js";
import { KvPool } from "./pool.js";

const pool = (numPages: number) =>
  new KvPool(createNull(), { pageBytes: 128, budgetBytes: numPages * 128 + 100 });

const codeOf = (act: () => unknown): string | undefined => {
  try {
    act();
  } catch (error) {
    return error instanceof MillraceError ? error.code : "another error";
  }
  return undefined;
};

describe("KvPool", () => {
  it("takes whole pages of its budget and never more", () => {
    const { arena, numPages } = pool(7);
    expect(numPages).toBe(7);
    expect(arena.byteLength).toBe(7 * 128);
  });

  it("refuses with the numbers, taking nothing", () => {
    const seven = pool(7);
    seven.take(new Int32Array(4));
    let thrown: unknown;
    try {
      seven.take(new Int32Array(4));
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({
      code: "OUT_OF_BUDGET",
      details: { needed: 4, free: 3, pages: 7, pageBytes: 128 },
    });
    expect(seven.usage()).toEqual({ pages: 7, free: 3, used: 4, shared: 0, peak: 4, pageBytes: 128 });
  });

  it("counts what is shared and gives a page back with its last owner", () => {
    const seven = pool(7);
    const pages = new Int32Array(2);
    seven.take(pages);
    seven.retain(pages);
    seven.retain(pages.subarray(0, 1));
    expect(seven.usage()).toMatchObject({ used: 2, shared: 2 });
    seven.release(pages);
    expect(seven.usage()).toMatchObject({ used: 2, shared: 1 });
    expect(seven.isShared(pages[0]!)).toBe(true);
    seven.release(pages);
    expect(seven.usage()).toMatchObject({ used: 1, shared: 0 });
    seven.release(pages.subarray(0, 1));
    expect(seven.usage()).toMatchObject({ used: 0, free: 7 });
  });

  it("tells a page given back twice, or never taken, from one that is held", () => {
    const seven = pool(7);
    const pages = new Int32Array(1);
    seven.take(pages);
    seven.release(pages);
    expect(codeOf(() => seven.release(pages))).toBe("INTERNAL");
    expect(codeOf(() => seven.retain(pages))).toBe("INTERNAL");
    expect(codeOf(() => seven.release(Int32Array.of(99)))).toBe("INTERNAL");
    expect(codeOf(() => seven.isShared(-1))).toBe("INTERNAL");
    expect(seven.usage().free).toBe(7);
  });

  it("copies on write: same bytes, another page, held once", () => {
    const seven = pool(7);
    const pages = new Int32Array(1);
    seven.take(pages);
    const original = pages[0]!;
    seven.arena.bytes(original * 128, 128).fill(9);
    seven.retain(pages);
    seven.unshare(pages);
    expect(pages[0]).not.toBe(original);
    expect([...seven.arena.bytes(pages[0]! * 128, 128)]).toEqual(new Array(128).fill(9));
    expect(seven.usage()).toMatchObject({ used: 2, shared: 0 });
  });

  it("hands out zeroed pages", () => {
    const one = pool(1);
    const pages = new Int32Array(1);
    one.take(pages);
    one.arena.bytes().fill(255);
    one.release(pages);
    one.take(pages);
    expect(one.arena.bytes().every((byte) => byte === 0)).toBe(true);
  });

  it("refuses budgets and pages that are none", () => {
    const make = (pageBytes: number, budgetBytes: number) => () =>
      new KvPool(createNull(), { pageBytes, budgetBytes });
    expect(codeOf(make(128, 127))).toBe("OUT_OF_BUDGET");
    expect(codeOf(make(100, 1000))).toBe("INVALID_ARGUMENT");
    expect(codeOf(make(0, 1000))).toBe("INVALID_ARGUMENT");
    expect(codeOf(make(64, Number.NaN))).toBe("INVALID_ARGUMENT");
    expect(codeOf(make(64, Number.POSITIVE_INFINITY))).toBe("INVALID_ARGUMENT");
  });
});
