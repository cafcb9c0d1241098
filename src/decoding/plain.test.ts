import { describe, expect, it } from "vitest";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createSampler } from "../sampling/sampler.js";
import { createStopMatcher } from "../sampling/stop.js";
import { createDetokenizer } from "../tokenizer/detokenizer.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import type { Emission, Turn } from "./contract.js";
import { createPlain, type PlainOptions, type PlainState } from "./plain.js";
import { createScorer, logProbability } from "./score.js";

const { metadata } = tinyCheckpoint(tinyModel("llama"), "gguf");
const tokenizer = resolveTokenizer({ kind: "gguf", metadata })!;
const V = tokenizer.vocabularySize;
const END = tokenizer.eosId!;

const logitsFor = (id: number): Float32Array => {
  const logits = new Float32Array(V);
  logits[id] = 9;
  return logits;
};

/** Feeds a decoder with logits that make it choose these ids, until it ends. */
function play(ids: readonly number[], options: Partial<PlainOptions> & { logprobs?: number } = {}) {
  const { logprobs, ...rest } = options;
  const decoder = createPlain({
    sampler: createSampler(logprobs === undefined ? {} : { logprobs }, V),
    prompt: Int32Array.of(1),
    maxTokens: Infinity,
    endIds: tokenizer.eosIds,
    detokenizer: createDetokenizer(tokenizer, { after: [1, 40] }),
    stop: null,
    ...rest,
  });
  const emissions: Emission[] = [];
  let turn: Turn | null = null;
  for (const id of ids) {
    turn = decoder.accept(logitsFor(id));
    if (turn.emission) emissions.push(turn.emission);
    if (turn.finish) break;
    expect(turn.next).toBe(id);
  }
  return {
    decoder,
    emissions,
    text: emissions.map(({ text }) => text).join(""),
    tokens: emissions.flatMap(({ tokens }) => tokens),
    finish: turn?.finish,
    next: turn?.next,
  };
}

const ids = (text: string) => [...tokenizer.encode(text, { addSpecial: false })];

describe("plain decoding", () => {
  it("emits text as it becomes certain, and stops before an end token", () => {
    const said = ids("the rest");
    const { emissions, text, tokens, finish, next } = play([...said, END, 50]);
    expect(text).toBe(tokenizer.decode([40, ...said]).slice(tokenizer.decode([40]).length));
    expect(tokens).toEqual(said);
    expect(emissions).toHaveLength(said.length);
    expect([finish, next]).toEqual(["stop", null]);
  });

  it("counts to maxTokens, an end token included", () => {
    expect(play(ids("the rest"), { maxTokens: 3 })).toMatchObject({ finish: "length", next: null });
    expect(play(ids("the rest"), { maxTokens: 3 }).tokens).toHaveLength(3);
    expect(play([ids("the rest")[0]!, END], { maxTokens: 2 }).finish).toBe("stop");
  });

  it("goes on past end tokens where there are none", () => {
    const { tokens, finish } = play([50, END, 51], { endIds: new Set() });
    expect(tokens).toEqual([50, END, 51]);
    expect(finish).toBeNull();
  });

  it("never cuts a character: its tokens come with it", () => {
    // The euro sign is no piece of this vocabulary: three byte tokens.
    const euro = ids("a€").slice(-3);
    const { emissions } = play([...euro, 50]);
    expect(emissions[0]).toEqual({ text: "€", tokens: euro });
    expect(emissions).toHaveLength(2);
    // Cut short, it is not kept silent.
    expect(play(euro.slice(0, 2), { maxTokens: 2 })).toMatchObject({ text: "\uFFFD", finish: "length" });
  });

  it("holds back what may become a stop string, and lets go of what did not", () => {
    const said = ids("the rest");
    const stop = () => createStopMatcher(["rex", "st"]);
    const whole = play(said, { stop: stop() });
    expect(whole.finish).toBe("stop-string");
    expect(whole.text.trim()).toBe("the re");
    expect(whole.tokens).toEqual(said);
    // Of the tokens of "rest", those that are of nothing but "st".
    const texts = said.map((id) => tokenizer.decode([40, id]).slice(tokenizer.decode([40]).length));
    expect(texts.slice(-2)).toEqual(["s", "t"]);
    expect(whole.decoder.unsaid).toBe(2);
    expect(play(ids("the res"), { stop: stop() }).decoder.unsaid).toBe(0);

    const cut = play(ids("the res"), { stop: stop() });
    expect(cut.finish).toBeNull();
    expect(cut.text.trim()).toBe("the re");
    expect(cut.decoder.flush()).toMatchObject({ text: "s" });
    expect(cut.decoder.flush()).toBeNull();

    const ended = play([...ids("the res"), END], { stop: stop() });
    expect([ended.text.trim(), ended.finish]).toEqual(["the res", "stop"]);
  });

  it("emits every token at once, without text, where there is no tokenizer", () => {
    const { emissions } = play([50, 60], { detokenizer: null, endIds: new Set() });
    expect(emissions).toEqual([
      { text: "", tokens: [50] },
      { text: "", tokens: [60] },
    ]);
  });

  it("gives one score per token", () => {
    const { emissions } = play([50, 60], { logprobs: 1 });
    const scores = emissions.flatMap((emission) => emission.scores ?? []);
    const logprob = 9 - Math.log(Math.exp(9) + V - 1);
    expect(scores.map(({ id }) => id)).toEqual([50, 60]);
    for (const score of scores) {
      expect(score.logprob).toBeCloseTo(logprob, 6);
      expect(score.top).toHaveLength(1);
    }
  });

  it("lets penalties see the prompt", () => {
    const decoder = createPlain({
      sampler: createSampler({ presencePenalty: 10 }, V),
      prompt: Int32Array.of(50),
      maxTokens: Infinity,
      endIds: new Set(),
      detokenizer: null,
      stop: null,
    });
    const logits = logitsFor(50);
    logits[60] = 5;
    expect(decoder.accept(logits).next).toBe(60);
    expect(decoder.accept(logits).next).not.toBe(60);
  });

  it.each([
    ["without penalties", {}],
    ["with a window of 8", { presencePenalty: 1, frequencyPenalty: 0.1, penaltyWindow: 8 }],
  ])("keeps no more of the context than the sampler looks at, %s", (_, options) => {
    const sampler = createSampler(options, V);
    const prompt = Int32Array.from({ length: 100 }, (_, i) => i % 20);
    const whole = [...prompt];
    let longest = 0;
    const decoder = createPlain({
      sampler: {
        ...sampler,
        sample(logits, context) {
          longest = Math.max(longest, context.length);
          const sample = sampler.sample(logits, context);
          expect(sample).toEqual(sampler.sample(logits, whole));
          return sample;
        },
      },
      prompt,
      maxTokens: Infinity,
      endIds: new Set(),
      detokenizer: null,
      stop: null,
    });
    const logits = Float32Array.from({ length: V }, (_, i) => Math.sin(i));
    for (let i = 0; i < 200; i++) whole.push(decoder.accept(logits).next!);
    expect(longest).toBe(2 * sampler.window);
  });
});

