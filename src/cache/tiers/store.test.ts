import { spawn } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import { contentsOf, HEAD_BYTES, RECORD_BYTES, spanOf } from "../../../test/support/tier-writer.js";
import { MillraceError } from "../../errors.js";
import { FILE_HEAD_BYTES, headBytesFor, recordBytesFor } from "./files.js";
import { BlockStore, type Loss, openStore, type StoreOptions } from "./store.js";
import { copyFolder } from "./store-files.js";

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "millrace-store-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

let folders = 0;
function makeOptions(options: Partial<StoreOptions> = {}): StoreOptions {
  const folder = mkdtempSync(join(root, `${folders++}-`));
  return {
    folder,
    fingerprint: "test",
    recordBytes: [RECORD_BYTES],
    headBytes: [HEAD_BYTES],
    budgetBytes: 2 ** 20,
    queueBytes: 2 ** 16,
    ...options,
  };
}

function fill(store: BlockStore, count: number): (number | null)[] {
  return Array.from({ length: count }, (_, i) => {
    const { meta, payload } = contentsOf(i);
    return store.append(0, spanOf(i), meta, payload);
  });
}

const diskBytes = (folder: string): number =>
  readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);

async function codeOf(act: () => unknown): Promise<string> {
  try {
    await act();
  } catch (error) {
    if (error instanceof MillraceError) return error.code;
    throw error;
  }
  return "nothing thrown";
}

