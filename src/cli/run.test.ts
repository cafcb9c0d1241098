import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli, ending, start } from "../../test/support/cli.js";
import { stories } from "../../test/support/outside.js";
import { tinyModel, writeTinyGguf } from "../../test/support/tiny-models.js";

/** Of a person's patience with the slowest machine, in milliseconds. */
const LOADED = 2500;

describe.skipIf(!built)("millrace run (needs npm run build)", () => {
  let folder: string;
  let model: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-run-"));
    model = await writeTinyGguf(tinyModel("llama"), folder);
  });
  afterAll(() => rm(folder, { recursive: true }));

  /** On the reference backend, which starts soonest. */
  const run = (args: readonly string[], options?: Parameters<typeof cli>[1]) =>
    cli(["run", model, "--backend", "reference", "--ignore-eos", ...args], options);
  const json = async (...args: string[]) => JSON.parse((await run([...args, "--json"])).stdout);
  const greedy = ["--temperature", "0", "--max-tokens", "12"];

  it.skipIf(!stories.here)("tells the golden story (needs stories260K)", async () => {
    const { prompt, greedy_ids } = stories.golden();
    const args = ["--tokens", prompt.join(), "--max-tokens", "200", "--temperature", "0", "--json"];
    const { code, stdout, stderr } = await cli(["run", stories.path, ...args]);
    const { tokens, text } = JSON.parse(stdout);
    expect(tokens).toEqual(greedy_ids.slice(prompt.length));
    expect(text).toMatch(/^Once upon a time, there was a little girl named Lily\./);
    expect(stderr.replace(/^millrace: compiling.*\n/, "")).toBe("");
    expect(code).toBe(0);
  });

  it("holds the answer to a schema or a grammar from a file, and says what is wrong with one", async () => {
    const at = join(folder, "form");
    const held = (...args: string[]) =>
      cli(["run", model, "--backend", "reference", "--prompt", "x", "--seed", "1", ...args]);
    await writeFile(
      at,
      JSON.stringify({ type: "array", items: { type: "boolean" }, minItems: 2, maxItems: 3 }),
    );
    expect(JSON.parse((await held("--json-schema", at)).stdout)).toContainEqual(expect.any(Boolean));
    await writeFile(at, 'root ::= "yes" | "no"');
    expect((await held("--grammar", at)).stdout).toMatch(/^(yes|no)\n$/);
    await writeFile(at, '{"type": "strange"}');
    const wrong = await held("--json-schema", at);
    expect(wrong.code).toBe(2);
    expect(wrong.stderr).toMatch(/schema cannot be used: .*strange/);
    await writeFile(at, "{");
    expect((await held("--json-schema", at)).stderr).toMatch(/is no JSON/);
    expect((await held("--grammar", `${at}.missing`)).code).toBe(3);
  });

  it("prints one JSON object with all that is known of the answer", async () => {
    const { code, stdout, stderr } = await run([
      "--prompt",
      "the rest",
      ...greedy,
      "--logprobs",
      "2",
      "--json",
    ]);
    const answer = JSON.parse(stdout);
    expect(answer).toMatchObject({
      text: expect.any(String),
      finishReason: "length",
      seed: expect.any(Number),
      usage: { promptTokens: expect.any(Number), generatedTokens: 12 },
      timings: { queueMs: expect.any(Number), prefillMs: expect.any(Number), decodeMs: expect.any(Number) },
      speed: { prefill: expect.any(Number), decode: expect.any(Number) },
      cache: { kept: answer.usage.promptTokens + 11, dropped: 0, groups: [{ lanes: 4, policy: "full" }] },
      model: {
        path: model,
        architecture: "llama",
        backend: { name: "reference", reason: null },
        sequences: 1,
      },
    });
    expect(answer.tokens).toHaveLength(12);
    expect(answer.scores.map(({ id }: { id: number }) => id)).toEqual(answer.tokens);
    expect(answer.scores[0].top).toHaveLength(2);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });

  it("streams the same text, with a line break at its end", async () => {
    const [{ text }, streamed] = await Promise.all([
      json("--prompt", "the rest", ...greedy),
      run(["--prompt", "the rest", ...greedy]),
    ]);
    expect(streamed).toEqual({ code: 0, stdout: text.endsWith("\n") ? text : `${text}\n`, stderr: "" });
  });

  it("takes the prompt from an option, a file or a pipe, less one line break", async () => {
    const file = join(folder, "prompt.txt");
    await writeFile(file, "the rest\n");
    const [given, read, ...piped] = await Promise.all([
      run(["--prompt", "the rest", ...greedy]),
      run(["--file", file, ...greedy]),
      run(greedy, { input: "the rest\n" }),
      run(["--file", "-", ...greedy], { input: "the rest\r\n" }),
      cli(["run", "--backend", "reference", "--ignore-eos", "--prompt", "the rest", ...greedy], {
        env: { MILLRACE_MODEL: model },
      }),
    ]);
    expect(given.stdout).not.toBe("");
    expect(read).toEqual(given);
    for (const each of piped) expect(each).toEqual(given);
  });

  it("passes options of sampling on", async () => {
    const prompt = ["--tokens", "1 5 9", "--max-tokens", "12"];
    const [first, again, other, best] = await Promise.all([
      json(...prompt, "--seed", "7", "--temperature", "2", "--min-p", "0"),
      json(...prompt, "--seed", "7", "--temperature", "2", "--min-p", "0"),
      json(...prompt, "--seed", "8", "--temperature", "2", "--min-p", "0"),
      json(...prompt, "--temperature", "0"),
    ]);
    expect(again.tokens).toEqual(first.tokens);
    expect(again.seed).toBe(7);
    expect(other.tokens).not.toEqual(first.tokens);
    const [id] = best.tokens;
    const [banned, stopped, only] = await Promise.all([
      json(...prompt, "--temperature", "0", "--logit-bias", `${id}=-inf`),
      json(...prompt, "--temperature", "0", "--stop", best.text.slice(4, 6), "--stop", "never there"),
      json(...prompt, "--top-k", "1"),
    ]);
    expect(banned.tokens).not.toContain(id);
    expect(stopped).toMatchObject({
      finishReason: "stop-string",
      text: best.text.slice(0, best.text.indexOf(best.text.slice(4, 6))),
    });
    expect(only.tokens).toEqual(best.tokens);
  });

  it("puts a question into the chat template", async () => {
    const asked = await json("--system", "be kind", "--prompt", "hi", ...greedy);
    const written = await json("--prompt", "be kind\n\nUser: hi\nAssistant:", ...greedy);
    expect(asked.tokens).toEqual(written.tokens.slice(0, asked.tokens.length));
    expect(asked.usage.promptTokens).toBe(written.usage.promptTokens);
  });

  it("runs past its context in a window, and says what was let go of", async () => {
    const args = ["--tokens", "1", "--cache", "window:32", "--context", "64", "--max-tokens", "300"];
    const { cache, usage, finishReason } = await json(...args);
    expect({ finishReason, usage }).toMatchObject({
      finishReason: "length",
      usage: { generatedTokens: 300 },
    });
    expect(cache).toMatchObject({ seen: 300, dropped: 300 - cache.kept });
    expect(cache.kept).toBeLessThanOrEqual(32);
    expect(cache.kept).toBeGreaterThan(16);
  });

  const endless = ["--tokens", "1", "--cache", "window:32", "--max-tokens", "inf"];
  const startEndless = (...args: string[]) =>
    start(["run", model, "--backend", "reference", "--ignore-eos", ...endless, ...args]);

  it("ends quietly when its reader has had enough", async () => {
    const child = startEndless();
    const end = ending(child);
    await once(child.stdout!, "data");
    child.stdout!.destroy();
    expect(await end).toMatchObject({ code: 0, stderr: "" });
  });

  it("ends cleanly on Ctrl-C, after what came", async () => {
    const child = startEndless();
    const end = ending(child);
    await once(child.stdout!, "data");
    child.kill("SIGINT");
    const { code, stdout, stderr } = await end;
    expect({ code, stderr }).toEqual({ code: 130, stderr: "" });
    expect(stdout).toMatch(/\S.*\n$/s);
  });

  it("prints its one JSON object on Ctrl-C, too", { retry: 2 }, async () => {
    const child = startEndless("--json");
    const end = ending(child);
    setTimeout(() => child.kill("SIGINT"), LOADED);
    const { code, stdout } = await end;
    const answer = JSON.parse(stdout);
    expect(code).toBe(130);
    expect(answer.finishReason).toBe("aborted");
    expect(answer.tokens.length).toBeGreaterThan(0);
  });

  it("says in one line that wasm serves where nothing can be compiled", async () => {
    const { code, stderr, stdout } = await cli(
      ["run", model, "--tokens", "1,2", "--max-tokens", "3", "--json"],
      {
        env: { CC: "/nonexistent/cc" },
      },
    );
    expect(code).toBe(0);
    expect(stderr).toMatch(/^millrace: native backend not used: .*no C compiler was found.*\n$/);
    expect(JSON.parse(stdout).model.backend).toMatchObject({
      name: "wasm",
      reason: expect.stringContaining("no C compiler"),
    });
  });
});
