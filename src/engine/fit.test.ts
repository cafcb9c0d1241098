import { describe, expect, it } from "vitest";
import { pagesFor, planLayout } from "../cache/layout.js";
import { full } from "../cache/policies/full.js";
import { window } from "../cache/policies/window.js";
import { MillraceError } from "../errors.js";
import { type FitQuestion, fitMemory } from "./fit.js";

const GIB = 2 ** 30;
const kv = [0, 1].map((layer) => ({ layer, numKvHeads: 2, headWidth: 16, window: null }));
const layout = planLayout({ kv, policy: full(), codec: "f16", step: 64 });
const cacheOf = (tokens: number) => pagesFor(layout, tokens) * layout.pageBytes;

const ask = (question: Partial<FitQuestion>) =>
  fitMemory({
    layout,
    weightBytes: 1_000_000,
    scratchBytes: 100_000,
    context: 1024,
    contextIsFixed: true,
    sequences: 4,
    budgetBytes: null,
    machineBytes: 64 * GIB,
    ...question,
  });

describe("fitMemory", () => {
  it("gives every sequence its whole context where no budget is set", () => {
    expect(ask({})).toMatchObject({ context: 1024, cacheBytes: 4 * cacheOf(1024) });
  });

  it("gives no more than can be filled, and never passes a budget", () => {
    expect(ask({ budgetBytes: GIB }).cacheBytes).toBe(4 * cacheOf(1024));
    const scratchBytes = ask({}).scratchBytes;
    const budgetBytes = 1_000_000 + scratchBytes + cacheOf(1024) + 5 * layout.pageBytes + 17;
    const tight = ask({ budgetBytes });
    expect(tight.cacheBytes).toBe(cacheOf(1024) + 5 * layout.pageBytes);
    expect(1_000_000 + tight.scratchBytes + tight.cacheBytes).toBeLessThanOrEqual(budgetBytes);
  });

  it("shrinks a context that nobody insisted on, to the largest that fits", () => {
    const budgetBytes = 1_000_000 + 200_000 + cacheOf(300);
    const { context, cacheBytes, scratchBytes } = ask({ budgetBytes, contextIsFixed: false });
    expect(context).toBeGreaterThanOrEqual(300);
    expect(context).toBeLessThan(1024);
    expect(1_000_000 + scratchBytes + cacheBytes).toBeLessThanOrEqual(budgetBytes);
    expect(cacheBytes).toBeGreaterThanOrEqual(cacheOf(context));
    expect(() => ask({ budgetBytes, context: context + 1 })).toThrow(MillraceError);
  });

  it.each<[string, Partial<FitQuestion>]>([
    ["a budget below the weights", { budgetBytes: 500_000 }],
    ["a budget with no room for the context", { budgetBytes: 1_150_000 }],
    ["a budget with no room for any context", { budgetBytes: 1_100_100, contextIsFixed: false }],
    ["a machine that is too small", { machineBytes: 1_200_000 }],
  ])("refuses %s with the numbers", (_, question) => {
    let error: unknown;
    try {
      ask(question);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: "OUT_OF_BUDGET" });
    const { needs, has, weightBytes, cacheBytes, scratchBytes } = (error as MillraceError).details;
    expect(has).toBe(question.budgetBytes ?? question.machineBytes);
    expect(needs).toBeGreaterThan(has as number);
    expect(needs).toBe((weightBytes as number) + (cacheBytes as number) + (scratchBytes as number));
  });

  it("needs a bounded cache for endless streams", () => {
    const bounded = planLayout({ kv, policy: window({ tokens: 128 }), codec: "f16", step: 64 });
    const { context, cacheBytes } = ask({ layout: bounded, context: Infinity });
    expect(context).toBe(Infinity);
    expect(cacheBytes).toBe(4 * pagesFor(bounded, Infinity) * bounded.pageBytes);
  });
});
