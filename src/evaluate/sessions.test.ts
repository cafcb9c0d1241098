/** Evaluations that run sessions, on a tiny model of the world whose logits are the null backend's. */
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openLocal } from "../../test/support/open-local.js";
import { writeWorldModel } from "../../test/support/world-model.js";
import { full, h2o, sinks, window } from "../engine/policies.js";
import { openCheckpoint } from "../formats/open.js";
import type { Model } from "../session/model.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { streamPerplexity, textTokens } from "./perplexity.js";
import { bucketOf, type Examinee, examineStream, examineWindows } from "./recall.js";
import { compareRecompute } from "./recompute.js";
import { measureSaving } from "./saving.js";
import { type SoakMode, soak, soakTenths } from "./soak.js";
import { heldOutQuestions } from "./world-stream.js";

let folder: string;
let model: Model;
let tokenizer: Tokenizer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-evaluate-"));
  const path = join(folder, "world.gguf");
  await writeWorldModel(path);
  await using checkpoint = await openCheckpoint(path);
  tokenizer = resolveTokenizer(checkpoint.tokenizer)!;
  model = await openLocal({ backend: "null" }, path);
});
afterAll(async () => {
  await model.close();
  await rm(folder, { recursive: true });
});

const examinee = (name: string, policy: Examinee["policy"]): Examinee => ({
  name,
  policy,
  codec: "f16",
  budget: null,
});

describe("streamPerplexity", () => {
  const text = Array.from({ length: 400 }, (_, i) => `The boat ${i} lies at the pier. `).join("");
  const path = () => join(folder, "text.txt");
  beforeAll(() => writeFile(path(), text));

  it("is Model.score's of the whole, and in stretches", async () => {
    const ids = await model.tokenize(text);
    const { logprobs } = await model.score(ids.slice(0, 900));
    const session = model.session({ cache: full() });
    const read: number[] = [];
    const [found] = await streamPerplexity([{ name: "full", session }], textTokens(path(), tokenizer), {
      tokens: 900,
      warmUp: 100,
      segments: 3,
      onProgress: (tokens) => read.push(tokens),
    });
    const perplexity = (from: number, to: number) => {
      // Token i has logprobs[i - 1]; the first has none.
      const some = logprobs.slice(Math.max(0, from - 1), to - 1);
      return Math.exp(-some.reduce((sum, logprob) => sum + logprob, 0) / some.length);
    };
    expect(found!.tokens).toBe(900);
    expect(found!.perplexity).toBeCloseTo(perplexity(0, 900), 6);
    expect(found!.first).toBeCloseTo(perplexity(100, 180), 6);
    expect(found!.last).toBeCloseTo(perplexity(810, 900), 6);
    expect(found!.segments.map(({ from, to }) => [from, to])).toEqual([
      [0, 300],
      [300, 600],
      [600, 900],
    ]);
    expect(found!.segments[1]!.perplexity).toBeCloseTo(perplexity(300, 600), 6);
    expect(read.at(-1)).toBe(900);
    await session.close();
  });

  it("lets the others go on where one is full, and one begin anew", async () => {
    const sessions = {
      full: model.session({ cache: full() }),
      sinks: model.session({ cache: sinks({ window: 100 }) }),
      anew: model.session({ cache: full() }),
    };
    const readers = Object.entries(sessions).map(([name, session]) => ({
      name,
      session,
      ...(name === "anew" ? { anewEvery: 64 } : {}),
    }));
    const options = { tokens: 3000, warmUp: 100, segments: 4 };
    const found = await streamPerplexity(readers, textTokens(path(), tokenizer), options);
    const [whole, sinking, anew] = found;
    expect(whole).toMatchObject({ tokens: 1024, ended: { code: "PROMPT_TOO_LONG" } });
    expect(whole!.segments).toHaveLength(1);
    expect(whole!.last).toBeNaN();
    expect(sinking).toMatchObject({ tokens: 3000, ended: null });
    expect(sinking!.segments).toHaveLength(4);
    expect(anew).toMatchObject({ tokens: 3000, ended: null });
    expect(anew!.report.seen).toBeLessThan(64);
    for (const { session } of readers) await session.close();
  });
});

