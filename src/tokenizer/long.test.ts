/** Whole novels: the same ids as llama.cpp's (digests by test/oracles/tokenizer.js), and back to the same text. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { outside, stories } from "../../test/support/outside.js";
import { bpeTokenizer } from "../../test/support/tokenizers.js";
import { openGguf } from "../formats/gguf.js";
import type { Tokenizer } from "./contract.js";
import { resolveTokenizer } from "./resolve.js";

const repository = new URL("../../", import.meta.url);
const NOVEL = outside("text/war-and-peace.txt");
const read = (path: string) => readFileSync(new URL(path, repository), "utf8");

describe.skipIf(!existsSync(NOVEL) || !stories.here)("War and Peace (needs it, and stories260K)", () => {
  const novel = () => readFileSync(NOVEL, "utf8");
  const answers = JSON.parse(read("test/fixtures/tokenizer/long.json")) as Record<
    string,
    { count: number; sha256: string }
  >;
  const check = (tokenizer: Tokenizer, name: string) => {
    const text = novel();
    const ids = tokenizer.encode(text, { addSpecial: false });
    expect({ count: ids.length, sha256: createHash("sha256").update(ids).digest("hex") }).toEqual(
      answers[name],
    );
    expect(tokenizer.decode(ids) === text).toBe(true);
  };

  it("stories260K", async () => {
    await using checkpoint = await openGguf(stories.path);
    const tokenizer = resolveTokenizer(checkpoint.tokenizer)!;
    check(tokenizer, "stories260K");
    expect([tokenizer.bosId, tokenizer.eosId, [...tokenizer.eosIds], tokenizer.addsBos]).toEqual([
      1,
      2,
      [2],
      true,
    ]);
  });

  it("stories260K's golden ids are its golden text", async () => {
    await using checkpoint = await openGguf(stories.path);
    const tokenizer = resolveTokenizer(checkpoint.tokenizer)!;
    const golden = stories.golden();
    // The golden text keeps the space that encoding puts before a text.
    expect(` ${tokenizer.decode(golden.greedy_ids)}`).toBe(golden.text);
  });

  it.each(Object.keys(answers).filter((name) => name !== "stories260K"))("%s", (name) => {
    check(bpeTokenizer(name), name);
  });
});
