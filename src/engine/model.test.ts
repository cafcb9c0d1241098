import { setImmediate as turn } from "node:timers/promises";
import { afterEach, describe, expect, it } from "vitest";
import { loadNull, localThread, openNull } from "../../test/support/local-thread.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createNull } from "../backends/null.js";
import type { EngineThread } from "./connection.js";
import type { Generation, Piece } from "./generation.js";
import { assemble } from "./load.js";
import type { Model } from "./model.js";
import { openOn, openParameters } from "./open.js";
import { window } from "./policies.js";
import { MAX_UNREAD_PIECES } from "./protocol.js";

const models: Model[] = [];
const open = async (...parameters: Parameters<typeof openNull>) => {
  const model = await openNull(...parameters);
  models.push(model);
  return model;
};
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

const code = (name: string) => expect.objectContaining({ code: name });
const turns = async (count: number) => {
  for (let i = 0; i < count; i++) await turn();
};
async function collect(pieces: AsyncIterable<Piece>): Promise<Piece[]> {
  const all: Piece[] = [];
  for await (const piece of pieces) all.push(piece);
  return all;
}

describe("open", () => {
  it("tells what was loaded and what it takes", async () => {
    const { info } = await open();
    expect(info).toMatchObject({
      architecture: "llama",
      format: "gguf",
      vocabularySize: 320,
      trainedContext: 512,
      context: 512,
      sequences: 4,
      backend: { name: "null", threads: 1 },
      cache: { policy: { policy: "full" }, codec: "f16" },
      tokenizer: { kind: "gguf", bosId: 1, chatFormat: "plain" },
    });
    // 2 layers x 2 heads x 16 wide, keys and values of 2 bytes, 512 tokens, 4 sequences
    expect(info.memory.cacheBytes).toBe(2 * 2 * 16 * 2 * 2 * 512 * 4);
    expect(info.memory.budgetBytes).toBeNull();
  });

  it("keeps within a budget, and says what a model too large for it would need", async () => {
    const { info } = await open({ memory: "2.5 MiB" });
    expect(info.memory.weightBytes + info.memory.cacheBytes + info.memory.scratchBytes).toBeLessThanOrEqual(
      info.memory.budgetBytes!,
    );
    expect(info.memory.budgetBytes).toBe(2.5 * 2 ** 20);
    await expect(open({ memory: "100 kB" })).rejects.toMatchObject({
      code: "OUT_OF_BUDGET",
      details: { has: 100_000, needs: expect.any(Number) },
    });
  });

  it.each([
    [{ thread: 2 }, 'Did you mean "threads"?'],
    [{ threads: 0 }, "threads is 0"],
    [{ context: 1.5 }, "context is 1.5"],
    [{ sequences: 0 }, "sequences is 0"],
    [{ memory: "lots" }, "memory"],
    [{ backend: "cuda" }, "backend"],
    [{ cache: { codec: "f8" } }, "cache.codec"],
    [{ cache: { polcy: 1 } }, 'Did you mean "policy"?'],
    [{ cache: { policy: "full" } }, "cache.policy"],
    [{ cache: { policy: { policy: "window", tokens: 0 } } }, "window"],
    [{ onProgress: 3 }, "onProgress"],
    [{ signal: {} }, "signal"],
  ])("refuses %j", (options, message) => {
    expect(() => openParameters("file", options as never)).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringContaining(message) }),
    );
  });

  it("ends with ABORTED when its signal does, before or during", async () => {
    await expect(open({ signal: AbortSignal.abort() })).rejects.toThrow(code("ABORTED"));
    const controller = new AbortController();
    const opening = open({ signal: controller.signal }, () => new Promise(() => {}));
    controller.abort();
    await expect(opening).rejects.toThrow(code("ABORTED"));
  });
});

