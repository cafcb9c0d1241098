import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createReference } from "../backends/reference/index.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { buildTape } from "../models/resolve.js";
import { measureHeads, measureStoredHeads, needHeadScores } from "./heads.js";
import { readHeads, storeHeads } from "./heads-file.js";

const CONTEXT = 48;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-heads-"));
  vi.stubEnv("MILLRACE_CACHE", join(folder, "cache"));
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

const at = (name: string): Checkpoint => ({
  ...tinyCheckpoint(tinyModel("llama"), "gguf"),
  path: join(folder, name),
});

describe("measureHeads", () => {
  it("gives every kv head the attention to earlier copies, and to what followed them", async () => {
    const checkpoint = at("a.gguf");
    const { tape } = await buildTape(checkpoint);
    const backend = createReference();
    const weights = await backend.load(tape, checkpoint);
    const { echo, induction } = await measureHeads(backend, tape, weights, CONTEXT);
    expect(echo.map((heads) => heads.length)).toEqual(tape.kv.map(({ numKvHeads }) => numKvHeads));
    // Of 48 tokens three are copies and three follow these; a model that knows nothing spreads its attention.
    for (const scores of [echo, induction]) {
      for (const score of scores.flat()) {
        expect(score).toBeGreaterThan(0);
        expect(score).toBeLessThan(1);
      }
    }
    const mean = (scores: number[]) => scores.reduce((sum, x) => sum + x, 0) / scores.length;
    expect(mean(induction.flat())).toBeLessThan(0.4);
    expect(await measureHeads(backend, tape, weights, CONTEXT)).toEqual({ echo, induction });
    weights.dispose();
  });
});

describe("a kv head that several query heads share", () => {
  it("counts by the one of them that looks back most", async () => {
    const backend = createReference();
    /** What the first kv head scores, with the queries of one of its two query heads gone, so that it looks at all alike. */
    const echoWithout = async (head: number | null): Promise<number> => {
      const model = tinyModel("llama");
      const name = "blk.0.attn_q.weight";
      const { shape, data } = model.tensors[name]!;
      const silenced = data.slice();
      if (head !== null) silenced.fill(0, head * 16 * shape[1]!, (head + 1) * 16 * shape[1]!);
      const tensors = { ...model.tensors, [name]: { shape, data: silenced } };
      const checkpoint = tinyCheckpoint({ ...model, tensors }, "gguf");
      const { tape } = await buildTape(checkpoint);
      expect(tape.kv[0]).toMatchObject({ numHeads: 4, numKvHeads: 2, headWidth: 16 });
      const weights = await backend.load(tape, checkpoint);
      return (await measureHeads(backend, tape, weights, CONTEXT)).echo[0]![0]!;
    };
    const [both, second, first] = [await echoWithout(null), await echoWithout(0), await echoWithout(1)];
    expect(first).not.toBeCloseTo(second, 3);
    expect(Math.max(first, second)).toBe(both);
  });
});

describe("what is stored of heads", () => {
  const NOTHING = { scores: null, gates: null };

  it("lies beside the model; scores are measured once, and hold for that model alone", async () => {
    const checkpoint = at("b.gguf");
    const { tape } = await buildTape(checkpoint);
    expect(await readHeads(checkpoint, tape)).toEqual(NOTHING);
    const backend = createReference();
    const load = vi.spyOn(backend, "load");
    await needHeadScores(checkpoint, backend);
    const { scores } = await readHeads(checkpoint, tape);
    await needHeadScores(checkpoint, backend);
    expect(load).toHaveBeenCalledTimes(1);
    expect((await measureStoredHeads(checkpoint, backend)).scores).toEqual(scores);
    // Another model at the same path.
    const other = { ...tinyCheckpoint(tinyModel("llama", 99), "gguf"), path: checkpoint.path };
    expect(await readHeads(other, tape)).toEqual(NOTHING);
    for (const wrong of ["", "null", "{}", '{"format":"millrace-heads-2"}']) {
      await writeFile(`${checkpoint.path}.heads.json`, wrong);
      expect(await readHeads(checkpoint, tape)).toEqual(NOTHING);
    }
  });

  it("lies in the cache folder where the model's cannot be written", async () => {
    const checkpoint = at("missing/c.gguf");
    const { tape } = await buildTape(checkpoint);
    const scores = { echo: tape.kv.map(() => [0.1, 0.2]), induction: tape.kv.map(() => [0.3, 0.4]) };
    const path = await storeHeads(checkpoint, { scores });
    expect(path.startsWith(join(folder, "cache", "heads"))).toBe(true);
    expect(JSON.parse(await readFile(path, "utf8"))).toMatchObject({ format: "millrace-heads-2", scores });
    expect(await readHeads(checkpoint, tape)).toEqual({ scores, gates: null });
  });

  it("keeps scores and gates side by side, and takes none of another shape", async () => {
    const checkpoint = at("d.gguf");
    const { tape } = await buildTape(checkpoint);
    const gates = tape.kv.map(() => [1, 0.25]);
    const scores = { echo: tape.kv.map(() => [0.1, 0.2]), induction: tape.kv.map(() => [0.3, 0.4]) };
    await storeHeads(checkpoint, { gates });
    expect(await readHeads(checkpoint, tape)).toEqual({ scores: null, gates });
    await storeHeads(checkpoint, { scores });
    expect(await readHeads(checkpoint, tape)).toEqual({ scores, gates });
    await storeHeads(checkpoint, { gates: [[1]] });
    expect(await readHeads(checkpoint, tape)).toEqual({ scores, gates: null });
  });
});
