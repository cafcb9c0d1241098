import { setImmediate as nextTurn } from "node:timers/promises";
import { afterEach, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { TestRandom } from "../../test/support/random.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createNull, nullLogit } from "../backends/null.js";
import type { CacheEvent } from "../cache/sequence.js";
import type { Piece } from "../engine/generation.js";
import { assemble } from "../engine/load.js";
import { full, h2o, sinks, window } from "../engine/policies.js";
import type { Model } from "./model.js";
import type { Session } from "./session.js";

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
const VOCABULARY = 320;
const random = new TestRandom(1);
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.below(VOCABULARY - 3));
async function collect(pieces: AsyncIterable<Piece>): Promise<number[]> {
  const all: number[] = [];
  for await (const piece of pieces) all.push(...piece.tokens);
  return all;
}
const greedy = { ignoreEos: true } as const;
/** What the null backend makes of a token at a position, greedily. */
function following(token: number, position: number): number {
  let best = 0;
  for (let v = 1; v < VOCABULARY; v++) {
    if (nullLogit(token, position, v) > nullLogit(token, position, best)) best = v;
  }
  return best;
}
/** Every token that a session ever saw is somewhere. */
function expectAccount({ report }: Session): void {
  const { seen, kept, merged, demoted, dropped } = report;
  expect(kept + merged + demoted + dropped).toBe(seen);
}