describe("BlockStore", () => {
  it("gives back what it was given, written or still queued, at any time and in any order", async () => {
    const sizes = [recordBytesFor(40, 500), recordBytesFor(9, 70)];
    const losses: Loss[] = [];
    const store = new BlockStore(
      makeOptions({
        recordBytes: sizes,
        headBytes: [40, 9].map(headBytesFor),
        budgetBytes: 200_000,
        queueBytes: 3000,
      }),
      (loss) => losses.push(loss),
    );
    const random = new TestRandom(1);
    const kept = new Map<number, { group: number; meta: Uint8Array; payload: Uint8Array }>();
    for (let round = 0; round < 600; round++) {
      const group = random.below(2);
      const meta = Uint8Array.from(random.floats(random.below([41, 10][group]!), 100));
      const payload = Uint8Array.from(random.floats(random.below([501, 71][group]!), 100));
      const serial = store.append(group, spanOf(round), meta, payload)!;
      expect(serial).toBe(round);
      kept.set(serial, { group, meta, payload });
      for (const lost of losses.splice(0)) {
        expect(lost.error).toBeNull();
        for (const each of lost.serials) expect(kept.delete(each)).toBe(true);
        expect(lost.spans).toEqual(lost.serials.map(spanOf));
      }
      expect(store.usage().diskBytes).toBeLessThanOrEqual(200_000);
      expect(store.usage().queuedBytes).toBeLessThanOrEqual(3000);
      if (round % 50 !== 0) continue;
      for (const which of [0, 1]) {
        const wanted = [...kept].filter(([, each]) => each.group === which).map(([each]) => each);
        const order = random.permutation(wanted.length).map((i) => wanted[i]!);
        const records = await store.read(which, order);
        for (const [i, record] of records.entries()) {
          expect(record).toMatchObject({ serial: order[i], ...spanOf(order[i]!) });
          expect(record!.meta).toEqual(kept.get(order[i]!)!.meta);
          expect(record!.payload).toEqual(kept.get(order[i]!)!.payload);
        }
      }
    }
    expect(kept.size).toBeLessThan(500);
    expect(kept.size).toBeGreaterThan(100);
    await store.settle();
    expect(store.usage().queuedBytes).toBe(0);
    expect(diskBytes(store.folder)).toBeLessThanOrEqual(200_000);
    await store.dispose(true);
    expect(await codeOf(() => copyFolder(store.folder, join(root, "none")))).toBe("FILE_NOT_FOUND");
  });

  it("pushes out whole files, oldest first, and says which records went with them", async () => {
    const losses: Loss[] = [];
    const options = makeOptions({ budgetBytes: 10 * RECORD_BYTES + 2 * FILE_HEAD_BYTES });
    const store = new BlockStore(options, (loss) => losses.push(loss));
    fill(store, 30);
    const gone = losses.flatMap(({ serials }) => serials);
    expect(gone).toEqual(gone.map((_, i) => i));
    for (let serial = 0; serial < 30; serial++) expect(store.has(0, serial)).toBe(serial >= gone.length);
    expect(await store.read(0, [0])).toEqual([null]);
    await store.dispose(false);
  });

  it("refuses a budget that holds next to nothing", async () => {
    const options = makeOptions({ budgetBytes: RECORD_BYTES });
    expect(await codeOf(() => new BlockStore(options, () => {}))).toBe("OUT_OF_BUDGET");
  });

  it("counts a damaged record as lost, once, and still reads all others", async () => {
    const options = makeOptions();
    const losses: Loss[] = [];
    const store = new BlockStore(options, (loss) => losses.push(loss));
    fill(store, 12);
    await store.settle();
    const random = new TestRandom(3);
    for (const name of readdirSync(options.folder)) {
      const bytes = readFileSync(join(options.folder, name));
      for (let at = FILE_HEAD_BYTES; at < bytes.length; at += 3 * RECORD_BYTES) {
        bytes[at + 64 + random.below(3000)]! ^= 1 << random.below(8);
      }
      writeFileSync(join(options.folder, name), bytes);
    }
    const records = await store.read(
      0,
      Array.from({ length: 12 }, (_, i) => i),
    );
    const lost = records.flatMap((record, i) => (record ? [] : [i]));
    expect(lost.length).toBeGreaterThan(0);
    expect(losses.flatMap(({ serials }) => serials).sort((a, b) => a - b)).toEqual(lost);
    expect(losses.every(({ error }) => error?.code === "BAD_FORMAT")).toBe(true);
    // Also those of files before one that lost its first.
    for (let serial = 0; serial < 12; serial++) expect(store.has(0, serial)).toBe(!lost.includes(serial));
    losses.length = 0;
    expect(await store.read(0, lost)).toEqual(lost.map(() => null));
    expect(losses).toEqual([]);
    await store.dispose(false);
  });

  it("goes on where its folder is deleted, and says what was lost", async () => {
    const losses: Loss[] = [];
    const options = makeOptions({ budgetBytes: 40 * RECORD_BYTES });
    const store = new BlockStore(options, (loss) => losses.push(loss));
    fill(store, 3);
    await store.settle();
    rmSync(options.folder, { recursive: true });
    expect(await store.read(0, [0, 2])).toEqual([null, null]);
    expect(losses.map(({ serials, error }) => [serials, error?.code])).toEqual([
      [[0], "FILE_NOT_FOUND"],
      [[2], "FILE_NOT_FOUND"],
    ]);
    losses.length = 0;
    // The file that was open when the folder went takes what it has room for; the next one stands in a new folder.
    fill(store, 20);
    await store.settle();
    expect(losses).toEqual([]);
    const copy = join(root, "what-is-left");
    await store.copyTo(copy);
    const gone = new Set([0, 2, ...losses.flatMap(({ serials }) => serials)]);
    expect(gone).toContain(1);
    expect(losses.every(({ error }) => error?.code === "FILE_NOT_FOUND")).toBe(true);
    const left = Array.from({ length: 23 }, (_, serial) => serial).filter((serial) => !gone.has(serial));
    expect(left.length).toBeGreaterThan(0);
    expect(openStore({ ...options, folder: copy }, () => {}).found.map(({ serial }) => serial)).toEqual(left);
    expect((await store.read(0, left)).every((record) => record !== null)).toBe(true);
    await store.dispose(true);
  });

  it("makes no folder where those above it are gone too", async () => {
    const losses: Loss[] = [];
    const { folder } = makeOptions();
    const options = makeOptions({ folder: join(folder, "tier") });
    mkdirSync(options.folder);
    const store = new BlockStore(options, (loss) => losses.push(loss));
    rmSync(folder, { recursive: true });
    expect(fill(store, 2)).toEqual([null, null]);
    expect(losses.map(({ serials, error }) => [serials, error?.code])).toEqual([
      [[0], "WRITE_FAILED"],
      [[1], "WRITE_FAILED"],
    ]);
    await store.dispose(true);
  });

  it("opens what another has left, adds to it in files of its own, and leaves copies alone", async () => {
    const options = makeOptions();
    const first = new BlockStore(options, () => {});
    fill(first, 10);
    const copy = join(root, "copy");
    await first.copyTo(copy);
    fill(first, 7);
    await first.settle();
    const { store, found } = openStore({ ...options, folder: copy }, () => {});
    const serials = found.map(({ serial }) => serial);
    expect(serials).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    for (const { serial, meta } of found) expect(meta).toEqual(contentsOf(serial).meta);
    const next = store.append(0, spanOf(99), new Uint8Array(4), new Uint8Array(5))!;
    expect(next).toBeGreaterThanOrEqual(10);
    await store.settle();
    expect((await store.read(0, [next, 4])).map((record) => record?.payload.length)).toEqual([5, 3000]);
    expect((await first.read(0, [16]))[0]?.serial).toBe(16);
    expect(await codeOf(() => openStore({ ...options, folder: copy, fingerprint: "other" }, () => {}))).toBe(
      "BAD_FORMAT",
    );
    await first.dispose(true);
    expect((await store.read(0, [9]))[0]?.payload).toEqual(contentsOf(9).payload);
    await store.dispose(true);
  });

  it("adds no more to a large file that it has linked", async () => {
    const options = makeOptions({ budgetBytes: 2 ** 28 });
    const first = new BlockStore(options, () => {});
    fill(first, 400);
    expect(first.usage()).toMatchObject({ files: 1 });
    expect(first.usage().diskBytes).toBeGreaterThan(2 ** 20);
    const copy = join(root, "large");
    await first.copyTo(copy);
    fill(first, 3);
    await first.settle();
    expect(first.usage().files).toBe(2);
    const { store, found } = openStore({ ...options, folder: copy }, () => {});
    expect(found.length).toBe(400);
    expect((await first.read(0, [399, 400, 402])).map((record) => record?.serial)).toEqual([399, 400, 402]);
    await store.dispose(true);
    await first.dispose(true);
  });

  it("finds all whole records of a folder where some are damaged, in whatever place of a file", async () => {
    const options = makeOptions({ budgetBytes: 20 * RECORD_BYTES });
    const first = new BlockStore(options, () => {});
    fill(first, 10);
    await first.dispose(false);
    const names = readdirSync(options.folder).sort();
    expect(names.length).toBeGreaterThan(2);
    const gone: number[] = [];
    let serial = 0;
    for (const [i, name] of names.entries()) {
      const bytes = readFileSync(join(options.folder, name));
      const places = Math.ceil((bytes.length - FILE_HEAD_BYTES) / RECORD_BYTES);
      // Of each file the first i records.
      for (let place = 0; place < Math.min(i, places - 1); place++) {
        bytes[FILE_HEAD_BYTES + place * RECORD_BYTES + 20]! ^= 255;
        gone.push(serial + place);
      }
      writeFileSync(join(options.folder, name), bytes);
      serial += places;
    }
    expect(serial).toBe(10);
    const whole = Array.from({ length: 10 }, (_, each) => each).filter((each) => !gone.includes(each));
    const { store, found } = openStore(options, () => {});
    expect(found.map((record) => record.serial)).toEqual(whole);
    expect((await store.read(0, whole)).map((record) => record?.serial)).toEqual(whole);
    await store.dispose(true);
  });

  it("leaves out a torn end, wherever it was torn", async () => {
    const options = makeOptions({ budgetBytes: 64 * 20 * RECORD_BYTES });
    const store = new BlockStore(options, () => {});
    fill(store, 5);
    await store.dispose(false);
    const [name] = readdirSync(options.folder);
    const path = join(options.folder, name!);
    const random = new TestRandom(8);
    for (let size = statSync(path).size; size > 0; size -= 1 + random.below(2000)) {
      truncateSync(path, size);
      const { found } = openStore(options, () => {});
      const whole = Math.floor((size - FILE_HEAD_BYTES + 63) / RECORD_BYTES);
      expect(Math.abs(found.length - Math.max(0, whole))).toBeLessThanOrEqual(
        size % RECORD_BYTES < 64 ? 1 : 0,
      );
      for (const [i, { serial }] of found.entries()) expect(serial).toBe(i);
    }
  });
});

