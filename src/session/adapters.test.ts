import { mkdtemp, readdir, readFile, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { merged, randomAdapter } from "../../test/support/adapters.js";
import { localThread } from "../../test/support/local-thread.js";
import { tinyCheckpoint, tinyModel, tinyPrompt } from "../../test/support/tiny-models.js";
import { createReference } from "../backends/reference/index.js";
import type { Piece } from "../engine/generation.js";
import { assemble } from "../engine/load.js";
import { openOn, openParameters } from "../engine/open.js";
import { full, sinks } from "../engine/policies.js";
import { writeAdapter } from "../models/peft.js";
import { type Model, makeModel } from "./model.js";
import type { Session } from "./session.js";

const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
let folder = "";
let [first, second] = ["", ""];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-session-adapters-"));
  [first, second] = [join(folder, "first"), join(folder, "second")];
  await writeAdapter(first, checkpoint, await randomAdapter(checkpoint, { rank: 4, seed: 1 }));
  await writeAdapter(second, checkpoint, await randomAdapter(checkpoint, { rank: 2, seed: 2 }));
});
afterAll(() => rm(folder, { recursive: true }));

const models: Model[] = [];
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

async function open(adapters: Record<string, string>, source = checkpoint): Promise<Model> {
  const thread = localThread((parameters, onProgress, sessions) =>
    assemble(source, { backend: createReference(), reason: null }, parameters, onProgress, sessions),
  );
  const options = { cache: { codec: "f32" }, context: 256, adapters } as const;
  const model = await openOn(thread, openParameters("(memory)", options), {}, makeModel);
  models.push(model);
  return model;
}

const code = (name: string) => expect.objectContaining({ code: name });
const greedy = { temperature: 0, ignoreEos: true } as const;
async function collect(pieces: AsyncIterable<Piece>): Promise<number[]> {
  const all: number[] = [];
  for await (const piece of pieces) all.push(...piece.tokens);
  return all;
}
async function say(session: Session, prompt: number[], maxTokens = 12): Promise<number[]> {
  await session.append(prompt);
  return collect(session.generate({ ...greedy, maxTokens }));
}
const RECALL = { disk: "4 MiB", tokens: 64, block: 16, memory: "64 KiB" } as const;