describe("a session", () => {
  it("answers again after an answer that ended with the session's turn", async () => {
    const model = await open();
    const session = model.session({ cache: sinks({ window: 60 }) });
    // Tokens of a step, and so of a turn.
    const turn = 256;
    await session.append(tokens(1));
    for (const maxTokens of [turn, turn, 2 * turn, 1])
      expect(await collect(session.generate({ ...greedy, maxTokens }))).toHaveLength(maxTokens);
    await session.append(tokens(turn));
    expect(await collect(session.generate({ ...greedy, maxTokens: turn }))).toHaveLength(turn);
  });

  it("says after many appends what a request says after one prompt", async () => {
    const model = await open();
    const prompt = tokens(70);
    const want = (await model.generate(prompt, { ...greedy, maxTokens: 30 }).result).tokens;
    const session = model.session({ cache: full() });
    expect(await session.append(prompt.slice(0, 1))).toBe(1);
    void session.append(prompt.slice(1, 40));
    expect(await session.append(prompt.slice(40))).toBe(30);
    expect(session.report).toMatchObject({ seen: 69, kept: 69, dropped: 0, waiting: 1 });
    expect(await collect(session.generate({ ...greedy, maxTokens: 12 }))).toEqual(want.slice(0, 12));
    expect(await collect(session.generate({ ...greedy, maxTokens: 18 }))).toEqual(want.slice(12));
    expect(session.report).toMatchObject({ seen: 99, waiting: 1 });
  });

  it("takes what is appended during an answer with the next step", async () => {
    const model = await open();
    const session = model.session({ cache: full() });
    const first = tokens(9);
    const later = tokens(300);
    await session.append(first);
    const said: number[] = [];
    let appended: Promise<number> | null = null;
    for await (const piece of session.generate({ ...greedy, maxTokens: 100 })) {
      said.push(...piece.tokens);
      if (said.length >= 20) appended ??= session.append(later);
    }
    expect(await appended).toBe(300);
    expect(session.report).toMatchObject({ seen: 9 + 100 + 300 - 1, waiting: 1 });
    // Each token follows from the one before it in the stream; the appended ones stand in one place.
    const places = [];
    for (let place = 20; place < 100; place++) {
      const stream = [...first, ...said.slice(0, place), ...later, ...said.slice(place)];
      const holds = said.every((id, i) => {
        const at = 9 + i + (i >= place ? 300 : 0);
        return following(stream[at - 1]!, at - 1) === id;
      });
      if (holds) places.push(place);
    }
    expect(places).toHaveLength(1);
    expect(places[0]).toBeLessThan(20 + 70);
  });

  it("stays within its bytes over a stream of many times its budget, and accounts for every token", async () => {
    const model = await open({ cache: { codec: "int8" } });
    for (const cache of [sinks({ window: 60 }), window({ tokens: 48 }), h2o({ heavy: 24, recent: 24 })]) {
      const memory = (await model.session({ cache }).opened).memoryBytes;
      const session = model.session({ cache, memory });
      const changes: CacheEvent[] = [];
      session.on("change", (change) => changes.push(change));
      let most = 0;
      for (let i = 0; i < 60; i++) {
        await session.append(tokens(1 + random.below(100)));
        await collect(session.generate({ ...greedy, maxTokens: 5 }));
        expectAccount(session);
        most = Math.max(most, session.report.bytes);
        expect(session.report.bytes).toBeLessThanOrEqual(memory);
      }
      const { seen, dropped } = session.report;
      expect(seen).toBeGreaterThan(1000);
      const gone = new Set<number>();
      for (const change of changes) {
        if (change.kind !== "drop") continue;
        for (const [from, to] of change.ranges) for (let at = from; at <= to; at++) gone.add(at);
      }
      expect(gone.size).toBe(dropped);
      expect(await session.inspect()).toMatchObject({ seen, dropped });
      await session.close();
    }
  });

  it("chooses sinks beside the longest window that its memory holds, where no policy is named", async () => {
    const model = await open();
    const { cache } = await model.session().opened;
    expect(cache).toMatchObject({ policy: { policy: "sinks", window: 508, sinks: 4 }, codec: "f16" });
    const small = await model.session({ memory: "32 KiB", cache: { codec: "int8" } }).opened;
    expect(small.cache.codec).toBe("int8");
    const { window: size } = small.cache.policy as { window: number };
    expect(size).toBeGreaterThan(50);
    expect(size).toBeLessThan(508);
    const one = sinks({ window: size + 64 });
    const larger = model.session({ memory: "32 KiB", cache: { policy: one, codec: "int8" } });
    await expect(larger.opened).rejects.toThrow(code("OUT_OF_BUDGET"));
  });

  it("refuses a memory that is too small, with the numbers, and every call says so", async () => {
    const model = await open();
    for (const cache of [full(), sinks({ window: 300 })]) {
      const session = model.session({ memory: 1000, cache });
      const refusal = {
        code: "OUT_OF_BUDGET",
        details: { has: 1000, needs: expect.any(Number), pageBytes: expect.any(Number) },
      };
      await expect(session.append([5])).rejects.toMatchObject(refusal);
      await expect(collect(session.generate())).rejects.toMatchObject(refusal);
      await session.close();
    }
    const limited = await open({ memory: "3 MiB", sequences: 1, context: 64 });
    await limited.session({ memory: "256 KiB" }).opened;
    await expect(limited.session({ memory: "3 MiB" }).opened).rejects.toThrow(/budget leaves/);
  });

  it("ends where a cache that keeps everything is full, and goes on after a rewind", async () => {
    const model = await open();
    const session = model.session({ cache: full(), memory: "64 KiB" });
    const { capacity } = await session.opened;
    expect(capacity).toBeGreaterThan(100);
    const prompt = tokens(capacity - 10);
    await session.append(prompt);
    await expect(session.append(tokens(11))).rejects.toMatchObject({
      code: "PROMPT_TOO_LONG",
      details: { tokens: 11, capacity },
    });
    const answer = session.generate({ ...greedy, maxTokens: 50 });
    const said = await collect(answer);
    expect((await answer.result).finishReason).toBe("cache-full");
    expect(said).toHaveLength(11);
    await expect(collect(session.generate())).rejects.toThrow(code("PROMPT_TOO_LONG"));
    await expect(session.append([5])).rejects.toThrow(code("PROMPT_TOO_LONG"));
    expect(await session.rewind(prompt.length)).toBe("exact");
    expect(await collect(session.generate({ ...greedy, maxTokens: 11 }))).toEqual(said);
  });

  it("shares the engine fairly: a long append does not stop others", async () => {
    const model = await open();
    const session = model.session({ cache: sinks({ window: 60 }) });
    let done = false;
    const appended = session.append(tokens(40_000)).then(() => {
      done = true;
    });
    const { tokens: said } = await model.generate(tokens(200), { ...greedy, maxTokens: 20 }).result;
    expect(said).toHaveLength(20);
    expect(done).toBe(false);
    await appended;
    expect(session.report.seen).toBe(39_999);
  });

  it("takes a signal: before, during, and not after", async () => {
    const model = await open();
    const session = model.session({ cache: sinks({ window: 60 }) });
    await expect(session.append(tokens(9), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "ABORTED",
      details: { taken: 0 },
    });
    const controller = new AbortController();
    const append = session.append(tokens(40_000), { signal: controller.signal });
    const behind = session.append(tokens(10));
    setTimeout(() => controller.abort(), 20);
    const error = await append.catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "ABORTED", details: { tokens: 40_000 } });
    await behind;
    const { taken } = (error as { details: { taken: number } }).details;
    expect(taken).toBeLessThan(40_000);
    expect(session.report).toMatchObject({ seen: taken + 9, waiting: 1 });
    expect(await collect(session.generate({ ...greedy, maxTokens: 3 }))).toHaveLength(3);
  });

  it("breaks answers off, keeps what they said, and refuses two at once", async () => {
    const model = await open();
    const session = model.session({ cache: full() });
    await session.append(tokens(5));
    for await (const piece of session.generate(greedy)) {
      if (piece.index >= 7) break;
    }
    await expect.poll(async () => (await model.usage()).running).toBe(0);
    const { seen } = await session.inspect();
    expect(seen).toBeGreaterThan(11);
    const first = session.generate({ ...greedy, maxTokens: 300 });
    await first.next();
    await expect(collect(session.generate())).rejects.toThrow(/answering already/);
    await expect(session.rewind(3)).rejects.toThrow(/is answering/);
    await first.return();
    expect(await collect(session.generate({ ...greedy, maxTokens: 2 }))).toHaveLength(2);
    const controller = new AbortController();
    const aborted = session.generate({ ...greedy, signal: controller.signal });
    await aborted.next();
    controller.abort();
    await expect(collect(aborted)).rejects.toThrow(code("ABORTED"));
    await expect(session.append(tokens(3))).resolves.toBe(3);
  });

  it("pauses behind its reader, while what is appended goes in", async () => {
    const model = await open();
    const session = model.session({ cache: full() });
    await session.append(tokens(5));
    const answer = session.generate({ ...greedy, maxTokens: 300 });
    await answer.next();
    for (let i = 0; i < 400; i++) await nextTurn();
    const { seen } = session.report;
    expect(seen).toBeLessThan(5 + 200);
    expect(await session.append(tokens(50))).toBe(50);
    expect(session.report.seen).toBeGreaterThanOrEqual(seen + 49);
    const rest = await collect(answer);
    expect(rest.length).toBeGreaterThan(290);
  });

  it("refuses what it cannot go on from, and wrong options at once", async () => {
    const model = await open();
    const session = model.session();
    await expect(collect(session.generate())).rejects.toThrow(/nothing to go on from/);
    await expect(collect(session.resume())).rejects.toThrow(code("INVALID_ARGUMENT"));
    expect(() => session.append([VOCABULARY])).toThrow(code("INVALID_TOKEN"));
    expect(() => session.append({} as never)).toThrow(code("INVALID_ARGUMENT"));
    expect(() => session.generate({ maxToken: 3 } as never)).toThrow(/Did you mean "maxTokens"/);
    expect(() => model.session({ memry: 3 } as never)).toThrow(/Did you mean "memory"/);
    expect(() => model.session({ cache: { policy: "window", tokens: 0 } })).toThrow(code("INVALID_ARGUMENT"));
    await expect(session.rewind(-1)).rejects.toThrow(code("INVALID_ARGUMENT"));
    await expect(session.rewind(1)).rejects.toThrow(/has seen 0/);
    await expect(session.append("")).resolves.toBe(1);
    expect(await session.append([])).toBe(0);
    await session.close();
    await expect(session.append([5])).rejects.toThrow(code("CLOSED"));
    await session.close();
  });

  it("survives a backend that fails: the session stands where it stood", async () => {
    let failing = false;
    const model = await open({}, (parameters, onProgress, sessions) => {
      const backend = createNull();
      const compile = backend.compile.bind(backend);
      backend.compile = async (...args) => {
        const program = await compile(...args);
        const run = program.run.bind(program);
        program.run = async (step) => {
          if (failing) throw new Error("the backend fails");
          return run(step);
        };
        return program;
      };
      return assemble(
        tinyCheckpoint(tinyModel("llama"), "gguf"),
        { backend, reason: null },
        parameters,
        onProgress,
        sessions,
      );
    });
    const session = model.session({ cache: sinks({ window: 60 }) });
    const prompt = tokens(33);
    await session.append(prompt);
    failing = true;
    await expect(collect(session.generate())).rejects.toThrow(/the backend fails/);
    await expect(session.append(tokens(20))).rejects.toMatchObject({ details: { taken: 0 } });
    failing = false;
    expect(session.report).toMatchObject({ seen: 32, waiting: 1 });
    const want = (await model.generate(prompt, { maxTokens: 20 }).result).tokens;
    expect(await collect(session.generate({ maxTokens: 20 }))).toEqual(want);
  });
});

