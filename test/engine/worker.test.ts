/** The engine in its real worker thread, from the built package, on a real file. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { threadOf } from "../../dist/engine/connection.js";
import { openOn, openParameters } from "../../dist/engine/open.js";
import { full, MillraceError, open, window } from "../../dist/index.js";
import { stories } from "../support/outside.js";

const at = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const file = stories.path;
const golden = stories.here ? stories.golden() : { prompt: [], greedy_ids: [] };
const expected = golden.greedy_ids.slice(golden.prompt.length);

const backend = "reference";

describe.skipIf(!stories.here)("the engine in its worker (needs stories260K)", () => {
  it.for(["reference", "wasm", "native"] as const)("tells the golden story on %s", async (name, { skip }) => {
    const opening = open(file, { backend: name, threads: 2, cache: { codec: "f32" } });
    await using model = await opening.catch((error: MillraceError) => {
      if (error.code === "BACKEND_UNAVAILABLE") skip(error.message);
      throw error;
    });
    expect(model.info.backend).toMatchObject({ name, reason: null });
    const generation = model.generate(golden.prompt, { maxTokens: expected.length });
    let text = "";
    for await (const piece of generation) text += piece.text;
    const result = await generation.result;
    expect(result.tokens).toEqual(expected);
    expect(result.text).toBe(text);
    expect(text).toMatch(/^Once upon a time, there was a little girl named Lily\./);
    expect(result).toMatchObject({
      finishReason: "length",
      usage: { promptTokens: golden.prompt.length, generatedTokens: expected.length },
    });
  });

  it("tells several stories at once as it tells each alone", async () => {
    await using model = await open(file, { backend });
    const prompts = ["Once upon a time", "The dog", "Lily and Tom went to the park. They", "One day"];
    const options = { maxTokens: 25, temperature: 0.8, topP: 0.9, seed: 5 };
    const together = await Promise.all(prompts.map((prompt) => model.generate(prompt, options).result));
    for (const [i, prompt] of prompts.entries()) {
      expect((await model.generate(prompt, options).result).tokens).toEqual(together[i]!.tokens);
    }
  });

  it("finds a story more probable than its words in another order", async () => {
    await using model = await open(file, { backend });
    const story = await model.score("Once upon a time, there was a little girl named Lily.");
    const shuffled = await model.score("Lily a girl time, named upon little was Once a there.");
    expect(story.perplexity).toBeLessThan(3);
    expect(shuffled.perplexity).toBeGreaterThan(30);
  });

  it("goes on past its context with a window, and reports what it dropped", async () => {
    await using model = await open(file, { backend, context: 64, cache: { policy: window({ tokens: 64 }) } });
    const result = await model.generate("Once upon a time", { maxTokens: 120, ignoreEos: true }).result;
    const { seen, kept, dropped } = result.cache;
    expect(seen).toBe(result.usage.promptTokens + 119);
    expect(kept + dropped).toBe(seen);
    expect(kept).toBeLessThanOrEqual(64);
  });

  it("reports progress up to the whole, and carries errors with their code and numbers", async () => {
    const progress: { loadedBytes: number; totalBytes: number }[] = [];
    const model = await open(file, {
      backend,
      cache: { policy: full() },
      onProgress: (step) => progress.push(step),
    });
    await model.close();
    expect(progress.at(-1)!.loadedBytes).toBe(progress.at(-1)!.totalBytes);

    await expect(open(`${file}.missing`, { backend })).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    const refused = open(file, { backend, memory: "1 MB" });
    await expect(refused).rejects.toBeInstanceOf(MillraceError);
    await expect(refused).rejects.toMatchObject({ code: "OUT_OF_BUDGET", details: { has: 1_000_000 } });
  });

  it.each([
    ["exit", /exit code 7/, {}],
    ["throw", /a bug in the worker/, {}],
    ["memory", /out of memory/, { maxOldGenerationSizeMb: 64 }],
  ])(
    "survives a worker that ends by %s: WORKER_CRASHED for all that wait",
    async (how, reason, resourceLimits) => {
      const worker = new Worker(at("test/support/failing-worker.js"), { workerData: how, resourceLimits });
      await using model = await openOn(threadOf(worker), openParameters(file, { backend }));
      const outcomes = await Promise.allSettled([
        model.generate("Once").next(),
        model.generate("upon").result,
        model.score("a time"),
      ]);
      for (const outcome of outcomes) {
        expect(outcome).toMatchObject({
          status: "rejected",
          reason: { code: "WORKER_CRASHED", message: expect.stringMatching(reason) },
        });
      }
      await expect(model.tokenize("there")).rejects.toMatchObject({ code: "WORKER_CRASHED" });
    },
  );

  it("is closed by force where its worker no longer answers", async () => {
    const worker = new Worker(at("test/support/failing-worker.js"), { workerData: "hang" });
    const thread = threadOf(worker);
    const model = await openOn(thread, openParameters(file, { backend }));
    const next = model.generate("Once").next();
    const outcome = expect(next).rejects.toMatchObject({ code: "CLOSED" });
    const ended = new Promise((resolve) => worker.on("exit", resolve));
    await model.close(100);
    await outcome;
    await ended;
  });

  const script = (body: string) =>
    promisify(execFile)(process.execPath, [
      "--input-type=module",
      "--eval",
      `import { open } from ${JSON.stringify(new URL("../../dist/index.js", import.meta.url).href)};
       const model = await open(${JSON.stringify(file)}, { backend: "${backend}" });
       ${body}`,
    ]);

  it("does not keep a process alive that asks nothing of it, closed or not", async () => {
    const { stdout } = await script(`
      const { text } = await model.generate("Once upon", { maxTokens: 3 }).result;
      process.stdout.write(text);
      const half = model.generate("Once upon", { maxTokens: 500 });
      await half.next();
      // neither closed nor read to its end
    `);
    expect(stdout).toBe(" a time,");
  });

  it("keeps a process alive that waits for an answer", async () => {
    const { stdout } = await script(`
      model.generate("Once upon", { maxTokens: 3 }).result.then(async ({ text }) => {
        console.log(text);
        await model.close();
        console.log("closed");
      });
    `);
    expect(stdout).toBe(" a time,\nclosed\n");
  });
});