describe("generate", () => {
  it("streams pieces that make up the result", async () => {
    const model = await open();
    const generation = model.generate("the rest", { maxTokens: 30, ignoreEos: true });
    const pieces = await collect(generation);
    const result = await generation.result;
    expect(result.text).toBe(pieces.map(({ text }) => text).join(""));
    expect(result.tokens).toEqual(pieces.flatMap(({ tokens }) => tokens));
    expect(result.tokens).toHaveLength(30);
    let index = 0;
    for (const piece of pieces) {
      expect(piece.index).toBe(index);
      index += piece.tokens.length;
    }
    const prompt = await model.tokenize("the rest");
    expect(result).toMatchObject({
      finishReason: "length",
      usage: { promptTokens: prompt.length, generatedTokens: 30 },
      cache: { seen: prompt.length + 29, kept: prompt.length + 29, dropped: 0 },
    });
  });

  it("gives several generations at once what each gives alone", async () => {
    const prompts = ["the rest", "a", "he is in the rain and on the hill", "no"];
    const options = { maxTokens: 40, temperature: 1.3, ignoreEos: true, seed: 11 };
    const model = await open();
    const alone = [];
    for (const prompt of prompts) alone.push(await model.generate(prompt, options).result);
    const together = await Promise.all(prompts.map((prompt) => model.generate(prompt, options).result));
    expect(together.map(({ tokens }) => tokens)).toEqual(alone.map(({ tokens }) => tokens));
    expect(new Set(alone.map(({ text }) => text)).size).toBe(prompts.length);
  });

  it("repeats itself by seed, and tells a seed that it drew", async () => {
    const model = await open();
    const options = { maxTokens: 25, temperature: 2, ignoreEos: true };
    const first = await model.generate([1, 5], options).result;
    const again = await model.generate([1, 5], { ...options, seed: first.seed }).result;
    const other = await model.generate([1, 5], { ...options, seed: first.seed + 1 }).result;
    expect(again.tokens).toEqual(first.tokens);
    expect(other.tokens).not.toEqual(first.tokens);
  });

  it("gives log-probabilities where they are asked for", async () => {
    const model = await open();
    const generation = model.generate([1, 5], { maxTokens: 5, logprobs: 2, ignoreEos: true });
    const scores = (await collect(generation)).flatMap((piece) => piece.scores ?? []);
    const result = await generation.result;
    expect(result.scores).toEqual(scores);
    expect(scores.map(({ id }) => id)).toEqual(result.tokens);
    for (const { id, logprob, top } of scores) {
      expect(top).toHaveLength(2);
      expect(top[0]).toEqual({ id, logprob });
    }
    const plain = await model.generate([1, 5], { maxTokens: 5 }).result;
    expect(plain).not.toHaveProperty("scores");
  });

  it("stops before a stop string", async () => {
    const model = await open();
    const options = { maxTokens: 60, ignoreEos: true };
    const { text } = await model.generate("the rest", options).result;
    const stop = text.slice(10, 13);
    const result = await model.generate("the rest", { ...options, stop }).result;
    expect(result.finishReason).toBe("stop-string");
    expect(result.text).toBe(text.slice(0, text.indexOf(stop)));
  });

  it("ends with cache-full where the context ends first", async () => {
    const model = await open({ context: 32 });
    const result = await model.generate([1, 2, 3], { maxTokens: 100, ignoreEos: true }).result;
    expect(result).toMatchObject({ finishReason: "cache-full", usage: { generatedTokens: 30 } });
    const whole = await model.generate([1, 2, 3], { ignoreEos: true }).result;
    expect(whole.tokens).toEqual(result.tokens);
  });

  it("runs past its context where the policy bounds the cache", async () => {
    const model = await open({ context: 64, cache: { policy: window({ tokens: 32 }) } });
    const prompt = Array.from({ length: 200 }, (_, i) => i);
    const result = await model.generate(prompt, { maxTokens: 300, ignoreEos: true }).result;
    expect(result).toMatchObject({ finishReason: "length", usage: { generatedTokens: 300 } });
    const { seen, kept, dropped } = result.cache;
    expect([seen, kept + dropped]).toEqual([499, 499]);
    expect(kept).toBeLessThanOrEqual(32);
    expect(kept).toBeGreaterThanOrEqual(24);
  });

  it("refuses what cannot run", async () => {
    const model = await open({ context: 64 });
    expect(() => model.generate("a", { maxToken: 3 } as never)).toThrow('Did you mean "maxTokens"?');
    for (const options of [
      { maxTokens: 0 },
      { temperature: -1 },
      { stop: [""] },
      { stop: 3 },
      { ignoreEos: 1 },
      { signal: 1 },
      { logitBias: { 320: 1 } },
      { chat: { tool: [] } },
    ]) {
      expect(() => model.generate([{ role: "user", content: "a" }], options as never)).toThrow(
        code("INVALID_ARGUMENT"),
      );
    }
    expect(() => model.generate("a", { chat: {} })).toThrow(code("INVALID_ARGUMENT"));
    expect(() => model.generate(7 as never)).toThrow(code("INVALID_ARGUMENT"));
    expect(() => model.generate([{ role: "user" }] as never)).toThrow(code("INVALID_ARGUMENT"));
    for (const id of [320, -1, 1.5, Number.NaN]) {
      expect(() => model.generate([1, id])).toThrow(code("INVALID_TOKEN"));
    }
    const long = model.generate(Array.from({ length: 65 }, () => 1));
    await expect(long.next()).rejects.toMatchObject({
      code: "PROMPT_TOO_LONG",
      details: { tokens: 65, context: 64 },
    });
    expect(await long.next()).toEqual({ done: true, value: undefined });
    await expect(long.result).rejects.toThrow(code("PROMPT_TOO_LONG"));
    await expect(model.generate([]).result).rejects.toThrow(code("INVALID_ARGUMENT"));
    const call = model.generate([{ role: "user", content: "a" }], { chat: { tools: [() => 1] as never } });
    await expect(call.result).rejects.toThrow(code("INVALID_ARGUMENT"));
  });

  it("renders conversations", async () => {
    const model = await open();
    const messages = [{ role: "user", content: "hi" }];
    const text = await model.renderChat(messages);
    expect(text).toContain("User: hi\nAssistant:");
    const chat = await model.generate(messages, { maxTokens: 5 }).result;
    const ids = await model.tokenize(text, { addSpecial: false, parseSpecial: true });
    expect(chat.usage.promptTokens).toBe(ids.length);
    expect(chat.tokens).toEqual((await model.generate(ids, { maxTokens: 5 }).result).tokens);
    expect(await model.detokenize(await model.tokenize("the rest"))).toBe("the rest");
  });
});

