import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { localThread, openNull } from "../../test/support/local-thread.js";
import { largestDifference, TapeRunner } from "../../test/support/run-tape.js";
import {
  TINY_NAMES,
  type TinyModel,
  tinyCheckpoint,
  tinyModel,
  tinyPrompt,
} from "../../test/support/tiny-models.js";
import type { Backend } from "../backends/contract.js";
import { createReference } from "../backends/reference/index.js";
import { createBackend } from "../backends/resolve.js";
import { createEmbedder } from "../decoding/embed.js";
import { MillraceError } from "../errors.js";
import { u32 } from "../formats/gguf-values.js";
import { type Model, makeModel } from "../session/model.js";
import { assemble } from "./load.js";
import { type OpenOptions, openOn, openParameters } from "./open.js";
import { full, window } from "./policies.js";

/** Nothing is rounded on its way into the cache. */
const EXACT: OpenOptions = { cache: { policy: full(), codec: "f32" } };
const RAW = { normalize: false } as const;
/** For a backend that is compiled first, on the slowest machine, in milliseconds. */
const LONG = 300_000;

function openModel(
  model: TinyModel,
  options: OpenOptions = EXACT,
  backend: Backend = createReference(),
): Promise<Model> {
  const thread = localThread((parameters, onProgress, sessions) => {
    const checkpoint = tinyCheckpoint(model, "gguf");
    const spoken = {
      ...checkpoint,
      tokenizer: { kind: "gguf", metadata: checkpoint.metadata },
    } as const;
    return assemble(spoken, { backend, reason: null }, parameters, onProgress, sessions);
  });
  return openOn(thread, openParameters("(memory)", options), {}, makeModel);
}

/** W x, with the model's output matrix, which may be its embedding. */
function logitsOf({ tensors }: TinyModel, state: Float32Array): Float32Array {
  const { data } = tensors["output.weight"] ?? tensors["token_embd.weight"]!;
  const width = state.length;
  return Float32Array.from({ length: data.length / width }, (_, row) =>
    state.reduce((sum, x, i) => sum + x * data[row * width + i]!, 0),
  );
}

describe("what the output matrix would read", () => {
  it.each(TINY_NAMES)("gives the logits of %s, at every length", async (name) => {
    const tiny = tinyModel(name);
    const prompt = tinyPrompt(24);
    using runner = await TapeRunner.open(createReference(), tinyCheckpoint(tiny, "gguf"));
    const logits = await runner.evaluate(prompt);
    await using model = await openModel(tiny);
    const lengths = [1, 7, 24];
    const embeddings = await model.embed(
      lengths.map((length) => prompt.slice(0, length)),
      { ...RAW, pooling: "last" },
    );
    for (const [i, length] of lengths.entries()) {
      const got = logitsOf(tiny, embeddings[i]!.vector);
      expect(largestDifference(got, logits[length - 1]!), `${length} tokens`).toBeLessThan(1e-4);
    }
  });
});