describe("a saved decoder", () => {
  it("goes on elsewhere as it would have gone on itself: sampler, half characters, half stop strings", () => {
    const noise = (step: number) =>
      Float32Array.from({ length: V }, (_, i) => 4 * Math.sin(i * 7.3 + step * step));
    const make = (state?: PlainState) =>
      createPlain({
        sampler: createSampler({ temperature: 1.5, seed: 3, repetitionPenalty: 1.3, logprobs: 1 }, V),
        prompt: Int32Array.of(1, 40),
        maxTokens: 40,
        endIds: new Set(),
        detokenizer: createDetokenizer(tokenizer, {
          after: [1, 40],
          ...(state?.detokenizer ? { state: state.detokenizer } : {}),
        }),
        stop: createStopMatcher(["the end of it", "\ufffd\ufffd\ufffd\ufffd"]),
        ...(state ? { state } : {}),
      });
    const whole = make();
    const want = Array.from({ length: 40 }, (_, step) => whole.accept(noise(step)));
    expect(want.some(({ emission, finish }) => emission === null && finish === null)).toBe(true);
    for (let cut = 0; cut < 40; cut++) {
      const first = make();
      for (let step = 0; step < cut; step++) first.accept(noise(step));
      const second = make(structuredClone(first.save()));
      for (let step = cut; step < 40; step++) expect(second.accept(noise(step))).toEqual(want[step]);
    }
  });
});

describe("scoring", () => {
  it("gives each known token its log-probability, and ends after the last", () => {
    const scorer = createScorer(Int32Array.of(4, 5, 6));
    const logits = Float32Array.from({ length: 8 }, (_, i) => Math.sin(i));
    expect(scorer.outputs).toBe("all");
    expect(scorer.accept(logits)).toEqual({ next: null, emission: null, finish: null });
    expect(scorer.logprobs[1]).toBeNaN();
    expect(scorer.accept(logits).finish).toBe("length");
    const sum = Math.log(logits.reduce((total, x) => total + Math.exp(x), 0));
    expect(scorer.logprobs[0]).toBeCloseTo(Math.sin(5) - sum, 6);
    expect(scorer.logprobs[1]).toBeCloseTo(Math.sin(6) - sum, 6);
  });

  it("does not overflow", () => {
    expect(logProbability(Float32Array.of(1e4, 1e4), 0)).toBeCloseTo(-Math.LN2, 12);
    expect(logProbability(Float32Array.of(-1e4, 0), 0)).toBe(-1e4);
  });
});
