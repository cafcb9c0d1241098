import { describe, expect, it } from "vitest";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import type { Backend, Program } from "../backends/contract.js";
import { createNull, nullLogit } from "../backends/null.js";
import type { Decoder, Emission } from "../decoding/contract.js";
import type { MillraceError } from "../errors.js";
import { assemble } from "./load.js";
import type { LoadedModel } from "./loaded.js";
import type { EngineRequest, RequestEnd } from "./request.js";

const VOCABULARY = 320;
const options = { sequences: 4, cache: { policy: { policy: "full" }, codec: "f16" } } as const;
const load = (backend = createNull(), more: { sequences?: number; context?: number } = {}) =>
  assemble(tinyCheckpoint(tinyModel("llama"), "gguf"), { backend, reason: null }, { ...options, ...more });

/** Greedy ids that the null backend's logits give after `prompt`. */
function expected(prompt: readonly number[], count: number): number[] {
  const tokens = [...prompt];
  for (let i = 0; i < count; i++) {
    const position = tokens.length - 1;
    let best = 0;
    for (let v = 1; v < VOCABULARY; v++) {
      if (nullLogit(tokens[position]!, position, v) > nullLogit(tokens[position]!, position, best)) best = v;
    }
    tokens.push(best);
  }
  return tokens.slice(prompt.length);
}

/** A greedy decoder that stops after `count` tokens and emits each. */
function greedyDecoder(count: number): Decoder {
  let generated = 0;
  return {
    outputs: "last",
    accept(logits) {
      const id = logits.indexOf(Math.max(...logits));
      const finish = ++generated === count ? "length" : null;
      return { next: finish ? null : id, emission: { text: "", tokens: [id] }, finish };
    },
    flush: () => null,
  };
}

interface Watched {
  readonly tokens: number[];
  readonly emissions: Emission[];
  ended: RequestEnd | null;
  failed: MillraceError | null;
}

function submit(
  model: LoadedModel,
  request: Partial<EngineRequest> & { id: number; count?: number },
): Watched {
  const watched: Watched = { tokens: [], emissions: [], ended: null, failed: null };
  const prompt = request.prompt ?? Int32Array.of(5, 6, 7);
  const { count = 10 } = request;
  model.engine.submit({
    prompt,
    decoder: greedyDecoder(count),
    maxCached: prompt.length + count - 1,
    credit: Infinity,
    listener: {
      emit(emission) {
        watched.emissions.push(emission);
        watched.tokens.push(...emission.tokens);
      },
      end(end) {
        expect(watched.ended ?? watched.failed).toBeNull();
        watched.ended = end;
      },
      fail(error) {
        expect(watched.ended ?? watched.failed).toBeNull();
        watched.failed = error;
      },
    },
    ...request,
  });
  return watched;
}

async function finish(model: LoadedModel): Promise<number> {
  let steps = 0;
  while (await model.engine.step()) steps++;
  return steps;
}

