import { describe, expect, it } from "vitest";
import { createCandidates } from "./candidates.js";
import type { SamplingOptions } from "./options.js";
import { createRandom } from "./random.js";
import { createSampler } from "./sampler.js";

const V = 24;
const random = createRandom(11);
/** Logits over V tokens, with one pair of equals. */
const logits = Float32Array.from({ length: V }, () => (random.next() - 0.5) * 6);
logits[17] = logits[5]!;

const softmax = (values: readonly number[]): number[] => {
  const top = Math.max(...values);
  const weights = values.map((x) => Math.exp(x - top));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((w) => w / sum);
};
const renormalise = (p: readonly number[], kept: ReadonlySet<number>): number[] => {
  const sum = p.reduce((total, x, id) => total + (kept.has(id) ? x : 0), 0);
  return p.map((x, id) => (kept.has(id) ? x / sum : 0));
};
/** The ids in `order` up to the first at which the probabilities sum to `mass`. */
const prefix = (p: readonly number[], order: readonly number[], mass: number): Set<number> => {
  let sum = 0;
  const kept = new Set<number>();
  for (const id of order) {
    kept.add(id);
    sum += p[id]!;
    if (sum >= mass) break;
  }
  return kept;
};
const by = (key: (id: number) => number) =>
  Array.from({ length: V }, (_, id) => id).sort((a, b) => key(b) - key(a) || a - b);

/** Distributions written down directly from their definitions. */
const tempered = (t: number) => softmax(Array.from(logits, (x) => x / t));
const topK = (p: number[], k: number) => renormalise(p, new Set(by((id) => p[id]!).slice(0, k)));
const topP = (p: number[], mass: number) =>
  renormalise(
    p,
    prefix(
      p,
      by((id) => p[id]!),
      mass,
    ),
  );
const minP = (p: number[], share: number) =>
  renormalise(p, new Set(by(() => 0).filter((id) => p[id]! >= share * Math.max(...p))));
const typical = (p: number[], mass: number) => {
  const entropy = -p.reduce((sum, x) => sum + (x > 0 ? x * Math.log(x) : 0), 0);
  return renormalise(
    p,
    prefix(
      p,
      by((id) => -Math.abs(-Math.log(p[id]!) - entropy)),
      mass,
    ),
  );
};

describe("createSampler: distributions", () => {
  it.each<[string, SamplingOptions, number[]]>([
    ["temperature 1", { temperature: 1 }, tempered(1)],
    ["temperature 0.5", { temperature: 0.5 }, tempered(0.5)],
    ["temperature 2.5", { temperature: 2.5 }, tempered(2.5)],
    ["top-k 5", { temperature: 1, topK: 5 }, topK(tempered(1), 5)],
    ["top-k past the vocabulary", { temperature: 1, topK: 1000 }, tempered(1)],
    ["top-p 0.8", { temperature: 1, topP: 0.8 }, topP(tempered(1), 0.8)],
    ["top-p 1", { temperature: 1, topP: 1 }, tempered(1)],
    ["min-p 0.2", { temperature: 1, minP: 0.2 }, minP(tempered(1), 0.2)],
    ["min-p 0", { temperature: 1, minP: 0 }, tempered(1)],
    ["typical 0.7", { temperature: 1, typicalP: 0.7 }, typical(tempered(1), 0.7)],
    ["top-p after temperature", { temperature: 2, topP: 0.6 }, topP(tempered(2), 0.6)],
    [
      "all of them, in their order",
      { temperature: 1.5, topK: 15, typicalP: 0.95, topP: 0.9, minP: 0.1 },
      minP(topP(typical(topK(tempered(1.5), 15), 0.95), 0.9), 0.1),
    ],
  ])("%s draws from the distribution that its definition gives", (_name, options, expected) => {
    const sampler = createSampler({ ...options, seed: 1 }, V);
    const draws = 20_000;
    const counts = new Array<number>(V).fill(0);
    for (let i = 0; i < draws; i++) counts[sampler.sample(logits, []).id]!++;
    let chiSquare = 0;
    let freedom = -1;
    expected.forEach((p, id) => {
      if (p === 0) expect(counts[id], `token ${id} is excluded`).toBe(0);
      if (p === 0) return;
      chiSquare += (counts[id]! - draws * p) ** 2 / (draws * p);
      freedom++;
    });
    // Wilson and Hilferty's approximation of the chi-square quantile at p = 1e-4 (3.719 standard deviations).
    const limit = freedom * (1 - 2 / (9 * freedom) + 3.719 * Math.sqrt(2 / (9 * freedom))) ** 3;
    expect(freedom).toBeGreaterThan(0);
    expect(chiSquare).toBeLessThan(limit);
  });

  it("stays within top-k's lower ids among equals", () => {
    const sampler = createSampler({ temperature: 1, topK: 3, seed: 4 }, 8);
    const seen = new Set(Array.from({ length: 200 }, () => sampler.sample(new Float32Array(8), []).id));
    expect([...seen].sort()).toEqual([0, 1, 2]);
  });

  it("approaches greedy as the temperature nears 0, with no overflow", () => {
    const sampler = createSampler({ temperature: 1e-300, seed: 9 }, 3);
    for (let i = 0; i < 20; i++) expect(sampler.sample(Float32Array.of(1, 3e38, 2), []).id).toBe(1);
  });
});