describe("bucketOf", () => {
  it.each([
    [0, 0, 50],
    [49, 0, 50],
    [50, 50, 100],
    [199, 100, 200],
    [200, 200, 500],
    [999, 500, 1000],
    [123_456, 100_000, 200_000],
  ])("puts %i into [%i, %i)", (distance, from, to) => {
    expect(bucketOf(distance)).toEqual({ from, to });
  });
});

describe("examineWindows", () => {
  it("asks each cache every question, and measures the log before it", async () => {
    const questions = heldOutQuestions(tokenizer, { seed: 1, count: 6, within: 200, promptTokens: 400 });
    const done: number[] = [];
    const caches = [
      examinee("full", full()),
      examinee("again", full()),
      examinee("h2o", h2o({ heavy: 40, recent: 40 })),
    ];
    const [one, again, less] = await examineWindows(model, tokenizer, caches, questions, {
      onProgress: (count, total) => done.push(count, total),
    });
    expect({ ...again, name: "full", firstTokenMs: one!.firstTokenMs }).toEqual(one);
    expect(less!.kept).toBeLessThanOrEqual(80);
    expect(less!.bytes).toBeLessThan(one!.bytes);
    for (const { questions: asked, buckets, tokens, perplexity } of [one!, less!]) {
      expect(asked).toBe(6);
      expect(buckets.reduce((sum, bucket) => sum + bucket.questions, 0)).toBe(6);
      expect(tokens).toBe(one!.tokens);
      expect(perplexity).toBeGreaterThan(1);
    }
    expect(done.slice(-2)).toEqual([18, 18]);
  });
});