describe("a model without a tokenizer that can be used", () => {
  it.each([
    ["none", { kind: "none" } as const, "has no tokenizer"],
    [
      "an unknown one",
      { kind: "gguf", metadata: new Map([["tokenizer.ggml.model", "quipu"]]) } as const,
      "quipu",
    ],
  ])("has %s: takes token ids, and refuses text with the reason", async (_, tokenizer, reason) => {
    const model = await open({}, (parameters) => {
      const checkpoint = { ...tinyCheckpoint(tinyModel("llama"), "gguf"), tokenizer };
      return assemble(checkpoint, { backend: createNull(), reason: null }, parameters);
    });
    expect(model.info.tokenizer).toEqual({
      kind: "none",
      bosId: null,
      eosIds: [],
      chatFormat: null,
      toolFormat: null,
    });
    const generation = model.generate([1, 2], { maxTokens: 3 });
    const pieces = await collect(generation);
    expect(pieces.map(({ text, tokens, index }) => [text, tokens.length, index])).toEqual([
      ["", 1, 0],
      ["", 1, 1],
      ["", 1, 2],
    ]);
    const refusal = { code: "UNSUPPORTED_TOKENIZER", message: expect.stringContaining(reason) };
    await expect(model.generate("text").result).rejects.toMatchObject(refusal);
    await expect(model.generate([1], { stop: "x" }).result).rejects.toMatchObject(refusal);
    await expect(model.renderChat([{ role: "user", content: "a" }])).rejects.toMatchObject(refusal);
    await expect(model.tokenize("text")).rejects.toMatchObject(refusal);
  });
});