describe("Engine", () => {
  it("gives several requests at once what each gets alone, in ragged steps", async () => {
    const model = await load();
    const prompts = [[3], [5, 6, 7], Array.from({ length: 200 }, (_, i) => (i * 7) % VOCABULARY), [300, 1]];
    const together = prompts.map((prompt, id) =>
      submit(model, { id, prompt: Int32Array.from(prompt), count: 20 + id }),
    );
    const steps = await finish(model);
    expect(steps).toBeLessThan(40);
    for (const [i, watched] of together.entries()) {
      expect(watched.tokens).toEqual(expected(prompts[i]!, 20 + i));
      expect(watched.ended).toMatchObject({
        finishReason: "length",
        promptTokens: prompts[i]!.length,
        generatedTokens: 20 + i,
        cache: { seen: prompts[i]!.length + 19 + i, dropped: 0 },
      });
    }
    expect(model.engine.usage()).toMatchObject({ used: 0, waiting: 0, running: 0 });
    await model.dispose();
  });

  it("cuts a long prompt into chunks with the same answer", async () => {
    const prompt = Array.from({ length: 400 }, (_, i) => (i * 13) % VOCABULARY);
    const model = await load(createNull(), { context: 450 });
    // Something decodes beside it, so its chunks are short.
    submit(model, { id: 1, count: 30 });
    await model.engine.step();
    const long = submit(model, { id: 2, prompt: Int32Array.from(prompt), count: 5 });
    await finish(model);
    expect(long.tokens).toEqual(expected(prompt, 5));
    await model.dispose();
  });

  it("queues more requests than run at once, and serves them in order of arrival", async () => {
    const model = await load(createNull(), { sequences: 2 });
    const ended: number[] = [];
    const watched = Array.from({ length: 7 }, (_, id) => submit(model, { id, count: 3 }));
    for (let more = true; more; ) {
      expect(model.engine.usage().running).toBeLessThanOrEqual(2);
      more = await model.engine.step();
      for (const [id, { ended: end }] of watched.entries()) if (end && !ended.includes(id)) ended.push(id);
    }
    expect(ended).toEqual([0, 1, 2, 3, 4, 5, 6]);
    await model.dispose();
  });

  it("frees the pages of a cancelled request at once, wherever it stands", async () => {
    const model = await load(createNull(), { sequences: 1 });
    const first = submit(model, { id: 1, count: 100 });
    const second = submit(model, { id: 2, count: 2 });
    const third = submit(model, { id: 3, count: 2 });
    await model.engine.step();
    expect(model.engine.usage()).toMatchObject({ running: 1, waiting: 2 });
    expect(model.engine.usage().used).toBeGreaterThan(0);
    model.engine.cancel(2);
    model.engine.cancel(1);
    model.engine.cancel(1);
    model.engine.cancel(77);
    expect(model.engine.usage()).toMatchObject({ used: 0, running: 0, waiting: 1 });
    expect(first.ended).toMatchObject({ finishReason: "aborted", generatedTokens: 1, promptTokens: 3 });
    expect(second.ended).toMatchObject({ finishReason: "aborted", generatedTokens: 0, cache: { seen: 0 } });
    await finish(model);
    expect(third.ended?.finishReason).toBe("length");
    await model.dispose();
  });

  it("frees a request that is cancelled during its step when the step is through", async () => {
    const model = await load();
    const watched = submit(model, { id: 1, count: 100 });
    const beside = submit(model, { id: 2, count: 2 });
    const step = model.engine.step();
    model.engine.cancel(1);
    expect(watched.ended).toBeNull();
    await step;
    expect(watched.ended?.finishReason).toBe("aborted");
    expect(watched.tokens).toEqual([]);
    await finish(model);
    expect(beside.tokens).toEqual(expected([5, 6, 7], 2));
    expect(model.engine.usage().used).toBe(0);
    await model.dispose();
  });

  it("pauses a request without credit, keeps its pages, and goes on when granted", async () => {
    const model = await load();
    const slow = submit(model, { id: 1, count: 9, credit: 3 });
    const fast = submit(model, { id: 2, count: 9 });
    await finish(model);
    expect(fast.ended?.finishReason).toBe("length");
    expect(slow.tokens).toHaveLength(3);
    expect(model.engine.usage()).toMatchObject({ running: 1 });
    model.engine.grant(1, 2);
    await finish(model);
    expect(slow.tokens).toHaveLength(5);
    model.engine.grant(1, 100);
    await finish(model);
    expect(slow.tokens).toEqual(expected([5, 6, 7], 9));
    await model.dispose();
  });

  it("ends with cache-full where the cache was promised fewer tokens than the decoder wants", async () => {
    const model = await load();
    const watched = submit(model, { id: 1, count: 50, maxCached: 10 });
    await finish(model);
    expect(watched.ended).toMatchObject({ finishReason: "cache-full", generatedTokens: 8 });
    expect(watched.ended?.cache.seen).toBe(10);
    await model.dispose();
  });

  it("refuses prompts that cannot run, and nobody else is hurt", async () => {
    const model = await load();
    const good = submit(model, { id: 1, count: 2 });
    expect(() => submit(model, { id: 2, prompt: new Int32Array(0) })).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
    for (const id of [-1, VOCABULARY]) {
      expect(() => submit(model, { id: 3, prompt: Int32Array.of(1, id) })).toThrow(
        expect.objectContaining({
          code: "INVALID_TOKEN",
          details: expect.objectContaining({ at: 1, got: id }),
        }),
      );
    }
    expect(() => submit(model, { id: 4, maxCached: 1e6 })).toThrow(
      expect.objectContaining({ code: "PROMPT_TOO_LONG" }),
    );
    await finish(model);
    expect(good.ended?.finishReason).toBe("length");
    await model.dispose();
  });

  it("fails only the request whose decoder fails", async () => {
    const model = await load();
    const decoder: Decoder = {
      outputs: "last",
      accept: () => {
        throw new Error("no token");
      },
      flush: () => null,
    };
    const bad = submit(model, { id: 1, decoder });
    const good = submit(model, { id: 2, count: 4 });
    await finish(model);
    expect(bad.failed).toMatchObject({ code: "INTERNAL", message: "no token" });
    expect(good.tokens).toEqual(expected([5, 6, 7], 4));
    expect(model.engine.usage().used).toBe(0);
    await model.dispose();
  });

  it("fails what ran in a step that the backend failed, and goes on", async () => {
    const backend = createNull();
    let broken = true;
    const failing: Backend = {
      ...backend,
      async compile(...parameters): Promise<Program> {
        const program = await backend.compile(...parameters);
        return {
          run: (step) => (broken ? Promise.reject(new Error("lost device")) : program.run(step)),
          logits: () => program.logits(),
          states: () => program.states(),
          read: (id) => program.read(id),
          dispose: () => program.dispose(),
        };
      },
    };
    const model = await load(failing);
    const watched = submit(model, { id: 1 });
    await model.engine.step();
    expect(watched.failed).toMatchObject({ code: "INTERNAL", message: "lost device" });
    expect(model.engine.usage()).toMatchObject({ used: 0, running: 0 });
    broken = false;
    const after = submit(model, { id: 2, count: 3 });
    await finish(model);
    expect(after.tokens).toEqual(expected([5, 6, 7], 3));
    await model.dispose();
  });
});
