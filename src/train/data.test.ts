import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bpeTokenizer, spmTokenizer } from "../../test/support/tokenizers.js";
import { openTextData, packText, type TextDataOptions, type Window } from "./data.js";
import { readTextPieces } from "./text-files.js";

const tokenizer = bpeTokenizer("gpt-2");
const OPTIONS: TextDataOptions = { windowLength: 16, seed: 3, firstToken: 7, separator: 9 };
const TEXT = Array.from({ length: 60 }, (_, i) => `Line ${i}: the boat number ${i * i} came in.`).join("\n");

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-data-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
const file = async (name: string, content: string | Uint8Array): Promise<string> => {
  await writeFile(join(folder, name), content);
  return join(folder, name);
};
const ids = (text: string) => [...tokenizer.encode(text, { addSpecial: false })];
const collect = async (pieces: AsyncIterable<string>) => {
  const list: string[] = [];
  for await (const piece of pieces) list.push(piece);
  return list;
};

describe("packText", () => {
  it("cuts the stream of documents into windows that begin with one token and hold no padding", async () => {
    const { train, numTokens, heldOut } = await packText([[TEXT], ["A second one."]], tokenizer, OPTIONS);
    const stream = [...ids(TEXT), 9, ...ids("A second one."), 9];
    expect(numTokens).toBe(stream.length);
    expect(heldOut).toBeNull();
    expect(train.numWindows).toBe(Math.floor(stream.length / 16));
    const windows = await Promise.all(Array.from({ length: train.numWindows }, (_, i) => train.window(i)));
    for (const { tokens, targets, weights } of windows) {
      expect([tokens.length, targets.length, weights]).toEqual([16, 16, null]);
      expect(tokens[0]).toBe(7);
      expect([...tokens.subarray(1)]).toEqual([...targets.subarray(0, 15)]);
    }
    // One epoch is the stream, in another order: sort the windows by where they stand in it.
    const text = stream.join(",");
    const starts = windows.map(
      ({ targets }) => text.slice(0, text.indexOf(targets.join(","))).split(",").length - 1,
    );
    const sorted = starts.toSorted((a, b) => a - b);
    expect(sorted).toEqual(sorted.map((_, i) => sorted[0]! + 16 * i));
    expect(starts).not.toEqual(sorted);
  });

  it("answers for any index alike, in another order every epoch and for every seed", async () => {
    const data = async (seed: number) => (await packText([[TEXT]], tokenizer, { ...OPTIONS, seed })).train;
    const first = await data(3);
    const n = first.numWindows;
    const epoch = async (source: typeof first, number: number) => {
      const list: Window[] = [];
      for (let i = 0; i < n; i++) list.push(await source.window(number * n + i));
      return list.map(({ targets }) => targets.join(","));
    };
    const [zero, one] = [await epoch(first, 0), await epoch(first, 1)];
    expect(new Set(zero).size).toBe(n);
    expect(one).not.toEqual(zero);
    expect(await epoch(first, 0)).toEqual(zero);
    const again = await data(3);
    expect((await again.window(n + 2)).targets.join(",")).toBe(one[2]);
    expect(await epoch(await data(4), 0)).not.toEqual(zero);
  });

  it("keeps the end of the text from training", async () => {
    const { train, heldOut } = await packText([[TEXT]], tokenizer, { ...OPTIONS, heldOut: 0.1 });
    const stream = [...ids(TEXT), 9];
    const numHeldOut = Math.round(Math.floor(stream.length / 16) * 0.1);
    expect(heldOut?.numWindows).toBe(numHeldOut);
    const end = stream.slice(-16 * numHeldOut);
    expect([...(await heldOut!.window(0)).targets]).toEqual(end.slice(0, 16));
    expect([...(await heldOut!.window(numHeldOut - 1)).targets]).toEqual(end.slice(-16));
    expect((train.numWindows + numHeldOut) * 16).toBeLessThanOrEqual(stream.length);
  });

  it("takes control tokens' names for tokens only where asked", async () => {
    const control = tokenizer.idOf("<|endoftext|>")!;
    const text = `${TEXT}<|endoftext|>${TEXT}`;
    const has = async (parseSpecial: boolean) => {
      const { train } = await packText([[text]], tokenizer, { ...OPTIONS, parseSpecial, seed: 0 });
      const all = await Promise.all(Array.from({ length: train.numWindows }, (_, i) => train.window(i)));
      return all.some(({ targets }) => targets.includes(control));
    };
    expect(await has(true)).toBe(true);
    expect(await has(false)).toBe(false);
  });

  it("gives the ids of the whole text whatever pieces it comes in", async () => {
    const cut = TEXT.indexOf(" came", 300);
    for (const any of [tokenizer, spmTokenizer("words")]) {
      const options = { ...OPTIONS, separator: null };
      const whole = await packText([[TEXT]], any, options);
      const pieces = await packText([[TEXT.slice(0, cut), TEXT.slice(cut)]], any, options);
      expect(pieces.numTokens).toBe(whole.numTokens);
      expect(await pieces.train.window(5)).toEqual(await whole.train.window(5));
    }
  });

  it("refuses what gives no window", async () => {
    const refuse = async (text: string, changes: Partial<TextDataOptions>, part: string) => {
      const error = await packText([[text]], tokenizer, { ...OPTIONS, ...changes }).catch((e: unknown) => e);
      expect(error).toMatchObject({ code: "INVALID_ARGUMENT" });
      expect((error as Error).message).toContain(part);
    };
    await refuse("short", {}, "at least 16");
    await refuse(TEXT, { windowLength: 1 }, "windowLength");
    await refuse(TEXT, { seed: -1 }, "seed");
    await refuse(TEXT, { heldOut: 0.9 }, "heldOut");
    await refuse(TEXT, { firstToken: 1e9 }, "firstToken");
    await expect(openTextData([], tokenizer, OPTIONS)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });
});

describe("text files", () => {
  it("come as they are, however large, in pieces cut between words", async () => {
    const long = Array.from({ length: 160_000 }, (_, i) => `wörd ${i} — the boat 😀 came in,`).join("\n");
    const pieces = await collect(readTextPieces(await file("long.txt", long)));
    expect(pieces.length).toBeGreaterThan(1);
    expect(pieces.join("") === long).toBe(true);
    for (const [i, piece] of pieces.entries()) {
      if (i > 0) expect(`${pieces[i - 1]!.at(-1)}${piece.slice(0, 2)}`).toMatch(/^[A-Za-z] [A-Za-z]$/);
    }
    expect(await collect(readTextPieces(await file("bom.txt", "\ufeffHello")))).toEqual(["Hello"]);
  });

  it("become documents of the data", async () => {
    const paths = [await file("a.txt", TEXT), await file("b.txt", "The second.")];
    const data = await openTextData(paths, tokenizer, OPTIONS);
    const same = await packText([[TEXT], ["The second."]], tokenizer, OPTIONS);
    expect(data.numTokens).toBe(same.numTokens);
    expect(await data.train.window(11)).toEqual(await same.train.window(11));
  });

  it("are refused where they are no text", async () => {
    const reject = async (path: string, code: string, part: string) => {
      const error = await openTextData([path], tokenizer, OPTIONS).catch((e: unknown) => e);
      expect(error).toMatchObject({ code });
      expect((error as Error).message).toContain(part);
    };
    await reject(join(folder, "absent.txt"), "FILE_NOT_FOUND", "does not exist");
    await reject(folder, "FILE_NOT_FOUND", "it is a folder");
    await reject(await file("empty.txt", ""), "BAD_FORMAT", "empty");
    await reject(await file("latin1.txt", Uint8Array.of(0x63, 0x61, 0x66, 0xe9)), "BAD_FORMAT", "UTF-8");
    await reject(await file("cut.txt", Uint8Array.of(0x63, 0xe2, 0x82)), "BAD_FORMAT", "UTF-8");
  });
});
