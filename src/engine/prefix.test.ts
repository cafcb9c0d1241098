import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createNull, nullLogit } from "../backends/null.js";
import { createReference } from "../backends/reference/index.js";
import type { Decoder } from "../decoding/contract.js";
import { assemble } from "./load.js";
import type { LoadedModel } from "./loaded.js";
import type { EngineRequest, RequestEnd } from "./request.js";

const VOCABULARY = 320;
const options = { cache: { policy: { policy: "full" }, codec: "f16" }, prefixCache: true } as const;
const load = (
  more: { sequences?: number; context?: number; memoryBytes?: number; prefixCache?: boolean } = {},
  backend = createNull(),
) =>
  assemble(
    tinyCheckpoint(tinyModel("llama"), "gguf"),
    { backend, reason: null },
    { ...options, sequences: 4, ...more },
  );

interface Watched {
  readonly prompt: readonly number[];
  readonly count: number;
  readonly tokens: number[];
  readonly logits: Float32Array[];
  end: RequestEnd | null;
}

/** Submits a request that answers greedily with `count` tokens. */
function submit(
  model: LoadedModel,
  id: number,
  prompt: readonly number[],
  count: number,
  more: Partial<EngineRequest> = {},
): Watched {
  const watched: Watched = { prompt, count, tokens: [], logits: [], end: null };
  const decoder: Decoder = {
    outputs: "last",
    accept(logits) {
      const token = logits.indexOf(Math.max(...logits));
      watched.tokens.push(token);
      watched.logits.push(logits.slice());
      const finish = watched.tokens.length === count ? "length" : null;
      return { next: finish ? null : token, emission: null, finish };
    },
    flush: () => null,
  };
  model.engine.submit({
    id,
    prompt: Int32Array.from(prompt),
    decoder,
    maxCached: prompt.length + count - 1,
    credit: Number.POSITIVE_INFINITY,
    listener: {
      emit: () => {},
      end: (end) => {
        watched.end = end;
      },
      fail: (error) => {
        throw error;
      },
    },
    ...more,
  });
  return watched;
}

async function finish(model: LoadedModel): Promise<number> {
  let steps = 0;
  while (await model.engine.step()) steps++;
  return steps;
}

async function ask(model: LoadedModel, prompt: readonly number[], count: number): Promise<Watched> {
  const watched = submit(model, 1000, prompt, count);
  await finish(model);
  return watched;
}

/** What the null backend's logits give. */
function expected({ prompt, count }: Watched): number[] {
  const tokens = [...prompt];
  for (let i = 0; i < count; i++) {
    const at = tokens.length - 1;
    const logits = Array.from({ length: VOCABULARY }, (_, v) => nullLogit(tokens[at]!, at, v));
    tokens.push(logits.indexOf(Math.max(...logits)));
  }
  return tokens.slice(prompt.length);
}

const text = (length: number, seed = 1) => {
  const random = new TestRandom(seed);
  return Array.from({ length }, () => random.below(VOCABULARY));
};

