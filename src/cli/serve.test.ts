import type { ChildProcess } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli, ending, start } from "../../test/support/cli.js";
import { tinyModel, writeTinyGguf } from "../../test/support/tiny-models.js";

/** Of a person's patience with the slowest machine, in milliseconds. */
const LONG = 120_000;

describe.skipIf(!built)("millrace serve (needs npm run build)", { timeout: LONG }, () => {
  let folder: string;
  let model: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-serve-"));
    model = await writeTinyGguf(tinyModel("llama"), folder);
  });
  afterAll(() => rm(folder, { recursive: true }));

  /** Where a server that was started says that it listens. */
  const urlOf = (child: ChildProcess): Promise<string> =>
    new Promise((resolve, reject) => {
      let text = "";
      child.stdout?.on("data", (part) => {
        text += part;
        const [url] = /http:\/\/[^ ]+/.exec(text) ?? [];
        if (url !== undefined) resolve(url);
      });
      child.on("close", () => reject(new Error(`it ended: ${text}`)));
    });
  const serve = (args: readonly string[], env?: Record<string, string>) =>
    start(["serve", "--port", "0", "--backend", "reference", ...args], env);

  it("serves models, logs requests, and ends with Ctrl-C", async () => {
    const child = serve([`one=${model}`, `two=${model}`, "--max-sequences", "2", "--sessions", folder]);
    const ended = ending(child);
    const url = await urlOf(child);
    const models = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
    expect(models.data.map(({ id }) => id)).toEqual(["one", "two"]);
    const response = await fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: "default", prompt: "the rest", max_tokens: 3, ignore_eos: true }),
    });
    expect(await response.json()).toMatchObject({ model: "one", usage: { completion_tokens: 3 } });
    const metrics = await (await fetch(`${url}/metrics`)).text();
    expect(metrics).toContain("nodejs_eventloop_lag_seconds");
    child.kill("SIGINT");
    const { code, stdout, stderr } = await ended;
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Millrace is listening on http:\/\/127\.0\.0\.1:\d+ .*no key needed/);
    expect(stdout).toContain("one (default): llama, reference");
    const logged = stderr
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line));
    expect(logged).toContainEqual(
      expect.objectContaining({ path: "/v1/completions", status: 200, model: "one", generatedTokens: 3 }),
    );
    expect(stderr).not.toContain("the rest");
  });

  it("has logged every request when it has ended", async () => {
    const child = serve([model]);
    const ended = ending(child);
    const url = await urlOf(child);
    const ids = Array.from({ length: 200 }, (_, i) => `request-${i}`);
    await Promise.all(
      ids.map(async (id) => {
        const response = await fetch(`${url}/v1/models`, { headers: { "X-Request-Id": id } });
        await response.text();
      }),
    );
    child.kill("SIGTERM");
    const { code, stderr } = await ended;
    expect(code).toBe(0);
    const logged = stderr
      .split("\n")
      .flatMap((line) => (line.startsWith("{") ? JSON.parse(line).request : []));
    expect(logged.sort()).toEqual(ids.sort());
  });

  it("takes keys from the environment and a file", async () => {
    const file = join(folder, "keys");
    await writeFile(file, "# ours\nfrom-file\n");
    const child = serve([model, "--api-key-file", file], { MILLRACE_API_KEY: "from-environment" });
    const ended = ending(child);
    const url = await urlOf(child);
    const status = async (key: string) =>
      (await fetch(`${url}/v1/models`, { headers: { Authorization: `Bearer ${key}` } })).status;
    expect([await status("from-file"), await status("from-environment"), await status("x")]).toEqual([
      200, 200, 401,
    ]);
    child.kill("SIGTERM");
    expect((await ended).code).toBe(0);
  });

  it.each([
    ["a port that is none", ["--port", "70000"], 2, "expected a port"],
    ["two models of one name", ["a=x.gguf", "a=y.gguf"], 2, "Two models"],
    ["the default's name", ["default=x.gguf"], 2, "always means the first"],
    ["a model that is not there", ["nowhere.gguf"], 3, "FILE_NOT_FOUND"],
    ["a file of keys that is not there", ["--api-key-file", "nowhere"], 3, "cannot be read"],
    ["a size that is none", ["--max-body", "big"], 2, "max-body"],
  ])("refuses %s", async (_, args, code, says) => {
    const result = await cli(["serve", ...args]);
    expect(result.code).toBe(code);
    expect(result.stderr).toContain(says);
  });
});
