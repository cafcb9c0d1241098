import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { openTiny } from "../../test/support/local-thread.js";
import { TestRandom } from "../../test/support/random.js";
import { createNull } from "../backends/null.js";
import type { Piece } from "../engine/generation.js";
import { full, h2o, kvmerger, sinks, window } from "../engine/policies.js";
import { SESSION_VERSION } from "../engine/sessions/file.js";
import { MillraceError } from "../errors.js";
import type { Model } from "./model.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-session-"));
});
afterAll(() => rm(folder, { recursive: true }));

const models: Model[] = [];
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

async function open(...of: Parameters<typeof openTiny>): Promise<Model> {
  const model = await openTiny(...of);
  models.push(model);
  return model;
}

const code = (name: string) => expect.objectContaining({ code: name });
const random = new TestRandom(5);
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.below(317));
async function collect(pieces: AsyncIterable<Piece>): Promise<number[]> {
  const all: number[] = [];
  for await (const piece of pieces) all.push(...piece.tokens);
  return all;
}
const drawn = { temperature: 1, seed: 3, repetitionPenalty: 1.2, ignoreEos: true } as const;

describe("save and restore", () => {
  it.each([
    ["what is chosen", undefined],
    ["everything kept", full()],
    ["sinks", sinks({ window: 40 })],
    ["a window", window({ tokens: 33 })],
    ["heavy hitters", h2o({ heavy: 16, recent: 16 })],
    ["merges", kvmerger({ tokens: 48 })],
  ])("goes on as if nothing had happened: %s", async (_, cache) => {
    const model = await open();
    const session = model.session({ ...(cache ? { cache } : {}), memory: "256 KiB" });
    await session.append(tokens(90));
    await collect(session.generate({ ...drawn, maxTokens: 10 }));
    const path = join(folder, "one.mill");
    const bytes = await session.save(path);
    expect((await readFile(path)).length).toBe(bytes);
    const other = await open();
    const restored = await other.restore(path);
    expect(restored.unfinished).toBe(false);
    expect(restored.report).toEqual(session.report);
    expect(await restored.opened).toMatchObject(await session.opened.then(({ report: _r, ...info }) => info));
    const more = tokens(50);
    for (const one of [session, restored]) await one.append(more);
    const want = await collect(session.generate({ ...drawn, maxTokens: 30 }));
    expect(await collect(restored.generate({ ...drawn, maxTokens: 30 }))).toEqual(want);
    expect(await restored.inspect()).toEqual(await session.inspect());
    // What follows can be saved in its place, and is the same file to the last byte.
    await session.save(path);
    const again = join(folder, "two.mill");
    await restored.save(again);
    expect(await readFile(again)).toEqual(await readFile(path));
  });

  it("goes on with an answer that was under way, wherever it stood", async () => {
    const model = await open();
    const prompt = tokens(30);
    for (const stopAt of [1, 2, 5, 17, 33]) {
      const session = model.session({ cache: sinks({ window: 40 }) });
      await session.append(prompt);
      const path = join(folder, "half.mill");
      const said: number[] = [];
      let saved: Promise<number> | null = null;
      const options = { ...drawn, logprobs: 1, maxTokens: 60, stop: "no such text" };
      for await (const piece of session.generate(options)) {
        said.push(...piece.tokens);
        if (said.length >= stopAt) saved ??= session.save(path);
      }
      await saved;
      const restored = await model.restore(path);
      expect(restored.unfinished).toBe(true);
      const answer = restored.resume();
      const rest = await collect(answer);
      expect(restored.unfinished).toBe(false);
      expect(rest.length).toBeGreaterThan(0);
      expect(rest.length).toBeLessThan(60);
      expect(rest).toEqual(said.slice(-rest.length));
      expect((await answer.result).finishReason).toBe("length");
      expect(restored.report).toEqual(session.report);
      // An answer that was neither ended nor taken up is still there after the next save.
      const kept = await model.restore(path);
      await kept.save(join(folder, "kept.mill"));
      expect((await model.restore(join(folder, "kept.mill"))).unfinished).toBe(true);
      for (const one of [session, restored, kept]) await one.close();
    }
  });

  it("stands still while it is saved, and takes up what came in the meantime", async () => {
    const model = await open(createNull);
    const session = model.session({ cache: sinks({ window: 40 }) });
    await session.append(tokens(100));
    const path = join(folder, "busy.mill");
    const saving = session.save(path);
    const appended = session.append(tokens(60));
    const rewound = session.rewind(155);
    const behind = session.append(tokens(5));
    await saving;
    await expect(appended).rejects.toThrow(/rewound/);
    expect(await rewound).toBe("exact");
    expect(await behind).toBe(5);
    expect((await model.restore(path)).report).toMatchObject({ seen: 99, waiting: 1 });
    expect(session.report).toMatchObject({ seen: 159, waiting: 1 });
  });

  it("holds a restored session to its memory", async () => {
    const model = await open(createNull);
    const session = model.session({ cache: full(), memory: "64 KiB" });
    await session.append(tokens(150));
    const path = join(folder, "memory.mill");
    await session.save(path);
    await expect(model.restore(path, { memory: "8 KiB" })).rejects.toThrow(code("OUT_OF_BUDGET"));
    const larger = await model.restore(path, { memory: "128 KiB" });
    expect((await larger.opened).capacity).toBeGreaterThan((await session.opened).capacity);
    expect(await larger.append(tokens(200))).toBe(200);
  });
});

