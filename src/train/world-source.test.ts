import { describe, expect, it } from "vitest";
import type { MetadataValue } from "../formats/checkpoint.js";
import { type GgufValue, plainValue } from "../formats/gguf-values.js";
import { createBytePairEncoding } from "../tokenizer/bpe.js";
import { renderChat } from "../tokenizer/chat.js";
import { ASSISTANT, BOS, CHAT_TEMPLATE, CONTROL_TOKENS, END, USER } from "../world/control.js";
import { type Piece, world } from "../world/world.js";
import type { Window } from "./data.js";
import { trainTokenizer } from "./tokenizer.js";
import { drawQuestions, drawSkip, type WorldCourse } from "./world-course.js";
import { PieceEncoder, worldSource } from "./world-source.js";

function pieces(seed: number, count: number): Piece[] {
  const found: Piece[] = [];
  for (const piece of world({ seed })) if (found.push(piece) === count) break;
  return found;
}

const plain = (metadata: Record<string, GgufValue>): Map<string, MetadataValue> =>
  new Map(Object.entries(metadata).map(([key, value]) => [key, plainValue(value)]));
const text = pieces(1, 20_000).map((piece) => piece.text);

async function tokenizerFor(preTokenizer: string) {
  const metadata = await trainTokenizer([text.join("")], {
    vocabularySize: 1536,
    bos: BOS,
    eos: END,
    control: [USER, ASSISTANT],
    chatTemplate: CHAT_TEMPLATE,
    preTokenizer,
  });
  return createBytePairEncoding(plain(metadata));
}
const tokenizer = await tokenizerFor("gpt-2");
const source = worldSource(tokenizer, { windowLength: 1024, seed: 3 });
const window = (index: number) => source.window(index) as Window;
const write = (ids: ArrayLike<number>) => tokenizer.decode(ids, { skipSpecial: false });

describe("PieceEncoder", () => {
  it.each(["gpt-2", "llama-bpe"])("gives the tokens of the whole text (%s)", async (name) => {
    const tokenizer = await tokenizerFor(name);
    const encoder = new PieceEncoder(tokenizer);
    const sample = pieces(2, 3000);
    const joined = sample.map(({ text }) => text).join("");
    const whole = tokenizer.encode(joined, { addSpecial: false, parseSpecial: true });
    expect(sample.flatMap((piece) => [...encoder.encode(piece)[0]])).toEqual([...whole]);
  });

  it("marks the decisive words of answers, and nothing else", () => {
    const encoder = new PieceEncoder(tokenizer);
    for (const piece of pieces(4, 2000)) {
      const [ids, decisive] = encoder.encode(piece);
      const marked = write(ids.filter((_, i) => decisive[i] === 1)).trim();
      const told = piece.kind === "answer" && piece.question!.stated !== null;
      expect(marked).toBe(told ? piece.question!.answer : "");
    }
  });
});

