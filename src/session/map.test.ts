import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { openTiny } from "../../test/support/local-thread.js";
import { TestRandom } from "../../test/support/random.js";
import { full, kvmerger, sinks } from "../engine/policies.js";
import type { Model } from "./model.js";

const folder = mkdtempSync(join(tmpdir(), "millrace-map-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const models: Model[] = [];
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

async function open(): Promise<Model> {
  const model = await openTiny();
  models.push(model);
  return model;
}

const random = new TestRandom(11);
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.below(317));
const sum = (counts: readonly number[]): number => counts.reduce((all, count) => all + count, 0);

describe("the map of a session", () => {
  it("shows every token in memory where nothing goes", async () => {
    const session = (await open()).session({ cache: { policy: full() } });
    await session.append(tokens(95));
    const { seen, kept } = session.report;
    const { width, groups, ...map } = await session.map({ columns: 10 });
    expect([map.seen, kept]).toEqual([seen, seen]);
    expect(width).toBe(Math.ceil(seen / 10));
    for (const { memory, merged, disk, recalled } of groups) {
      expect(memory).toHaveLength(Math.ceil(seen / width));
      expect(memory.slice(0, -1).every((count) => count === width)).toBe(true);
      expect(sum(memory)).toBe(kept);
      expect(sum([...merged, ...disk, ...recalled])).toBe(0);
    }
  });

  it("shows a window's tokens at the end, sinks at the beginning, and nothing between", async () => {
    const session = (await open()).session({ cache: { policy: sinks({ window: 32, sinks: 4 }) } });
    await session.append(tokens(200));
    const { seen, kept, dropped } = session.report;
    expect(kept + dropped).toBe(seen);
    const { width, groups } = await session.map({ columns: 20 });
    for (const { memory, disk } of groups) {
      expect(sum(memory)).toBe(kept);
      expect(sum(disk)).toBe(0);
      expect(memory[0]).toBe(4);
      expect(memory[1]).toBe(0);
      expect(memory.at(-1)).toBe(seen - width * (memory.length - 1));
    }
  });

  it("shows what is on disk, and which of it was recalled", async () => {
    const session = (await open()).session({
      cache: { policy: sinks({ window: 32, sinks: 4 }) },
      recall: { disk: "1 MiB", dir: join(folder, "tier"), tokens: 32, auto: false },
    });
    const told = tokens(300);
    await session.append(told);
    await session.append(told.slice(100, 108));
    const { seen, kept, demoted } = session.report;
    expect(kept + demoted).toBe(seen);
    for (const { memory, disk, recalled } of (await session.map()).groups) {
      expect([sum(memory), sum(disk), sum(recalled)]).toEqual([kept, demoted, 0]);
    }
    const brought = await session.recall();
    expect(brought.tokens).toBeGreaterThan(0);
    for (const { disk, recalled } of (await session.map()).groups) {
      expect(sum(recalled)).toBe(brought.tokens);
      expect(recalled.every((count, i) => count <= disk[i]!)).toBe(true);
    }
  });

  it("counts merged tokens beside those that they are part of", async () => {
    const session = (await open()).session({ cache: { policy: kvmerger({ tokens: 48 }) } });
    await session.append(tokens(300));
    const { groups } = await session.inspect();
    const { groups: maps } = await session.map();
    expect(groups.some(({ merged }) => merged > 0)).toBe(true);
    for (const [i, { kept, merged, dropped }] of groups.entries()) {
      expect(sum(maps[i]!.memory)).toBe(kept);
      if (dropped === 0) expect(sum(maps[i]!.merged)).toBe(merged);
    }
  });

  it("refuses numbers of columns that are none", async () => {
    const session = (await open()).session();
    for (const columns of [0, 1.5, 5000]) {
      await expect(session.map({ columns })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    }
  });
});