describe("createSampler: greedy, bias and penalties", () => {
  it("takes the largest logit, the lowest id of equals", () => {
    const sampler = createSampler({}, 5);
    expect(sampler.sample(Float32Array.of(-3, 2, 7, 7, 1), []).id).toBe(2);
    expect(sampler.sample(Float32Array.of(-Infinity, -5, -Infinity, -5, -9), []).id).toBe(1);
  });

  it("adds the bias, and bans with -Infinity", () => {
    const pick = (logitBias: Record<number, number>) =>
      createSampler({ logitBias }, 4).sample(Float32Array.of(1, 2, 3, 4), []).id;
    expect(pick({ 0: 3.5 })).toBe(0);
    expect(pick({ 3: -Infinity })).toBe(2);
    expect(() => pick({ 0: -Infinity, 1: -Infinity, 2: -Infinity, 3: -Infinity })).toThrow(
      expect.objectContaining({ code: "BAD_LOGITS" }),
    );
  });

  it("penalises tokens of the window only, by the formula of each penalty", () => {
    // With the logits 3 and 2.9, a penalty decides exactly where it crosses the gap.
    const pick = (options: SamplingOptions, context: number[]) =>
      createSampler(options, 4).sample(Float32Array.of(3, 2.9, -1, -1.05), context).id;
    expect(pick({ repetitionPenalty: 1.03 }, [0])).toBe(0);
    expect(pick({ repetitionPenalty: 1.04 }, [0])).toBe(1);
    expect(pick({ presencePenalty: 0.09 }, [0, 0, 0])).toBe(0);
    expect(pick({ presencePenalty: 0.11 }, [0])).toBe(1);
    expect(pick({ frequencyPenalty: 0.04 }, [0, 0])).toBe(0);
    expect(pick({ frequencyPenalty: 0.04 }, [0, 2, 0, 0])).toBe(1);
    expect(pick({ presencePenalty: 1, penaltyWindow: 2 }, [0, 2, 3])).toBe(0);
    expect(pick({ presencePenalty: 1, penaltyWindow: 3 }, [0, 2, 3])).toBe(1);
    const negative = (context: number[]) =>
      createSampler({ repetitionPenalty: 1.1, logitBias: { 0: -Infinity, 1: -Infinity } }, 4).sample(
        Float32Array.of(3, 2.9, -1, -1.05),
        context,
      ).id;
    expect(negative([])).toBe(2);
    expect(negative([2])).toBe(3);
  });

  it("skips ids of the context that are outside the vocabulary", () => {
    const sampler = createSampler({ presencePenalty: 1 }, 2);
    expect(sampler.sample(Float32Array.of(1, 0.5), [-1, 7]).id).toBe(0);
  });

  it("does not change the logits it is given", () => {
    const given = Float32Array.from(logits);
    createSampler(
      { temperature: 0.3, topP: 0.5, presencePenalty: 2, logitBias: { 1: 5 }, logprobs: 3 },
      V,
    ).sample(given, [1, 2, 3]);
    expect(given).toEqual(logits);
  });
});