describe("worldSource", () => {
  it("begins every window with the sink, and never pads", () => {
    for (let index = 0; index < 50; index++) {
      const { tokens, targets, weights } = window(index);
      expect([tokens.length, targets.length, weights!.length]).toEqual([1024, 1024, 1024]);
      expect(write(tokens.subarray(0, 1))).toBe(BOS);
      expect([...tokens.subarray(1)]).toEqual([...targets.subarray(0, 1023)]);
      expect(write(tokens.subarray(1))).not.toContain(BOS);
      expect(Math.min(...targets)).toBeGreaterThanOrEqual(0);
    }
  });

  it("gives the same window for the same index and seed, and no other twice", () => {
    const again = worldSource(tokenizer, { windowLength: 1024, seed: 3 });
    expect(again.window(7)).toEqual(window(7));
    const others = worldSource(tokenizer, { windowLength: 1024, seed: 4 });
    const texts = [window(7), window(8), others.window(7) as Window].map(({ tokens }) => write(tokens));
    expect(new Set(texts).size).toBe(3);
  });

  it("weighs decisive words, in windows of which a share are conversations", () => {
    let heavy = 0;
    let chats = 0;
    for (let index = 0; index < 200; index++) {
      const { tokens, weights } = window(index);
      expect(weights!.every((weight) => weight === 1 || weight === 4)).toBe(true);
      heavy += weights!.filter((weight) => weight === 4).length / 1024 / 200;
      if (write(tokens.subarray(1, 2)) === USER) chats++;
    }
    expect(heavy).toBeGreaterThan(0.03);
    expect(heavy).toBeLessThan(0.08);
    expect(chats).toBeGreaterThan(15);
    expect(chats).toBeLessThan(50);
  });

  it("asks as densely as its course says, and of the kinds that it weighs", () => {
    const questions = (course: WorldCourse) => {
      const plain = { late: 0, middle: 0, ...course };
      const source = worldSource(tokenizer, { windowLength: 1024, seed: 3, chats: 0, course: plain });
      const texts = Array.from({ length: 20 }, (_, i) => write((source.window(i) as Window).tokens));
      return texts.flatMap((text) => text.split(USER).slice(1));
    };
    const dense = questions({ every: [10, 10], exams: 0 });
    const sparse = questions({ every: [100, 100], exams: 0 });
    expect(dense.length).toBeGreaterThan(3 * sparse.length);
    expect(sparse.length).toBeGreaterThan(80);
    const people = questions({ every: [10, 10], exams: 0, weights: { person: 10_000 } });
    const share = (all: string[]) =>
      all.filter((text) => /^(Where is|Where can I find|Do you know where) [A-Z]/.test(text)).length /
      all.length;
    expect(share(people)).toBeGreaterThan(1.3 * share(dense));
  });

  it("asks in exams about facts that lie equally far back", () => {
    const course = { exams: 1, lean: 1, width: 0.1, late: 0 };
    for (let index = 0; index < 50; index++) {
      const { from, to, every } = drawQuestions(course, 3, index, 900);
      expect([every, to! - from!]).toEqual([30, 90]);
    }
    const near = (lean: number) =>
      Array.from(
        { length: 400 },
        (_, i) => drawQuestions({ exams: 1, lean, late: 0 }, 3, i, 900).from!,
      ).filter((from) => from < 900 / 8).length / 400;
    expect(near(1)).toBeCloseTo(1 / 8, 1);
    expect(near(3)).toBeCloseTo(1 / 2, 1);
    expect(drawQuestions({ exams: 0, late: 0 }, 3, 1, 900)).toMatchObject({ to: 900 });
  });

  it("begins some windows in the middle of a town's life, and asks late in some", () => {
    const indices = Array.from({ length: 400 }, (_, index) => index);
    const skips = indices.map((index) => drawSkip({ middle: 0.5 }, 3, index));
    expect(skips.filter((skip) => skip > 0).length / 400).toBeCloseTo(0.5, 1);
    expect(Math.max(...skips)).toBeGreaterThan(3500);
    expect(Math.max(...indices.map((index) => drawSkip({ middle: 0 }, 3, index)))).toBe(0);
    const late = indices.flatMap((index) => drawQuestions({ late: 0.3 }, 3, index, 900).after ?? []);
    expect(late.length / 400).toBeCloseTo(0.3, 1);
    expect(Math.max(...late)).toBeLessThanOrEqual(750);
    expect(Math.max(...late)).toBeGreaterThan(650);
  });

  it("refuses a tokenizer without the world's control tokens, and options out of range", async () => {
    const strange = createBytePairEncoding(plain(await trainTokenizer(["a b"], { vocabularySize: 300 })));
    const refused = (name: string) =>
      expect.objectContaining({ code: "INVALID_ARGUMENT", details: { name } });
    expect(() => worldSource(strange, { windowLength: 64, seed: 1 })).toThrow(refused("tokenizer"));
    expect(() => worldSource(tokenizer, { windowLength: 4, seed: 1 })).toThrow(refused("windowLength"));
    expect(() => worldSource(tokenizer, { windowLength: 64, seed: 1, chats: 2 })).toThrow(refused("chats"));
    expect(() => worldSource(tokenizer, { windowLength: 64, seed: 1, answerWeight: 0 })).toThrow(
      refused("answerWeight"),
    );
    expect(() => worldSource(tokenizer, { windowLength: 64, seed: -1 })).toThrow(refused("seed"));
    const course = (name: string, course: WorldCourse) =>
      expect(() => worldSource(tokenizer, { windowLength: 64, seed: 1, course })).toThrow(refused(name));
    course("every", { every: [50, 8] });
    course("exams", { exams: 2 });
    course("examEvery", { examEvery: 0 });
    course("lean", { lean: 0 });
    course("width", { width: 2 });
    course("middle", { middle: 2 });
    course("late", { late: -1 });
  });
});

describe("CHAT_TEMPLATE", () => {
  it("writes conversations as the world does, with a log as system message", () => {
    const messages = [
      { role: "system", content: "The gulls cried." },
      { role: "user", content: "Who are you?" },
      { role: "assistant", content: "I am the keeper of the harbour log." },
      { role: "user", content: "Where is Mara?" },
    ];
    expect(renderChat(tokenizer, messages)).toBe(
      "<|log|>The gulls cried.\n<|user|>Who are you?<|assistant|>I am the keeper of the harbour log.<|end|>\n" +
        "<|user|>Where is Mara?<|assistant|>",
    );
    expect(() => renderChat(tokenizer, [{ role: "tool", content: "x" }])).toThrow("unknown role tool");
    for (const name of CONTROL_TOKENS) expect(tokenizer.idOf(name)).toBeDefined();
  });
});