describe("a session with an adapter", () => {
  it("says what a request with that adapter says, beside sessions with others", async () => {
    const model = await open({ first, second });
    const prompt = tinyPrompt(40);
    const names = [undefined, "first", "second"];
    const options = names.map((adapter) => (adapter === undefined ? {} : { adapter }));
    const want: (readonly number[])[] = [];
    for (const option of options) {
      want.push((await model.generate(prompt, { ...greedy, ...option, maxTokens: 12 }).result).tokens);
    }
    expect(new Set(want.map(String)).size).toBe(3);
    const sessions = options.map((option) => model.session({ cache: full(), ...option }));
    const said = sessions.map(async (session) => {
      await session.append(prompt.slice(0, 15));
      return say(session, prompt.slice(15));
    });
    expect(await Promise.all(said)).toEqual(want);
    for (const [i, session] of sessions.entries()) {
      expect((await session.opened).adapter).toBe(names[i] ?? null);
    }
    const scores = await model.session({ cache: full(), adapter: "first" }).score(prompt);
    const { logprobs } = await model.score(prompt, { adapter: "first" });
    expect([...scores.logprobs.slice(1)]).toEqual([...logprobs]);
  });

  it("goes on with it in a fork and from a file, whatever it is called there", async () => {
    const model = await open({ first, second });
    const cache = sinks({ window: 40 });
    const { memoryBytes } = await model.session({ cache }).opened;
    const session = model.session({ cache, memory: 3 * memoryBytes, adapter: "second" });
    await say(session, tinyPrompt(70), 5);
    const path = join(folder, "second.mill");
    await session.save(path);
    const fork = await session.fork();
    expect((await fork.opened).adapter).toBe("second");
    const restored = await model.restore(path);
    await restored.save(join(folder, "again.mill"));
    expect(await readFile(join(folder, "again.mill"))).toEqual(await readFile(path));
    const renamed = await (await open({ other: second })).restore(path);
    expect((await renamed.opened).adapter).toBe("other");
    const more = tinyPrompt(20, 3);
    const want = await say(session, more);
    for (const each of [fork, restored, renamed]) expect(await say(each, more)).toEqual(want);
    const plain = model.session({ cache });
    await say(plain, tinyPrompt(70), 5);
    expect(await say(plain, more)).not.toEqual(want);
  });

  it("recalls by keys what the model with the adapter merged into it recalls", async () => {
    const adapter = await randomAdapter(checkpoint, { rank: 4, seed: 1 });
    const models = [await open({ first }), await open({}, merged(checkpoint, "llama", adapter))];
    const brought = models.map(async (model, i) => {
      const session = model.session({
        cache: sinks({ window: 48 }),
        recall: { ...RECALL, by: "keys", auto: false },
        ...(i === 0 ? { adapter: "first" } : {}),
      });
      await session.append(tinyPrompt(320));
      const ranges = [];
      for (const seed of [5, 6, 7]) ranges.push((await session.recall(tinyPrompt(9, seed))).ranges);
      return ranges;
    });
    const [adapted, expected] = await Promise.all(brought);
    expect(adapted).toEqual(expected);
  });

  it("is refused where its adapter is not there, and its file stays as it is", async () => {
    const session = (await open({ mine: first })).session({ adapter: "mine" });
    await say(session, tinyPrompt(30), 3);
    const path = join(folder, "mine.mill");
    await session.save(path);
    const bytes = await readFile(path);
    const refusals = [
      [await open({}), "was opened without it"],
      [await open({ other: second }), "was opened without it"],
      [await open({ mine: second }), "under that name is another"],
    ] as const;
    for (const [model, why] of refusals) {
      const error = await model.restore(path).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "WRONG_MODEL", message: expect.stringContaining(why) });
      expect(await readFile(path)).toEqual(bytes);
      expect(await say(model.session(), tinyPrompt(5), 2)).toHaveLength(2);
    }
    const restored = await (await open({ mine: second, yours: first })).restore(path);
    const more = tinyPrompt(8, 2);
    expect(await say(restored, more)).toEqual(await say(session, more));
  });

  it("does not take up blocks of another adapter's session", async () => {
    const model = await open({ first, second });
    const paths: string[] = [];
    for (const adapter of ["first", "second"]) {
      const session = model.session({ cache: sinks({ window: 48 }), recall: RECALL, adapter });
      await session.append(tinyPrompt(300));
      const path = join(folder, `${adapter}-tier.mill`);
      await session.save(path);
      paths.push(path);
    }
    const tier = async (path: string) => {
      const name = (await readdir(folder)).find((each) => join(folder, each).startsWith(`${path}.tier-`));
      return join(folder, name!);
    };
    const [own, foreign] = [await tier(paths[0]!), await tier(paths[1]!)];
    await rename(own, join(folder, "away"));
    await rename(foreign, own);
    await expect(model.restore(paths[0]!)).rejects.toEqual(code("BAD_FORMAT"));
    await rm(own, { recursive: true });
    await rename(join(folder, "away"), own);
    expect((await (await model.restore(paths[0]!)).inspect()).tier?.problem).toBeNull();
  });

  it("is refused at once for a name that the model does not have", async () => {
    const model = await open({ first });
    expect(() => model.session({ adapter: "second" })).toThrow('one of "first"');
    const plain = await open({});
    expect(() => plain.session({ adapter: "first" })).toThrow("opened without adapters");
  });

  it("stays without one where it was saved without", async () => {
    const session = (await open({})).session();
    await say(session, tinyPrompt(30), 3);
    const path = join(folder, "plain.mill");
    await session.save(path);
    const restored = await (await open({ first })).restore(path);
    expect((await restored.opened).adapter).toBeNull();
    const more = tinyPrompt(8, 2);
    expect(await say(restored, more)).toEqual(await say(session, more));
  });
});
