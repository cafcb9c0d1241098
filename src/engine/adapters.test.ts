import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { merged, randomAdapter } from "../../test/support/adapters.js";
import { localThread, openNull } from "../../test/support/local-thread.js";
import { type TinyName, tinyCheckpoint, tinyModel, tinyPrompt } from "../../test/support/tiny-models.js";
import { createReference } from "../backends/reference/index.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { writeAdapter } from "../models/peft.js";
import { assemble } from "./load.js";
import type { Model } from "./model.js";
import { type OpenOptions, openOn, openParameters } from "./open.js";

let folder = "";
const models: Model[] = [];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-engine-adapters-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

async function open(checkpoint: Checkpoint, options: OpenOptions = {}): Promise<Model> {
  const thread = localThread((parameters) =>
    assemble(checkpoint, { backend: createReference(), reason: null }, parameters),
  );
  const given = { cache: { codec: "f32" as const }, context: 64, ...options };
  const model = await openOn(thread, openParameters("(memory)", { ...given, backend: "reference" }), given);
  models.push(model);
  return model;
}

/** Two adapters of a tiny model, saved. */
async function twoAdapters(name: TinyName) {
  const checkpoint = tinyCheckpoint(tinyModel(name), "gguf");
  const first = await randomAdapter(checkpoint, { rank: 4, seed: 1 });
  const second = await randomAdapter(checkpoint, {
    rank: 2,
    seed: 2,
    targets: ["o_proj", "down_proj", "lm_head"],
  });
  const paths = { first: join(folder, `${name}-first`), second: join(folder, `${name}-second`) };
  await writeAdapter(paths.first, checkpoint, first);
  await writeAdapter(paths.second, checkpoint, second);
  return { checkpoint, first, second, paths };
}

describe("adapters at run time", () => {
  it.each(["llama", "phi3", "qwen2"] as const)("say what the merged model says (%s)", async (name) => {
    const { checkpoint, first, second, paths } = await twoAdapters(name);
    const model = await open(checkpoint, { adapters: paths });
    expect(model.info.adapters).toEqual(["first", "second"]);
    const prompt = tinyPrompt(20);
    for (const [adapter, change] of [
      ["first", first],
      ["second", second],
    ] as const) {
      const expected = (await (await open(merged(checkpoint, name, change))).score(prompt)).logprobs;
      const { logprobs } = await model.score(prompt, { adapter });
      for (const [i, logprob] of logprobs.entries()) expect(logprob).toBeCloseTo(expected[i]!, 3);
    }
    const plain = (await (await open(checkpoint)).score(prompt)).logprobs;
    expect((await model.score(prompt)).logprobs).toEqual(plain);
    expect((await model.score(prompt, { adapter: "first" })).logprobs).not.toEqual(plain);
  });

  it("serve requests with different ones in one batch as if each were alone", async () => {
    const { checkpoint, paths } = await twoAdapters("llama");
    const model = await open(checkpoint, { adapters: paths, sequences: 6 });
    const requests = [undefined, "first", "second", "first", undefined, "second"].map((adapter, i) => ({
      prompt: tinyPrompt(5 + 3 * i, i),
      options: {
        maxTokens: 8,
        temperature: 0,
        ignoreEos: true,
        logprobs: 2,
        ...(adapter === undefined ? {} : { adapter }),
      },
    }));
    const ask = ({ prompt, options }: (typeof requests)[number]) => model.generate(prompt, options).result;
    const alone = [];
    for (const request of requests) alone.push((await ask(request)).tokens);
    const together = await Promise.all(requests.map(ask));
    expect(together.map(({ tokens }) => tokens)).toEqual(alone);
    expect(new Set(alone.map((tokens) => [...tokens].join(","))).size).toBe(requests.length);
  });

  it("are refused where they were not opened, and counted among the weights", async () => {
    const { checkpoint, paths } = await twoAdapters("llama");
    const model = await open(checkpoint, { adapters: { first: paths.first } });
    expect(() => model.generate("x", { adapter: "second" })).toThrow('one of "first"');
    await expect(model.score("x", { adapter: "second" })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    const plain = await open(checkpoint);
    expect(() => plain.generate("x", { adapter: "first" })).toThrow("opened without adapters");
    expect(model.info.memory.weightBytes).toBeGreaterThan(plain.info.memory.weightBytes);
    await expect(open(checkpoint, { adapters: { none: join(folder, "none") } })).rejects.toMatchObject({
      code: "FILE_NOT_FOUND",
    });
    for (const adapters of [["first"], { first: 1 }, { first: "" }] as unknown[]) {
      await expect(
        (async () => openNull({ adapters: adapters as Record<string, string> }))(),
      ).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    }
  });
});