describe("ending early", () => {
  it("frees the pages of a generation that is broken off", async () => {
    const model = await open();
    const generation = model.generate("the", { maxTokens: 400, ignoreEos: true });
    let read = 0;
    for await (const _ of generation) if (++read === 3) break;
    expect(await model.usage()).toMatchObject({ used: 0, running: 0 });
    const result = await generation.result;
    expect(result.finishReason).toBe("aborted");
    expect(result.usage.generatedTokens).toBeLessThan(400);
    expect(result.tokens.length).toBeGreaterThanOrEqual(3);
    expect(await generation.next()).toEqual({ done: true, value: undefined });
  });

  it("delivers what came before a signal, then throws ABORTED, and frees the pages", async () => {
    const model = await open();
    const controller = new AbortController();
    const generation = model.generate("the", { maxTokens: 400, ignoreEos: true, signal: controller.signal });
    const pieces: Piece[] = [];
    const reading = (async () => {
      for await (const piece of generation) {
        pieces.push(piece);
        if (pieces.length === 1) await turns(50);
        if (pieces.length === 2) controller.abort();
      }
    })();
    await expect(reading).rejects.toThrow(code("ABORTED"));
    expect(pieces.length).toBeGreaterThan(2);
    expect(pieces.length).toBeLessThanOrEqual(MAX_UNREAD_PIECES + 2);
    const whole = await model.generate("the", { maxTokens: 400, ignoreEos: true }).result;
    expect(whole.text.startsWith(pieces.map(({ text }) => text).join(""))).toBe(true);
    await expect(generation.result).rejects.toThrow(code("ABORTED"));
    expect(await model.usage()).toMatchObject({ used: 0, running: 0 });
  });

  it("runs nothing for a signal that has ended already, or that ends while it waits", async () => {
    const model = await open({ sequences: 1 });
    const early = model.generate("the", { signal: AbortSignal.abort() });
    await expect(early.next()).rejects.toThrow(code("ABORTED"));
    await expect(early.result).rejects.toThrow(code("ABORTED"));

    const first = model.generate("the", { maxTokens: 300, ignoreEos: true });
    await first.next();
    const controller = new AbortController();
    const queued = model.generate("the", { signal: controller.signal });
    const next = queued.next();
    expect(await model.usage()).toMatchObject({ waiting: 1 });
    controller.abort();
    await expect(next).rejects.toThrow(code("ABORTED"));
    expect(await model.usage()).toMatchObject({ waiting: 0 });
    await first.return();
  });

  it("does not begin what was cancelled before it began", async () => {
    const model = await open();
    const generation = model.generate("the");
    await generation.return();
    expect(await generation.next()).toEqual({ done: true, value: undefined });
    await expect(generation.result).rejects.toThrow(code("ABORTED"));
    expect(await model.usage()).toMatchObject({ peak: 0 });
  });

  it("starts nothing before somebody listens", async () => {
    const model = await open();
    const generation = model.generate("the", { maxTokens: 3 });
    await turns(20);
    expect(await model.usage()).toMatchObject({ peak: 0 });
    await using _ = generation;
    expect((await generation.result).usage.generatedTokens).toBe(3);
  });
});

