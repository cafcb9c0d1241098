/** What the documents claim about the code, where a machine can check it. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { ERRORS } from "../src/errors.js";

const ROOT = resolve(import.meta.dirname, "..");
const read = (path: string) => readFileSync(resolve(ROOT, path), "utf8");

describe("docs/errors.md", () => {
  const sections = new Map(
    [...read("docs/errors.md").matchAll(/^## (\w+)\n\n(.+)\n\n(.+)$/gm)].map(
      ([, code, summary, remedy]) => [code!, { summary: summary!, remedy: remedy! }] as const,
    ),
  );

  it("has a section for every code of the table, in its order, and no other", () => {
    expect([...sections.keys()]).toEqual(Object.keys(ERRORS));
  });

  it.each(Object.entries(ERRORS))(
    "says of %s what the table says, and what to do",
    (code, { exit, summary }) => {
      expect(sections.get(code)?.summary).toBe(`Exit code ${exit}. ${summary}`);
      expect(sections.get(code)?.remedy.length).toBeGreaterThan(20);
    },
  );
});

describe("paths in the documents", () => {
  const documents = [
    "README.md",
    "CONTRIBUTING.md",
    ...readdirSync(resolve(ROOT, "docs")).map((f) => `docs/${f}`),
  ];

  it.each(documents.filter((name) => name.endsWith(".md")))("%s names only files that exist", (name) => {
    const named = [...read(name).matchAll(/`((?:src|kernels|test|bench|docs|scripts|bin)\/[\w./-]*)`/g)].map(
      ([, path]) => path!,
    );
    expect(named.filter((path) => !existsSync(resolve(ROOT, path)))).toEqual([]);
  });

  it("docs/walk.md names functions that exist where it says", () => {
    const claims = [
      ...read("docs/walk.md").matchAll(/`([\w#.]+)` in\s+`(src\/[\w./-]+\.ts|kernels\/[\w./-]+\.[ch])`/g),
    ];
    expect(claims.length).toBeGreaterThan(10);
    const wrong = claims.filter(([, name, file]) => {
      const last = name!.split(/[.#]/).at(-1)!;
      return !new RegExp(`\\b${last}\\b`).test(read(file!));
    });
    expect(wrong.map(([claim]) => claim)).toEqual([]);
  });
});