it("keeps every written record of a process that is killed at any moment", { timeout: 600_000 }, async () => {
  const out = join(root, "writer");
  await build({
    logLevel: "silent",
    configFile: false,
    build: { ssr: join(import.meta.dirname, "../../../test/support/tier-writer.ts"), outDir: out },
  });
  const module = pathToFileURL(
    join(out, readdirSync(out).find((name) => name.startsWith("tier-writer"))!),
  ).href;
  const random = new TestRandom(5);
  for (let round = 0; round < 12; round++) {
    const options = makeOptions({ budgetBytes: 64 * 2 ** 20 });
    const code = `import(${JSON.stringify(module)}).then((m) => m.fill(${JSON.stringify(options.folder)}))`;
    const child = spawn(process.execPath, ["-e", code], { stdio: ["ignore", "pipe", "inherit"] });
    let told = "";
    const patience = random.below(600);
    await new Promise<void>((resolve) => {
      child.stdout.on("data", (chunk: Buffer) => {
        told += chunk.toString();
        if (told.length > patience) child.kill("SIGKILL");
      });
      child.on("close", () => resolve());
    });
    const surely = Number(told.slice(0, told.lastIndexOf("\n")).split("\n").at(-1));
    const { store, found } = openStore(options, () => {});
    // A process that is killed late may have filled its budget: what it pushed out went from the oldest on.
    const first = found[0]!.serial;
    expect(found.map(({ serial }) => serial)).toEqual(found.map((_, i) => first + i));
    expect(found.at(-1)!.serial).toBeGreaterThanOrEqual(surely);
    if (first > 0) expect(found.length * RECORD_BYTES).toBeGreaterThan(0.9 * options.budgetBytes);
    const some = found.filter(({ serial }, i) => serial > surely || i % 37 === 0);
    const records = await store.read(
      0,
      some.map(({ serial }) => serial),
    );
    for (const [i, { serial, meta }] of some.entries()) {
      expect(meta).toEqual(contentsOf(serial).meta);
      expect(records[i]!.payload).toEqual(contentsOf(serial).payload);
    }
    await store.dispose(true);
  }
});