describe("rewind", () => {
  it("goes back to where it stood, by id where it remembers, and says where it cannot", async () => {
    const model = await open();
    const session = model.session({ cache: sinks({ window: 96 }) });
    const prompt = tokens(40);
    await session.append(prompt);
    const said = await collect(session.generate({ ...greedy, maxTokens: 30 }));
    for (const back of [69, 55, 41, 40]) {
      expect(await session.rewind(back)).toBe("exact");
      const rest = await collect(session.generate({ ...greedy, maxTokens: 70 - back }));
      expect(rest).toEqual(said.slice(back - 40));
    }
    await session.append(tokens(500));
    await expect(session.rewind(50)).rejects.toMatchObject({ code: "INVALID_ARGUMENT", details: { to: 50 } });
    const { seen, waiting } = session.report;
    expect(await session.rewind(seen + waiting)).toBe("exact");
    expectAccount(session);
    expect(await collect(session.generate({ ...greedy, maxTokens: 2 }))).toHaveLength(2);
  });

  it("goes on from what stands there: text, a closed turn, an answer that is open", async () => {
    const model = await open();
    const session = model.session({ cache: full() });
    const question = [{ role: "user", content: "the rest" }];
    const closed = { chat: { addGenerationPrompt: false } };
    const after = { text: 0, turn: 0, answer: 0 };
    const places = [await session.append("the rest ")];
    after.text = await session.append(question, closed);
    places.push(places[0]! + after.text);
    after.turn = await session.append(question);
    await collect(session.generate({ ...greedy, maxTokens: 5 }));
    places.push(places[1]! + after.turn + 2);
    after.answer = await session.append(question);
    // The end of the turn before.
    expect(after.answer).toBe(after.turn + 1);
    const fork = await session.fork();
    for (const each of [session, fork]) {
      for (const [i, place] of [...places.entries()].reverse()) {
        await each.rewind(place);
        const expected = Object.values(after)[i];
        expect([place, await each.append(question, i === 0 ? closed : {})]).toEqual([place, expected]);
      }
    }
    await session.rewind(0);
    expect(await session.append(question)).toBe(await model.session({ cache: full() }).append(question));
  });

  it("forgets a question that was not taken in", async () => {
    const model = await open();
    const question = [{ role: "user", content: "the rest" }];
    const cache = sinks({ window: 60 });
    const [session, alone] = [model.session({ cache }), model.session({ cache })];
    const abort = new AbortController();
    const text = session.append(tokens(5000));
    const taken = session.append(question, { signal: abort.signal });
    abort.abort();
    await expect(taken).rejects.toMatchObject({ code: "ABORTED", details: { taken: 0 } });
    await Promise.all([text, alone.append(tokens(9))]);
    expect(await session.append(question)).toBe(await alone.append(question));
  });
});

