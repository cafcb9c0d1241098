import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli } from "../../test/support/cli.js";
import type { GenerationResult } from "../engine/generation.js";
import type { Model } from "../engine/model.js";
import type { MetadataValue } from "../formats/checkpoint.js";
import { type GgufValue, plainValue } from "../formats/gguf-values.js";
import { createBytePairEncoding } from "../tokenizer/bpe.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { exportGguf } from "../train/export.js";
import { initialiseModel } from "../train/initialise.js";
import { trainTokenizer } from "../train/tokenizer.js";
import { ASSISTANT, BOS, CHAT_TEMPLATE, END, USER } from "../world/control.js";
import { world } from "../world/world.js";
import { askAll, type Graded, tally } from "./answers.js";
import { type HeldOutQuestion, heldOutQuestions, tokenPieces } from "./world-stream.js";

let metadata: Record<string, GgufValue>;
let tokenizer: Tokenizer;
beforeAll(async () => {
  const texts: string[] = [];
  for (const { text } of world({ seed: 1 })) if (texts.push(text) === 5000) break;
  metadata = await trainTokenizer([texts.join("")], {
    vocabularySize: 600,
    bos: BOS,
    eos: END,
    control: [USER, ASSISTANT],
    chatTemplate: CHAT_TEMPLATE,
  });
  const plain = Object.entries(metadata).map(([key, value]) => [key, plainValue(value)] as const);
  tokenizer = createBytePairEncoding(new Map<string, MetadataValue>(plain));
});
const write = (ids: readonly number[]) => tokenizer.decode(ids, { skipSpecial: false });

describe("tokenPieces", () => {
  it("says where pieces stand, and how far back a fact was stated, in tokens", () => {
    const ends: number[] = [];
    let at = 1;
    let checked = 0;
    for (const piece of tokenPieces(tokenizer, { seed: 3 })) {
      expect(piece.at).toBe(at);
      expect(write(piece.tokens)).toBe(piece.text);
      at += piece.tokens.length;
      ends.push(at);
      const { kind, question, distance } = piece;
      if (kind === "log") expect(distance).toBeNull();
      if (kind !== "question" || question!.stated === null) continue;
      expect(distance).toBe(piece.at - ends[question!.stated]!);
      if (++checked === 200) return;
    }
  });
});

describe("heldOutQuestions", () => {
  const options = { seed: 5, count: 60, within: 900, promptTokens: 1500 };

  it("takes as many questions from every tenth of the range", () => {
    const questions = heldOutQuestions(tokenizer, options);
    const bands = new Array<number>(10).fill(0);
    for (const { distance } of questions) bands[Math.floor((distance - 10) / 89)]!++;
    expect(bands).toEqual(new Array(10).fill(6));
    expect(Math.max(...questions.map(({ distance }) => distance))).toBeLessThan(900);
    expect(heldOutQuestions(tokenizer, options)).toEqual(questions);
  });

  it("gives the whole log since BOS, with the fact in it, up to where the answer begins", () => {
    for (const { prompt, question, expected } of heldOutQuestions(tokenizer, options)) {
      const text = write(prompt);
      expect(prompt.length).toBeLessThanOrEqual(1500);
      expect(text.startsWith(BOS)).toBe(true);
      expect(text.endsWith(`?${ASSISTANT}`)).toBe(true);
      expect(expected).toContain(question.answer);
    }
  });

  it.each([
    [{ count: 0 }, "questions"],
    [{ within: 50 }, "within"],
    [{ within: 1437 }, "within"],
    [{ seed: -1 }, "seed"],
  ])("refuses %j", (wrong, name) => {
    expect(() => heldOutQuestions(tokenizer, { ...options, ...wrong })).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", details: { name } }),
    );
  });
});