describe("a slow reader", () => {
  it("pauses its own generation, and no other", async () => {
    const model = await open();
    const slow = model.generate("the", { maxTokens: 500, ignoreEos: true });
    await slow.next();
    const fast = await model.generate("the", { maxTokens: 400, ignoreEos: true }).result;
    expect(fast.usage.generatedTokens).toBe(400);
    await turns(50);
    await slow.return();
    const { usage } = await slow.result;
    // Pieces may hold several tokens: half a character is no piece.
    expect(usage.generatedTokens).toBeLessThan(4 * MAX_UNREAD_PIECES);
  });

  it("gets everything in the end", async () => {
    const model = await open();
    const options = { maxTokens: 450, ignoreEos: true };
    const whole = await model.generate("the", options).result;
    let text = "";
    for await (const piece of model.generate("the", options)) {
      text += piece.text;
      if (piece.index % 50 === 0) await turns(30);
    }
    expect(text).toBe(whole.text);
  });

  it("loses nothing where the result was asked for first", async () => {
    const model = await open();
    const generation = model.generate("the", { maxTokens: 200, ignoreEos: true });
    const result = generation.result;
    await turns(50);
    const pieces = await collect(generation);
    expect(pieces.map(({ text }) => text).join("")).toBe((await result).text);
    expect(pieces.flatMap(({ tokens }) => tokens)).toEqual((await result).tokens);
  });
});

describe("an endless answer", () => {
  const endless = { maxTokens: Number.POSITIVE_INFINITY, ignoreEos: true };
  const openWindow = () => open({ context: 64, cache: { policy: window({ tokens: 32 }) } });
  /** Reads pieces until they hold `count` tokens, then breaks. */
  async function readTokens(generation: Generation, count: number): Promise<Piece[]> {
    const pieces: Piece[] = [];
    for await (const piece of generation) {
      pieces.push(piece);
      if (piece.index + piece.tokens.length >= count) break;
    }
    return pieces;
  }

  it("is not kept for its result while it is read", async () => {
    const model = await openWindow();
    const generation = model.generate("the rest", { ...endless, logprobs: 0 });
    const pieces = await readTokens(generation, 300);
    expect(pieces.map(({ index }) => index)).toEqual(
      pieces.map((_, i) => pieces.slice(0, i).reduce((sum, { tokens }) => sum + tokens.length, 0)),
    );
    const { text, tokens, scores, finishReason, usage, cache } = await generation.result;
    expect({ text, tokens, scores, finishReason }).toEqual({
      text: "",
      tokens: [],
      scores: [],
      finishReason: "aborted",
    });
    expect(usage.generatedTokens).toBeGreaterThanOrEqual(300);
    expect(cache.seen).toBe(usage.promptTokens + usage.generatedTokens - 1);
  });

  it("is kept where its result was asked for first", async () => {
    const model = await openWindow();
    const generation = model.generate("the rest", endless);
    const result = generation.result;
    const pieces = await readTokens(generation, 300);
    const { text, tokens, usage } = await result;
    const read = pieces.map((piece) => piece.text).join("");
    expect(text.slice(0, read.length)).toBe(read);
    expect(tokens).toHaveLength(usage.generatedTokens);
    expect(tokens.slice(0, 300)).toEqual(pieces.flatMap((piece) => piece.tokens).slice(0, 300));
  });

  it("tells its reader what ended it, and its result only who waits for that", async () => {
    const model = await openWindow();
    const controller = new AbortController();
    const generation = model.generate("the rest", { ...endless, signal: controller.signal });
    const result = generation.result;
    const outcome = (async () => {
      for await (const { index } of generation) if (index > 100) controller.abort();
    })();
    await expect(outcome).rejects.toThrow(code("ABORTED"));
    // Vitest fails a run with unhandled rejections: nobody has waited for the result until here.
    await turns(5);
    await expect(result).rejects.toThrow(code("ABORTED"));
  });
});