describe("fork", () => {
  it("goes on from one place in two directions, as two sessions alone would", async () => {
    const model = await open();
    const cache = sinks({ window: 60 });
    const { memoryBytes } = await model.session({ cache }).opened;
    const session = model.session({ cache, memory: 3 * memoryBytes });
    const start = tokens(150);
    const [left, right] = [tokens(90), tokens(90)];
    await session.append(start);
    const fork = await session.fork();
    await Promise.all([session.append(left), fork.append(right)]);
    for (const [one, way] of [
      [session, left],
      [fork, right],
    ] as const) {
      const alone = model.session({ cache });
      await alone.append([...start, ...way]);
      expect(one.report).toMatchObject({ ...alone.report, bytes: expect.any(Number) });
      const want = await collect(alone.generate({ ...greedy, maxTokens: 20 }));
      expect(await collect(one.generate({ ...greedy, maxTokens: 20 }))).toEqual(want);
    }
    await session.close();
    expect(await fork.append(tokens(200))).toBe(200);
    expectAccount(fork);
  });

  it("is refused where the memory does not hold what both may keep", async () => {
    const model = await open();
    const session = model.session({ cache: sinks({ window: 60 }) });
    await session.append(tokens(10));
    await expect(session.fork()).rejects.toMatchObject({ code: "OUT_OF_BUDGET" });
    expect(await session.append(tokens(500))).toBe(500);
  });
});
