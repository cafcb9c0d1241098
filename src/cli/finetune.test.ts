import { mkdtempSync, readdirSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli } from "../../test/support/cli.js";
import { tinyModel, writeTinyGguf } from "../../test/support/tiny-models.js";

describe.skipIf(!built)("millrace finetune (needs npm run build)", () => {
  let folder: string;
  let model: string;
  let text: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "millrace-finetune-cli-"));
    model = await writeTinyGguf(tinyModel("llama"), folder, { type: "Q8_0" });
    text = join(folder, "text.txt");
    await writeFile(text, "The boat is red. The boat is at the pier. The pier is wet.\n".repeat(60));
  });
  afterAll(() => rm(folder, { recursive: true }));
  const run = (source: string, ...more: string[]) =>
    cli([
      ...["run", source, "--prompt", "The boat", "--max-tokens", "12", "--temperature", "0"],
      ...["--backend", "reference", "--codec", "f32", "--ignore-eos", "--json", ...more],
    ]);

  it("writes an adapter that changes what the model says as the merged model does", async () => {
    const out = join(folder, "boats");
    const merged = join(folder, "merged.gguf");
    const { code, stdout, stderr } = await cli([
      ...["finetune", model, "--data", text, "--out", out, "--merge", merged, "--type", "F32", "--json"],
      ...["--steps", "6", "--length", "16", "--batch", "64", "--rate", "0.02", "--rank", "4"],
      ...["--backend", "reference"],
    ]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("6 steps")]);
    expect(JSON.parse(stdout)).toMatchObject({ out, merged, steps: 6, curve: `${out}.svg` });
    expect(readdirSync(out).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
    const said = async (...parameters: Parameters<typeof run>) => {
      const answer = await run(...parameters);
      expect([answer.code, answer.stderr]).toEqual([0, ""]);
      return JSON.parse(answer.stdout).tokens;
    };
    const adapted = await said(model, "--adapter", out);
    expect(adapted).toEqual(await said(merged));
    expect(adapted).not.toEqual(await said(model));
  });

  it("says what it needs", async () => {
    const wrong = async (exit: number, part: string, ...args: string[]) => {
      const { code, stderr } = await cli(["finetune", model, ...args]);
      expect([code, stderr]).toEqual([exit, expect.stringContaining(part)]);
    };
    await wrong(2, "--data", "--out", "x");
    await wrong(2, "--steps", "--data", text, "--out", join(folder, "x"));
    await wrong(2, "lora, paca", "--data", text, "--out", "x", "--steps", "1", "--adapter", "dora");
    await wrong(3, "absent.txt", "--data", "absent.txt", "--out", join(folder, "x"), "--steps", "1");
    const { code, stderr } = await run(model, "--adapter", join(folder, "absent"));
    expect([code, stderr]).toEqual([3, expect.stringContaining("absent")]);
  });
});