describe("score", () => {
  it("gives the same whether cut in chunks or run beside others", async () => {
    const model = await open();
    const tokens = Array.from({ length: 300 }, (_, i) => (i * 31) % 320);
    const alone = await model.score(tokens);
    const [beside] = await Promise.all([
      model.score(tokens),
      model.generate("the", { maxTokens: 50, ignoreEos: true }).result,
      model.score(tokens.slice(0, 100)),
    ]);
    expect(alone.logprobs).toHaveLength(299);
    expect(beside.logprobs).toEqual(alone.logprobs);
    expect(alone.logprobs.every((x) => x < 0)).toBe(true);
    expect(alone.perplexity).toBeCloseTo(Math.exp(-alone.logprobs.reduce((sum, x) => sum + x, 0) / 299), 10);
    expect(alone.tokens).toEqual(Int32Array.from(tokens));
  });

  it("agrees with the log-probabilities of generation", async () => {
    const model = await open();
    const { tokens, scores } = await model.generate([1, 5], { maxTokens: 20, logprobs: 0, ignoreEos: true })
      .result;
    const { logprobs } = await model.score([1, 5, ...tokens]);
    scores!.forEach(({ logprob }, i) => {
      expect(logprobs[i + 1]).toBeCloseTo(logprob, 5);
    });
  });

  it("refuses single tokens, and ends with its signal", async () => {
    const model = await open({ context: 64 });
    await expect(model.score([1])).rejects.toThrow(code("INVALID_ARGUMENT"));
    await expect(model.score(undefined as never)).rejects.toThrow(code("INVALID_ARGUMENT"));
    await expect(model.detokenize(undefined as never)).rejects.toThrow(code("INVALID_ARGUMENT"));
    await expect(model.score(new Array(70).fill(3))).rejects.toThrow(code("PROMPT_TOO_LONG"));
    await expect(model.score([1, 2], { signal: AbortSignal.abort() })).rejects.toThrow(code("ABORTED"));
  });
});

describe("closing", () => {
  it("rejects what is under way with CLOSED, and everything after", async () => {
    const model = await open();
    const generation = model.generate("the", { maxTokens: 400, ignoreEos: true });
    await generation.next();
    const result = generation.result;
    const outcome = expect(result).rejects.toThrow(code("CLOSED"));
    const queued = expect(model.tokenize("a")).rejects.toThrow(code("CLOSED"));
    await Promise.all([model.close(), model.close()]);
    await outcome;
    await queued;
    await expect(model.usage()).rejects.toThrow(code("CLOSED"));
    await expect(model.generate("a").result).rejects.toThrow(code("CLOSED"));
  });

  it("disposes of the backend", async () => {
    let disposed = 0;
    const model = await open({}, (parameters) => {
      const backend = createNull();
      const dispose = async () => {
        disposed++;
      };
      return assemble(
        tinyCheckpoint(tinyModel("llama"), "gguf"),
        { backend: { ...backend, dispose }, reason: null },
        parameters,
      );
    });
    await model.close();
    expect(disposed).toBe(1);
    // and of one whose model does not fit
    const failing = open({ memory: 1000 }, (parameters) => {
      const backend = createNull();
      const dispose = async () => {
        disposed++;
      };
      return assemble(
        tinyCheckpoint(tinyModel("llama"), "gguf"),
        { backend: { ...backend, dispose }, reason: null },
        parameters,
      );
    });
    await expect(failing).rejects.toThrow(code("OUT_OF_BUDGET"));
    expect(disposed).toBe(2);
  });
});

describe("a thread that ends by itself", () => {
  it("rejects everything with WORKER_CRASHED", async () => {
    const inner = localThread(loadNull);
    let crash = (_reason: string) => {};
    const thread: EngineThread = {
      ...inner,
      listen(onMessage, onEnd) {
        crash = onEnd;
        inner.listen(onMessage, () => {});
      },
    };
    const model = await openOn(thread, openParameters("(memory)", {}));
    const generation = model.generate("the", { maxTokens: 400, ignoreEos: true });
    await generation.next();
    crash("out of memory");
    await expect(generation.result).rejects.toMatchObject({
      code: "WORKER_CRASHED",
      details: { reason: "out of memory" },
    });
    await expect(model.tokenize("a")).rejects.toThrow(code("WORKER_CRASHED"));
    await model.close();
  });
});