describe("embed", () => {
  let model: Model;
  const prompt = tinyPrompt(40);
  beforeAll(async () => {
    model = await openModel(tinyModel("llama"));
  });
  afterAll(() => model.close());

  const lastOf = async (length: number) =>
    (await model.embed(prompt.slice(0, length), { ...RAW, pooling: "last" })).vector;

  it("takes the mean of the states of all prefixes, the last one, or the first one", async () => {
    const states = await Promise.all(prompt.map((_, i) => lastOf(i + 1)));
    const mean = states[0]!.map((_, e) => states.reduce((sum, state) => sum + state[e]!, 0) / states.length);
    const { vector } = await model.embed(prompt, { ...RAW, pooling: "mean" });
    expect(largestDifference(vector, mean)).toBeLessThan(1e-5);
    expect((await model.embed(prompt, { ...RAW, pooling: "cls" })).vector).toEqual(states[0]);
    expect((await model.embed(prompt, RAW)).vector).toEqual(states.at(-1));
  });

  it("cuts vectors to their first elements, then scales them to length 1", async () => {
    const raw = (await model.embed(prompt, RAW)).vector;
    for (const dimensions of [undefined, 64, 10]) {
      const kept = raw.subarray(0, dimensions ?? 64);
      const length = Math.sqrt(kept.reduce((sum, x) => sum + x * x, 0));
      const { vector } = await model.embed(prompt, dimensions ? { dimensions } : {});
      expect(vector).toHaveLength(kept.length);
      expect(
        largestDifference(
          vector,
          kept.map((x) => x / length),
        ),
      ).toBeLessThan(1e-6);
    }
  });

  it("gives texts and ids what each gets alone, in their order, more of them than run at once", async () => {
    const inputs = Array.from({ length: 11 }, (_, i) =>
      i % 2 ? prompt.slice(i, 2 * i + 9) : `the rest of ${i}`,
    );
    const together = await model.embed(inputs);
    for (const [i, input] of inputs.entries()) {
      const alone = await model.embed(input);
      expect(together[i]).toEqual(alone);
      const ids = typeof input === "string" ? await model.tokenize(input) : input;
      expect(alone.numTokens).toBe(ids.length);
      expect(await model.embed(Int32Array.from(ids))).toEqual(alone);
    }
  });

  it("runs long texts in chunks beside answers, and leaves both as they are alone", async () => {
    const long = Array.from({ length: 200 }, (_, i) => 3 + ((i * 7) % 300));
    const alone = await model.embed(long, { pooling: "mean" });
    const answer = () => model.generate(prompt, { maxTokens: 4, temperature: 0, ignoreEos: true }).result;
    const { tokens } = await answer();
    const [embedding, beside] = await Promise.all([model.embed(long, { pooling: "mean" }), answer()]);
    expect(embedding.vector).toEqual(alone.vector);
    expect(beside.tokens).toEqual(tokens);
    expect(embedding.cache).toMatchObject({ seen: 200, kept: 200, dropped: 0 });
  });

  it("leaves nothing in the cache, and takes nothing from it", async () => {
    await using other = await openModel(tinyModel("llama"));
    const before = await other.usage();
    await other.embed([prompt, prompt, "the rest"], { pooling: "mean" });
    await other.embed(prompt);
    const after = await other.usage();
    expect(after).toEqual({ ...before, ran: expect.any(Number), peak: after.peak });
    const { usage } = await other.generate(prompt, { maxTokens: 1 }).result;
    expect(usage.cachedTokens).toBe(0);
    const { ran } = await other.usage();
    await other.embed(prompt);
    expect((await other.usage()).ran - ran).toBe(prompt.length);
  });

  it("ends with ABORTED, at once where it has not begun, and frees what it held", async () => {
    const signal = AbortSignal.abort();
    await expect(model.embed(prompt, { signal })).rejects.toMatchObject({ code: "ABORTED" });
    const controller = new AbortController();
    const many = Array.from({ length: 50 }, () => prompt);
    const under = model.embed(many, { signal: controller.signal });
    const after = model.embed(prompt);
    setTimeout(() => controller.abort(), 5);
    await expect(under).rejects.toMatchObject({ code: "ABORTED" });
    await after;
    const { used, running, waiting } = await model.usage();
    expect({ running, waiting }).toEqual({ running: 0, waiting: 0 });
    expect(used).toBe(0);
  });

  it("lets what is asked later run before a long list is through", async () => {
    const order: string[] = [];
    const list = model.embed(Array.from({ length: 24 }, () => prompt)).then(() => order.push("list"));
    const one = model.embed("the rest").then(() => order.push("one"));
    await Promise.all([list, one]);
    expect(order).toEqual(["one", "list"]);
  });

  it("refuses a text that is too long with the numbers, before any has run", async () => {
    const { ran } = await model.usage();
    const long = Array.from({ length: 600 }, () => 5);
    await expect(model.embed(long)).rejects.toMatchObject({
      code: "PROMPT_TOO_LONG",
      message: expect.stringContaining("The prompt has 600 tokens and the context holds 512"),
      details: { tokens: 600, context: 512 },
    });
    await expect(model.embed(["the rest", long])).rejects.toMatchObject({
      code: "PROMPT_TOO_LONG",
      message: expect.stringContaining("Input 1 has 600 tokens"),
      details: { tokens: 600, context: 512, input: 1 },
    });
    expect((await model.usage()).ran).toBe(ran);
  });

  it.each([
    ["an unknown option", "x", { pool: "mean" }, "pooling"],
    ["an unknown pooling", "x", { pooling: "max" }, '"mean", "last", "cls"'],
    ["too many dimensions", "x", { dimensions: 65 }, "from 1 to 64"],
    ["no dimensions", "x", { dimensions: 0 }, "from 1 to 64"],
    ["what is no flag", "x", { normalize: 1 }, "true or false"],
    ["an adapter that is not there", "x", { adapter: "a" }, "without adapters"],
    ["no texts", [], {}, "not empty"],
    ["what is no text", [{}], {}, "a text, token ids"],
    ["ids of nothing", [[]], {}, "Input 0 has no tokens"],
  ])("refuses %s", async (_, input, options, message) => {
    await expect(model.embed(input as never, options as never)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining(message),
    });
  });

  it("refuses ids outside the vocabulary", async () => {
    await expect(model.embed([[3, 320]])).rejects.toMatchObject({ code: "INVALID_TOKEN" });
  });

  it("fails with DEADLINE_PASSED where the time is over, one text or many", async () => {
    for (const input of [prompt, Array.from({ length: 20 }, () => prompt)]) {
      await expect(model.embed(input as never, { deadline: 0.001 })).rejects.toMatchObject({
        code: "DEADLINE_PASSED",
      });
    }
    expect(await model.usage()).toMatchObject({ running: 0, waiting: 0, used: 0 });
  });
});