describe("askAll", () => {
  it("asks every question once, so many at a time, and grades the answers in order", async () => {
    const questions = heldOutQuestions(tokenizer, { seed: 6, count: 20, within: 300, promptTokens: 500 });
    const expected = new Map(questions.map(({ prompt, expected }) => [prompt, expected]));
    let running = 0;
    let most = 0;
    let asked = 0;
    const generate: Model["generate"] = (prompt, options) => {
      expect(options).toMatchObject({ temperature: 0 });
      most = Math.max(most, ++running);
      const right = asked++ % 2 === 0;
      const text = right ? expected.get(prompt as number[])! : "Nobody knows.";
      const result = new Promise((resolve) => setTimeout(resolve, asked % 3)).then(() => {
        running--;
        return { text } as GenerationResult;
      });
      return { result } as ReturnType<Model["generate"]>;
    };
    const graded = await askAll({ generate }, questions, { sequences: 4 });
    expect(most).toBe(4);
    expect(graded.map(({ expected }) => expected)).toEqual(questions.map(({ expected }) => expected));
    for (const { answer, right } of graded) expect(right).toBe(answer !== "Nobody knows.");
    expect(tally(graded).all).toEqual({ name: "all", questions: 20, right: 10 });
  });
});

describe("tally", () => {
  it("sums by kind, most first, and by hundreds of tokens, nearest first", () => {
    const one = (kind: "thing" | "boat", distance: number, right: boolean): Graded => ({
      question: { kind, subject: "", answer: "", stated: 0 },
      distance,
      right,
      answer: "",
      expected: "",
    });
    expect(tally([one("boat", 899, true), one("thing", 20, true), one("thing", 99, false)])).toEqual({
      all: { name: "all", questions: 3, right: 2 },
      byKind: [
        { name: "thing", questions: 2, right: 1 },
        { name: "boat", questions: 1, right: 1 },
      ],
      byDistance: [
        { name: "0-99", questions: 2, right: 1 },
        { name: "800-899", questions: 1, right: 1 },
      ],
    });
  });
});

describe.skipIf(!built)("millrace evaluate (needs npm run build)", () => {
  let folder: string;
  let model: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-evaluate-"));
    model = join(folder, "tiny.gguf");
    const shape = { width: 32, layers: 1, heads: 2, feedForward: 64, context: 1024 };
    await exportGguf(model, initialiseModel(shape, metadata, { seed: 1 }));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("writes the stream as text", async () => {
    const { code, stdout, stderr } = await cli([
      "evaluate",
      "world",
      model,
      "--tokens",
      "3000",
      "--seed",
      "3",
    ]);
    expect(code).toBe(0);
    expect(stdout.startsWith(BOS)).toBe(true);
    const tokens = tokenizer.encode(stdout, { addSpecial: false, parseSpecial: true }).length;
    expect(tokens).toBeGreaterThanOrEqual(3000);
    expect(tokens).toBeLessThan(3100);
    expect(stderr).toContain(`${tokens} tokens`);
  });

  it("writes pieces as JSON lines into a file, and the same ones again", async () => {
    const files = ["a.jsonl", "b.jsonl"].map((name) => join(folder, name));
    for (const file of files) {
      const args = ["--tokens", "3000", "--format", "jsonl", "--out", file];
      expect(await cli(["evaluate", "world", model, ...args])).toMatchObject({ code: 0, stdout: "" });
    }
    const [text, again] = await Promise.all(files.map((file) => readFile(file, "utf8")));
    expect(again).toBe(text);
    const rows = text!
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(rows[0]).toMatchObject({ kind: "log", at: 1 });
    const asked = rows.find(({ kind, distance }) => kind === "question" && distance !== null)!;
    expect(asked).toMatchObject({ question: { kind: expect.any(String), answer: expect.any(String) } });
    expect(rows.at(-1)!.kind).not.toBe("question");
  });

  it("grades the answers of a model", async () => {
    const args = [
      "--questions",
      "4",
      "--within",
      "100",
      "--context",
      "256",
      "--backend",
      "reference",
      "--json",
    ];
    const { code, stdout, stderr } = await cli(["evaluate", "answers", model, ...args]);
    expect([code, stderr]).toEqual([0, ""]);
    const report = JSON.parse(stdout) as { all: unknown; wrong: HeldOutQuestion[] };
    expect(report).toMatchObject({ seed: 1, within: 100, all: { name: "all", questions: 4 } });
    expect(report.wrong.length).toBeGreaterThan(0);
  });

  it("refuses wrong usage with exit code 2", async () => {
    expect(await cli(["evaluate", "world", model, "--spread", "odd"])).toMatchObject({ code: 2 });
    expect(await cli(["evaluate", "answers", model, "--within", "2000", "--json"])).toMatchObject({
      code: 2,
    });
  });
});
