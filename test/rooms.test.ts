/** The house's one structural rule: imports run downwards only, and never in a circle. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { describe, expect, it } from "vitest";

const SRC = resolve(import.meta.dirname, "../src");

/** Rooms from the ground up; a room may import from any room on a lower floor, and from itself. */
const FLOORS: readonly (readonly string[])[] = [
  ["errors.ts", "plot"],
  ["formats"],
  ["tokenizer", "world"],
  ["tape", "cache/codecs"],
  ["backends"],
  ["models", "cache", "sampling"],
  ["scheduler", "decoding"],
  ["engine"],
  ["session"],
  ["train"],
  ["evaluate", "batch"],
  ["index.ts"],
  ["ai-sdk", "bench", "server"],
  ["cli"],
];

const floorOf = new Map(FLOORS.flatMap((rooms, floor) => rooms.map((room) => [room, floor] as const)));

function roomOf(file: string): string {
  const path = relative(SRC, file);
  const room = [...floorOf.keys()]
    .filter((name) => path === name || path.startsWith(`${name}/`))
    .sort((a, b) => b.length - a.length)[0];
  if (!room) throw new Error(`src/${path} lies in no room; give its folder a floor in test/rooms.test.ts`);
  return room;
}

const sources = readdirSync(SRC, { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".ts") && !name.endsWith(".test.ts"))
  .map((name) => join(SRC, name));

/** Files that `file` imports, types included: a type pulled upwards is a circle as well. */
function importsOf(file: string): string[] {
  const text = readFileSync(file, "utf8");
  return [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map(([, path]) =>
    resolve(dirname(file), path!.replace(/\.js$/, ".ts")),
  );
}

describe("rooms", () => {
  it("import downwards only", () => {
    const upward = sources.flatMap((file) =>
      importsOf(file)
        .filter((target) => {
          const [from, to] = [roomOf(file), roomOf(target)];
          return from !== to && floorOf.get(to)! >= floorOf.get(from)!;
        })
        .map((target) => `${relative(SRC, file)} imports ${relative(SRC, target)}`),
    );
    expect(upward).toEqual([]);
  });

  it("hold no circle of files", () => {
    const done = new Set<string>();
    const circles: string[] = [];
    const visit = (file: string, path: readonly string[]): void => {
      const at = path.indexOf(file);
      if (at >= 0) circles.push([...path.slice(at), file].map((name) => relative(SRC, name)).join(" -> "));
      if (at >= 0 || done.has(file)) return;
      for (const target of importsOf(file)) visit(target, [...path, file]);
      done.add(file);
    };
    for (const file of sources) visit(file, []);
    expect(circles).toEqual([]);
  });

  it("see every import (the pattern finds known ones)", () => {
    expect(importsOf(join(SRC, "tape/tape.ts"))).toContain(join(SRC, "errors.ts"));
  });
});
