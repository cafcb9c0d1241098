import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TapeRunner } from "../../test/support/run-tape.js";
import {
  tinyModel,
  tinyPrompt,
  writeTinyGguf,
  writeTinySafetensors,
} from "../../test/support/tiny-models.js";
import { createReference } from "../backends/reference/index.js";
import { openCheckpoint } from "../formats/open.js";
import { readAdapter } from "../models/peft.js";
import { type FinetuneOptions, finetune } from "./finetune.js";
import { textFiles } from "./training-data.js";

let folder = "";
let data: FinetuneOptions["data"];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-finetune-"));
  const path = join(folder, "text.txt");
  await writeFile(path, "The rain in the inn was a thin rain. ".repeat(80));
  data = textFiles([path], { seed: 1, heldOut: 0.1 });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const options = (model: string, out: string, changes: Partial<FinetuneOptions> = {}): FinetuneOptions => ({
  model,
  data,
  out,
  steps: 14,
  length: 16,
  batchTokens: 64,
  warmup: 2,
  rate: 1e-2,
  backend: "reference",
  evaluation: null,
  ...changes,
});

async function logits(path: string): Promise<Float32Array> {
  await using checkpoint = await openCheckpoint(path);
  using runner = await TapeRunner.open(createReference(), checkpoint);
  return (await runner.evaluate(tinyPrompt(12))).at(-1)!;
}

describe("finetune", () => {
  it.each(["lora", "paca"] as const)(
    "lowers the loss with %s on a quantised model, and merges it",
    async (kind) => {
      const model = await writeTinyGguf(tinyModel("llama"), join(folder, kind), { type: "Q8_0" });
      const out = join(folder, `${kind}-adapter`);
      const merged = join(folder, `${kind}-merged.gguf`);
      const result = await finetune(
        options(model, out, { adapter: { kind, rank: 8 }, merge: { path: merged, type: "F32" } }),
      );
      const { train } = result.curve;
      expect(train).toHaveLength(14);
      expect(result.loss).toBeLessThan(train[0]! - 1);
      expect(result.merged).toBe(merged);
      expect((await readdir(out)).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
      await using base = await openCheckpoint(model);
      const adapter = await readAdapter(out, base);
      const numbers = [...adapter.values()].reduce(
        (sum, { rank, rows, columns }) => sum + rank * (kind === "lora" ? rows + columns : rows),
        0,
      );
      expect(result.parameters).toBe(numbers);
      expect(await logits(merged)).not.toEqual(await logits(model));
    },
  );

  it("goes on from a checkpoint to the same bits", async () => {
    const model = await writeTinyGguf(tinyModel("llama"), join(folder, "resume"), { type: "Q4_0" });
    const checkpoint = { folder: join(folder, "resume.training"), every: 3 };
    const spec = { adapter: { kind: "lora", rank: 4, targets: ["q_proj", "v_proj"] } as const, steps: 6 };
    const whole = await finetune(options(model, join(folder, "whole"), spec));
    const stop = new AbortController();
    const interrupted = finetune(
      options(model, join(folder, "part"), {
        ...spec,
        checkpoint,
        signal: stop.signal,
        onEvent: (event) => event.kind === "step" && event.step === 3 && stop.abort(),
      }),
    );
    await expect(interrupted).rejects.toMatchObject({ code: "ABORTED" });
    await expect(
      finetune(options(model, join(folder, "part"), { ...spec, checkpoint })),
    ).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    const resume = { ...checkpoint, resume: true };
    const other = { ...spec, adapter: { ...spec.adapter, rank: 5 } };
    await expect(
      finetune(options(model, join(folder, "part"), { ...other, checkpoint: resume })),
    ).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    const otherModel = await writeTinyGguf(tinyModel("llama"), join(folder, "resume-other"), {
      type: "Q8_0",
    });
    await expect(
      finetune(options(otherModel, join(folder, "part"), { ...spec, checkpoint: resume })),
    ).rejects.toMatchObject({ message: expect.stringContaining("(model: ") });
    const resumed = await finetune(options(model, join(folder, "part"), { ...spec, checkpoint: resume }));
    expect(resumed.curve).toEqual(whole.curve);
    await using base = await openCheckpoint(model);
    expect(await readAdapter(join(folder, "part"), base)).toEqual(
      await readAdapter(join(folder, "whole"), base),
    );
  });

  it("merges into a folder of safetensors where the model is one", async () => {
    const model = await writeTinySafetensors(tinyModel("qwen2"), join(folder, "safetensors"));
    const merged = join(folder, "qwen2-merged");
    await finetune(options(model, join(folder, "qwen2"), { steps: 2, merge: { path: merged } }));
    expect((await readdir(merged)).sort()).toEqual([
      "config.json",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    expect(await logits(merged)).not.toEqual(await logits(model));
  });

  it("refuses what cannot be", async () => {
    const model = await writeTinyGguf(tinyModel("llama"), folder);
    const refuse = async (changes: object, code = "INVALID_ARGUMENT") =>
      expect((async () => finetune(options(model, join(folder, "no"), changes)))()).rejects.toMatchObject({
        code,
      });
    await refuse({ adapter: "dora" });
    await refuse({ adapter: { kind: "lora", rank: 1000 } });
    await refuse({ adapter: { kind: "lora", ranks: 3 } });
    await refuse({ out: "" });
    await refuse({ rank: 4 });
    await refuse({ data: "text.txt" });
    await refuse({ model: join(folder, "absent.gguf") }, "FILE_NOT_FOUND");
    // Before it trains, not after.
    const late = { onEvent: () => expect.unreachable() };
    await refuse({ out: model, ...late });
    await refuse({ merge: { path: folder }, ...late });
    const huggingFace = await writeTinySafetensors(tinyModel("qwen2"), join(folder, "late"));
    const merge = { path: join(folder, "late-merged"), type: "Q8_0" };
    await refuse({ model: huggingFace, merge, ...late });
  });
});