describe("a session file", () => {
  const save = async (model: Model, path: string) => {
    const session = model.session({ cache: h2o({ heavy: 16, recent: 16 }) });
    await session.append(tokens(120));
    const answer = session.generate({ ...drawn, logprobs: 2, maxTokens: 200 });
    for (let i = 0; i < 10; i++) await answer.next();
    await session.save(path);
    await session.close();
    return readFile(path);
  };

  it("is refused with the reason: foreign, of another version, cut short, no such file", async () => {
    const model = await open(createNull);
    const path = join(folder, "good.mill");
    const bytes = await save(model, path);
    const other = await open(createNull, "qwen2");
    await expect(other.restore(path)).rejects.toThrow(code("WRONG_MODEL"));
    const bad = join(folder, "bad.mill");
    for (const version of [0, SESSION_VERSION + 1]) {
      const another = Buffer.from(bytes);
      another.writeUInt32LE(version, 8);
      another.writeUInt32LE(crc32(another.subarray(0, 32)), 32);
      await writeFile(bad, another);
      await expect(model.restore(bad)).rejects.toThrow(code("UNSUPPORTED_FORMAT"));
    }
    await writeFile(bad, Buffer.concat([bytes, Buffer.of(0)]));
    await expect(model.restore(bad)).rejects.toThrow(code("BAD_FORMAT"));
    for (let length = 0; length < bytes.length; length += 1 + random.below(400)) {
      await writeFile(bad, bytes);
      await truncate(bad, length);
      await expect(model.restore(bad)).rejects.toThrow(code("BAD_FORMAT"));
    }
    await expect(model.restore(join(folder, "none.mill"))).rejects.toThrow(code("FILE_NOT_FOUND"));
    await expect(model.restore(folder)).rejects.toThrow(code("FILE_NOT_FOUND"));
    await expect(model.restore("")).rejects.toThrow(code("INVALID_ARGUMENT"));
    expect((await model.usage()).running).toBe(0);
  });

  it("is read in version 1, which knew no adapters", async () => {
    const model = await open(createNull);
    const bytes = await save(model, join(folder, "now.mill"));
    const manifestBytes = bytes.readUInt32LE(12);
    const { adapter, ...older } = JSON.parse(bytes.toString("utf8", 36, 36 + manifestBytes));
    expect(adapter).toBeNull();
    const manifest = Buffer.from(JSON.stringify(older));
    const head = Buffer.from(bytes.subarray(0, 36));
    head.writeUInt32LE(1, 8);
    head.writeUInt32LE(manifest.length, 12);
    head.writeUInt32LE(crc32(manifest), 24);
    head.writeUInt32LE(crc32(head.subarray(0, 32)), 32);
    const path = join(folder, "then.mill");
    await writeFile(path, Buffer.concat([head, manifest, bytes.subarray(36 + manifestBytes)]));
    const restored = await model.restore(path);
    expect((await restored.opened).adapter).toBeNull();
    const want = await collect((await model.restore(join(folder, "now.mill"))).resume());
    expect(want.length).toBeGreaterThan(100);
    expect(await collect(restored.resume())).toEqual(want);
  });

  it("is refused after any flip of a bit", async () => {
    const model = await open(createNull);
    const bytes = await save(model, join(folder, "flip.mill"));
    const bad = join(folder, "flipped.mill");
    for (let round = 0; round < 1000; round++) {
      const at = round < 36 * 8 ? round >> 3 : random.below(bytes.length);
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 1 << (round % 8);
      await writeFile(bad, damaged);
      const error = await model.restore(bad).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(MillraceError);
      expect((error as MillraceError).code).toBe("BAD_FORMAT");
    }
  });

  it("is never trusted: with checksums made to fit, it is refused or restores to a session that works", async () => {
    const model = await open(createNull);
    const bytes = await save(model, join(folder, "fit.mill"));
    const manifestBytes = bytes.readUInt32LE(12);
    const bad = join(folder, "fitted.mill");
    let refused = 0;
    for (let round = 0; round < 400; round++) {
      const damaged = Buffer.from(bytes);
      const end = round % 3 === 0 ? damaged.length : 36 + manifestBytes + 4000;
      const at = 36 + random.below(Math.min(end, damaged.length) - 36);
      // Digits for digits in the manifest, so that much of it stays JSON.
      if (at < 36 + manifestBytes && round % 2 === 0) damaged[at] = 0x30 + random.below(10);
      else damaged[at] = random.below(256);
      damaged.writeUInt32LE(crc32(damaged.subarray(36, 36 + manifestBytes)), 24);
      damaged.writeUInt32LE(crc32(damaged.subarray(36 + manifestBytes)), 28);
      damaged.writeUInt32LE(crc32(damaged.subarray(0, 32)), 32);
      await writeFile(bad, damaged);
      try {
        const session = await model.restore(bad);
        await session.append(tokens(5));
        const { seen, kept, merged, demoted, dropped } = session.report;
        expect(kept + merged + demoted + dropped).toBe(seen);
        if (session.unfinished) {
          for await (const piece of session.resume()) if (piece.index > 2) break;
        }
        await session.close();
      } catch (error) {
        expect(error).toBeInstanceOf(MillraceError);
        expect((error as MillraceError).code).not.toBe("INTERNAL");
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(100);
    expect(await model.usage()).toMatchObject({ running: 0, waiting: 0 });
    expect((await readdir(folder)).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });
});