describe("prefixes that requests share", () => {
  it("let the next turn of a conversation prefill only what is new", async () => {
    const model = await load();
    const first = await ask(model, text(150), 30);
    expect(first.end).toMatchObject({ promptTokens: 150, cachedTokens: 0 });
    // The last token of the answer was never run.
    const second = await ask(model, [...first.prompt, ...first.tokens, ...text(20, 2)], 10);
    expect(second.end).toMatchObject({
      promptTokens: 200,
      cachedTokens: 179,
      cache: { seen: 209, kept: 209 },
    });
    expect(second.tokens).toEqual(expected(second));
    expect(model.engine.usage()).toMatchObject({
      used: 0,
      shared: 0,
      running: 0,
      prefix: { lookups: 2, hits: 1, lookupTokens: 350, hitTokens: 179, tokens: 209, referenced: 0 },
    });
    await model.dispose();
  });

  it("give the same answer warm and cold, from keys and values that were really read", async () => {
    const [warm, cold] = [
      await load({}, createReference()),
      await load({ prefixCache: false }, createReference()),
    ];
    const prompt = text(140);
    await ask(warm, prompt, 3);
    for (const other of [prompt, [...prompt.slice(0, 100), ...text(30, 3)], [...prompt, ...text(9, 4)]]) {
      const [got, want] = [await ask(warm, other, 3), await ask(cold, other, 3)];
      expect(got.end!.cachedTokens).toBeGreaterThanOrEqual(100);
      expect(want.end!.cachedTokens).toBe(0);
      expect(got.tokens).toEqual(want.tokens);
      expect(got.logits).toEqual(want.logits);
    }
    await warm.dispose();
    await cold.dispose();
  }, 60_000);

  it("are run once by those that come together", async () => {
    const model = await load({ sequences: 4 });
    const prompt = text(300);
    const together = [0, 1, 2].map((id) => submit(model, id, [...prompt, ...text(id, 7)], 5));
    const other = submit(model, 3, text(40, 9), 5);
    const steps = await finish(model);
    expect(together.map(({ end }) => end!.cachedTokens)).toEqual([0, 256, 256]);
    // 300 tokens once, three tails, and answers: what 900 tokens would take is more.
    expect(steps).toBeLessThanOrEqual(5 + 5);
    for (const watched of [...together, other]) expect(watched.tokens).toEqual(expected(watched));
    await model.dispose();
  });

  it("are taken up by another where the one that ran them goes", async () => {
    const model = await load({ sequences: 4 });
    const [first, second, third] = [1, 2, 3].map((id) => submit(model, id, text(400), 4));
    await model.engine.step();
    const step = model.engine.step();
    model.engine.cancel(1);
    await step;
    await finish(model);
    expect(first!.end).toMatchObject({ finishReason: "aborted", cachedTokens: 0 });
    expect(second!.end).toMatchObject({ finishReason: "length", cachedTokens: 256 });
    expect(third!.end).toMatchObject({ finishReason: "length", cachedTokens: 384 });
    for (const watched of [second!, third!]) expect(watched.tokens).toEqual(expected(watched));
    expect(model.engine.usage()).toMatchObject({ used: 0 });
    await model.dispose();
  });

  it("let more run at once than would fit alone", async () => {
    const one = await load({ sequences: 1, context: 512 });
    const { cacheBytes, scratchBytes, weightBytes } = one.info.memory;
    await one.dispose();
    // Room for one and a half of them.
    const memoryBytes = weightBytes + 4 * scratchBytes + 1.5 * cacheBytes;
    const model = await load({ sequences: 4, context: 512, memoryBytes });
    const { pages } = model.engine.usage();
    await ask(model, text(448), 1);
    const together = [0, 1, 2, 3].map((id) => submit(model, id, [...text(448), id], 20));
    await model.engine.step();
    expect(model.engine.usage()).toMatchObject({ running: 4, waiting: 0 });
    expect(model.engine.usage().used).toBeLessThan(pages);
    await finish(model);
    for (const watched of together) {
      expect(watched.end!.cachedTokens).toBe(448);
      expect(watched.tokens).toEqual(expected(watched));
    }
    await model.dispose();
  });

  it("are not for those that are scored, nor for other adapters, nor where they were declined", async () => {
    const model = await load();
    await ask(model, text(100), 1);
    const adapted = submit(model, 1, text(100), 1, { adapter: 0 });
    await finish(model);
    expect(adapted.end!.cachedTokens).toBe(0);
    const scored: Float32Array[] = [];
    const listener = {
      end: ({ logprobs }: { readonly logprobs: Float32Array }) => {
        scored.push(logprobs);
      },
      fail: (error: Error) => {
        throw error;
      },
    };
    model.score(2, { text: Int32Array.from(text(100)) }, listener);
    await finish(model);
    expect(scored.map(({ length }) => length)).toEqual([99]);
    expect(scored[0]!.every(Number.isFinite)).toBe(true);
    expect(model.engine.usage().prefix).toMatchObject({ lookups: 2, hits: 0 });
    await model.dispose();

    const declined = await load({ prefixCache: false });
    expect(declined.info.prefixCache).toBe(false);
    await ask(declined, text(100), 1);
    expect((await ask(declined, text(100), 1)).end!.cachedTokens).toBe(0);
    expect(declined.engine.usage()).toMatchObject({ used: 0, prefix: null });
    await declined.dispose();
  });

  it("never cost a request its pages, whatever comes, goes and breaks off", async () => {
    for (const seed of [1, 2, 3]) {
      const random = new TestRandom(seed);
      const one = await load({ sequences: 1, context: 256 });
      const { cacheBytes, scratchBytes, weightBytes } = one.info.memory;
      await one.dispose();
      const memoryBytes = weightBytes + 6 * scratchBytes + (1 + random.next() * 3) * cacheBytes;
      const model = await load({ sequences: 6, context: 256, memoryBytes });
      const all: Watched[] = [];
      for (let id = 0; id < 40; id++) {
        const from = all[random.below(all.length + 1)];
        const known = from ? [...from.prompt, ...from.tokens] : [];
        const prompt = [
          ...known.slice(0, random.below(Math.min(known.length, 200) + 1)),
          ...text(1 + random.below(30), id),
        ];
        all.push(submit(model, id, prompt, 1 + random.below(20)));
        for (let steps = random.below(4); steps > 0; steps--) await model.engine.step();
        if (random.below(4) === 0) model.engine.cancel(random.below(id + 1));
        const { used, free, pages } = model.engine.usage();
        expect(used + free).toBe(pages);
      }
      await finish(model);
      for (const watched of all) {
        if (watched.end!.finishReason === "length") expect(watched.tokens).toEqual(expected(watched));
        else expect(watched.end!.finishReason).toBe("aborted");
      }
      expect(model.engine.usage()).toMatchObject({ used: 0, running: 0, waiting: 0 });
      expect(model.engine.usage().prefix!.hitTokens).toBeGreaterThan(200);
      await model.dispose();
    }
  }, 60_000);

  it("share within a scope alone, with an adapter or without", async () => {
    const model = await load();
    const prompt = text(100);
    const found = async (more: Partial<EngineRequest>) => {
      const asked = submit(model, 1000, prompt, 1, more);
      await finish(model);
      return asked.end!.cachedTokens;
    };
    expect(await found({ prefixScope: "a" })).toBe(0);
    expect(await found({ prefixScope: "b" })).toBe(0);
    expect(await found({})).toBe(0);
    for (const more of [{ prefixScope: "a" }, { prefixScope: "b" }, {}]) expect(await found(more)).toBe(99);
    await model.dispose();
  });

  it("do not wait for those of other scopes that begin alike", async () => {
    const model = await load();
    const both = ["a", "b"].map((prefixScope, id) => submit(model, id, text(40), 1, { prefixScope }));
    expect(await finish(model)).toBe(1);
    expect(both.map(({ end }) => end!.cachedTokens)).toEqual([0, 0]);
    await model.dispose();
  });
});