describe("createSampler: log-probabilities", () => {
  it("reports log-softmax of the raw logits, whatever is done to them afterwards", () => {
    const p = tempered(1);
    const sampler = createSampler({ temperature: 2, topK: 4, logitBias: { 3: 20 }, logprobs: 4, seed: 2 }, V);
    const { id, logprob, top } = sampler.sample(logits, []);
    expect(id).toBe(3);
    expect(logprob).toBeCloseTo(Math.log(p[3]!), 12);
    const order = by((i) => logits[i]!);
    expect(top!.map((entry) => entry.id)).toEqual(order.slice(0, 4));
    for (const entry of top!) expect(entry.logprob).toBeCloseTo(Math.log(p[entry.id]!), 12);
  });

  it("sums to one over the whole vocabulary and keeps quiet where not asked", () => {
    const all = createSampler({ logprobs: V }, V).sample(logits, []).top!;
    expect(all).toHaveLength(V);
    expect(all.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0)).toBeCloseTo(1, 12);
    expect(createSampler({}, V).sample(logits, [])).toEqual({ id: by((i) => logits[i]!)[0] });
    expect(Object.keys(createSampler({ logprobs: 0 }, V).sample(logits, []))).toEqual(["id", "logprob"]);
  });
});

describe("createSampler: state and bad input", () => {
  const options = { temperature: 1, topP: 0.95 } as const;
  const ids = (sampler: ReturnType<typeof createSampler>, n: number) =>
    Array.from({ length: n }, () => sampler.sample(logits, []).id);

  it("gives the same ids for the same seed, also with shared working memory", () => {
    const shared = createCandidates(V);
    const a = createSampler({ ...options, seed: 123 }, V, shared);
    const b = createSampler({ ...options, seed: 7 }, V, shared);
    const interleaved = Array.from({ length: 50 }, () => [a.sample(logits, []).id, b.sample(logits, []).id]);
    expect(interleaved.map(([x]) => x)).toEqual(ids(createSampler({ ...options, seed: 123 }, V), 50));
    expect(interleaved.map(([, x]) => x)).toEqual(ids(createSampler({ ...options, seed: 7 }, V), 50));
  });

  it("tells the seed that it drew, and repeats with it", () => {
    const drawn = createSampler(options, V);
    expect(ids(createSampler({ ...options, seed: drawn.seed }, V), 20)).toEqual(ids(drawn, 20));
  });

  it("continues elsewhere from its saved state", () => {
    const sampler = createSampler({ ...options, seed: 5 }, V);
    ids(sampler, 10);
    const state = structuredClone(sampler.save());
    const other = createSampler(options, V);
    other.restore(state);
    expect(other.seed).toBe(5);
    expect(ids(other, 20)).toEqual(ids(sampler, 20));
  });

  it.each([
    ["NaN", Float32Array.of(1, Number.NaN, 3)],
    ["+Infinity", Float32Array.of(1, Infinity, 3)],
    ["-Infinity everywhere", new Float32Array(3).fill(-Infinity)],
  ])("throws BAD_LOGITS for %s, however it samples", (_name, bad) => {
    const all: SamplingOptions[] = [
      {},
      { temperature: 1 },
      { temperature: 1, topK: 1 },
      { presencePenalty: 1 },
    ];
    for (const option of all) {
      expect(() => createSampler(option, 3).sample(bad, [1])).toThrow(
        expect.objectContaining({ code: "BAD_LOGITS" }),
      );
    }
  });

  it("refuses a wrong number of logits", () => {
    expect(() => createSampler({}, 3).sample(new Float32Array(4), [])).toThrow(/Got 4 logits; expected 3/);
  });
});