describe("pooling", () => {
  const pooled = (type: number): TinyModel => {
    const tiny = tinyModel("llama");
    return { ...tiny, metadata: { ...tiny.metadata, "llama.pooling_type": u32(type) } };
  };

  it.each([
    [0, "last"],
    [1, "mean"],
    [2, "cls"],
    [3, "last"],
    [4, "last"],
  ] as const)("type %i of a GGUF file is %s", async (type, pooling) => {
    await using model = await openModel(pooled(type));
    expect(model.info.pooling).toBe(pooling);
    const [given, asked] = await Promise.all([model.embed("the rest"), model.embed("the rest", { pooling })]);
    expect(given).toEqual(asked);
  });

  it("refuses states that are no numbers", () => {
    const embedder = createEmbedder({
      numTokens: 2,
      pooling: "mean",
      width: 2,
      dimensions: 2,
      normalize: true,
    });
    embedder.accept(Float32Array.of(1, 2));
    expect(() => embedder.accept(Float32Array.of(Number.NaN, 1))).toThrowError(/State 1 .* NaN/);
  });

  it("gives a vector of zeros no direction", () => {
    const options = { numTokens: 1, pooling: "last", width: 2, dimensions: 2, normalize: true } as const;
    const embedder = createEmbedder(options);
    expect(embedder.accept(new Float32Array(2)).finish).toBe("length");
    expect(embedder.vector()).toEqual(new Float32Array(2));
  });
});

describe("beside a cache that lets go of tokens", () => {
  it("embeds a text of any length in bounded memory, and says what was dropped", async () => {
    await using model = await openModel(tinyModel("llama"), {
      cache: { policy: window({ tokens: 64 }), codec: "f32" },
    });
    const long = Array.from({ length: 600 }, (_, i) => 3 + (i % 300));
    const { cache, numTokens } = await model.embed(long, { pooling: "mean" });
    expect(numTokens).toBe(600);
    expect(cache.seen).toBe(600);
    expect(cache.dropped).toBe(600 - cache.kept);
    expect(cache.kept).toBeLessThan(200);
  });
});

describe("on other backends", () => {
  for (const name of ["wasm", "native"] as const) {
    it(`${name} agrees with the reference, beside an answer`, { timeout: LONG }, async ({ skip }) => {
      const make = async () => (await createBackend(name, { threads: 1 })).backend;
      const first = await make().catch((error: MillraceError) => error);
      if (first instanceof MillraceError) {
        expect(first.code).toBe("BACKEND_UNAVAILABLE");
        return skip(first.message);
      }
      await first.dispose();
      const prompt = tinyPrompt(40);
      const inputs = [prompt, prompt.slice(0, 5), prompt.slice(10, 30)];
      for (const architecture of ["llama", "gemma3"] as const) {
        await using reference = await openModel(tinyModel(architecture));
        await using model = await openModel(tinyModel(architecture), EXACT, await make());
        for (const pooling of ["mean", "last"] as const) {
          const want = await reference.embed(inputs, { pooling });
          const answer = model.generate(prompt, { maxTokens: 4, ignoreEos: true }).result;
          const got = await model.embed(inputs, { pooling });
          await answer;
          for (const [i, { vector }] of got.entries()) {
            const what = `${architecture} ${pooling} ${i}`;
            expect(largestDifference(vector, want[i]!.vector), what).toBeLessThan(1e-4);
          }
        }
      }
    });
  }

  it("null gives vectors too, the same for the same text", async () => {
    await using model = await openNull();
    const [a, b, c] = await model.embed(["the rest", "the rest", "rest"]);
    expect(a).toEqual(b);
    expect(a!.vector).not.toEqual(c!.vector);
  });
});

describe("tokenBytes", () => {
  it("gives exactly the bytes of a text's tokens, half characters too", async () => {
    await using model = await openNull();
    const text = "the rest €";
    const ids = await model.tokenize(text, { addSpecial: false });
    const bytes = await Promise.all(ids.map((id) => model.tokenBytes(id)));
    expect(Buffer.concat(bytes).toString()).toBe(` ${text}`);
    expect(bytes.slice(-3).map((one) => [...one])).toEqual([[0xe2], [0x82], [0xac]]);
    const { eosIds } = model.info.tokenizer;
    expect(Buffer.from(await model.tokenBytes(eosIds[0]!)).toString()).toBe("</s>");
    for (const id of [-1, 320, 1.5]) {
      await expect(model.tokenBytes(id)).rejects.toMatchObject({ code: "INVALID_TOKEN" });
    }
  });
});