describe("examineStream", () => {
  const options = { tokens: 1500, seed: 4, questions: { every: 40, from: 10, to: 1500 }, beside: 300 };

  it("has all caches read the same log, however they answer", async () => {
    const caches = [
      examinee("full", full()),
      examinee("sinks", sinks({ window: 900 })),
      examinee("window", window({ tokens: 100 })),
      { ...examinee("disk", sinks({ window: 100 })), recall: { disk: "8 MiB", dir: folder } },
    ];
    const [whole, long, short, disk, last] = await examineStream(model, tokenizer, caches, options);
    expect(whole!.ended).toMatchObject({ code: "PROMPT_TOO_LONG" });
    for (const each of [long!, short!, disk!]) {
      expect(each.ended).toBeNull();
      expect([each.tokens, each.questions]).toEqual([long!.tokens, long!.questions]);
    }
    expect(long!.questions).toBeGreaterThan(10);
    expect(last!.name).toBe("full, last 300");
    const near = long!.buckets.filter(({ to }) => to <= 200);
    expect(last!.buckets.slice(0, near.length).map(({ questions }) => questions)).toEqual(
      near.map(({ questions }) => questions),
    );
    expect(last!.kept).toBeLessThanOrEqual(400);
    expect(short!.kept).toBeLessThanOrEqual(100);
    expect((await readdir(folder)).filter((name) => name.startsWith("millrace-tier"))).toEqual([]);
  });

  it("refuses a tokenizer of another world", async () => {
    const other = { ...tokenizer, idOf: () => undefined };
    await expect(examineStream(model, other, [examinee("full", full())], options)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
  });
});

describe("soak", () => {
  const options = (mode: SoakMode, tokens: number) => ({
    tokens,
    mode,
    seed: 2,
    every: 500,
    session: { cache: sinks({ window: 60 }) },
  });

  it.each(["mixed", "read", "generate"] as const)("%s: samples all of the stream", async (mode) => {
    const result = await soak(model, tokenizer, options(mode, 3000));
    expect(result.samples.length).toBeGreaterThanOrEqual(4);
    expect(result.samples.length).toBeLessThanOrEqual(6);
    const { seen, waiting, kept, dropped } = result.report;
    expect(seen + waiting).toBeGreaterThanOrEqual(3000);
    expect(kept + dropped).toBe(seen);
    for (const sample of result.samples) {
      expect(sample.sessionBytes).toBeLessThanOrEqual(result.memoryBytes);
      expect(sample.residentBytes).toBeGreaterThan(sample.sessionBytes);
      expect([sample.ms > 0, sample.cpuMs > 0, Number.isNaN(sample.saidMs)]).toEqual([
        true,
        true,
        mode === "read",
      ]);
    }
  });

  it("goes on from a checkpoint to where it would have come without", async () => {
    const checkpoint = { folder: join(folder, "soak"), every: 800 };
    const whole = await soak(model, tokenizer, options("mixed", 4000));
    await soak(model, tokenizer, { ...options("mixed", 2000), checkpoint });
    const stop = new AbortController();
    const cut = await soak(model, tokenizer, {
      ...options("mixed", 4000),
      checkpoint,
      signal: stop.signal,
      onProgress: (tokens) => tokens > 2500 && stop.abort(),
    });
    expect(cut.resumedAt).toBeGreaterThanOrEqual(2000);
    const rest = await soak(model, tokenizer, { ...options("mixed", 4000), checkpoint });
    expect(rest.resumedAt).toBeGreaterThan(2500);
    expect(rest.report).toEqual(whole.report);
    expect(await readdir(checkpoint.folder)).toHaveLength(2);
    const other = { ...options("read", 5000), checkpoint };
    await expect(soak(model, tokenizer, other)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await writeFile(join(checkpoint.folder, "soak.json"), "{}");
    await expect(soak(model, tokenizer, other)).rejects.toMatchObject({ code: "BAD_FORMAT" });
  });

  it("compares the first tenth with the last", () => {
    const sample = (tokens: number) => ({
      tokens,
      residentBytes: tokens,
      sessionBytes: 5,
      kept: 1,
      ms: tokens / 100,
      cpuMs: 1,
      readMs: 1,
      saidMs: Number.NaN,
    });
    const samples = Array.from({ length: 100 }, (_, i) => sample(10 * (i + 1)));
    const { first, last, most } = soakTenths(samples);
    expect([first.ms, last.ms, most.residentBytes]).toEqual([0.55, 9.55, 1000]);
    expect(first.saidMs).toBeNaN();
    const warm = soakTenths(samples, 500);
    expect([warm.first.ms, warm.last.ms, warm.most.residentBytes]).toEqual([5.3, 9.8, 1000]);
  });
});

describe("measureSaving", () => {
  it("fills a session, and finds the restored one the same", async () => {
    const bytes = 300_000;
    const result = await measureSaving(model, { bytes, runs: 2, codec: "f16", dir: folder });
    expect(result).toMatchObject({ identical: true, continued: 128 });
    expect(result.bytes).toBeLessThanOrEqual(bytes);
    expect(result.bytes).toBeGreaterThan(0.8 * bytes);
    expect([result.saveMs.length, result.restoreMs.length]).toEqual([2, 2]);
    expect((await readdir(folder)).filter((name) => name.startsWith("millrace-saving"))).toEqual([]);
    const tooSmall = measureSaving(model, { bytes: 20_000, runs: 1, codec: "f16", dir: folder });
    await expect(tooSmall).rejects.toMatchObject({ code: "OUT_OF_BUDGET" });
  });
});

describe("compareRecompute", () => {
  it("has both sides of every run", async () => {
    const options = { window: 64, runs: 2, tokens: 4, windows: 2, codec: "f16" } as const;
    const { runs, ratio, sinksMs, recomputeMs } = await compareRecompute(model, options);
    expect(runs).toHaveLength(2);
    for (const figure of [ratio, sinksMs, recomputeMs]) expect(figure).toBeGreaterThan(0);
  });
});
