import { describe, expect, it } from "vitest";
import { CONTROL_TOKENS } from "./control.js";
import type { Fact } from "./facts.js";
import { grade, type QuestionKind, restated } from "./questions.js";
import { Random } from "./random.js";
import { capitalise, countWords, fill, templates } from "./text.js";
import { BOATS, PEOPLE, PLACES, THINGS, withArticle } from "./vocabulary.js";
import { type Piece, type WorldOptions, world } from "./world.js";

/** Pieces of about `words` words. */
function take(words: number, options: WorldOptions): Piece[] {
  const pieces: Piece[] = [];
  let count = 0;
  for (const piece of world(options)) {
    pieces.push(piece);
    count += countWords(piece.text);
    if (count >= words && piece.kind !== "question") return pieces;
  }
  return pieces;
}

/** Words from the end of the statement to the question, for every question about a fact. */
function distances(pieces: readonly Piece[]): number[] {
  const ends: number[] = [];
  const found: number[] = [];
  let words = 0;
  for (const { text, kind, question } of pieces) {
    if (kind === "question" && question!.stated !== null) found.push(words - ends[question!.stated]!);
    words += countWords(text);
    ends.push(words);
  }
  return found;
}

const joined = (pieces: readonly Piece[]) => pieces.map(({ text }) => text).join("");
const key = ({ kind, subject }: Pick<Fact, "kind" | "subject">) => `${kind} ${subject}`;
/** The kind of the fact that a question is about. */
const factKind = (kind: QuestionKind) => (kind === "holder" ? "thing" : kind) as Fact["kind"];
const LONG = take(150_000, { seed: 11 });
/** From the middle of a town's life. */
const LATER = Array.from({ length: 20 }, (_, stream) => take(2000, { seed: 6, stream, skip: 3000 }));
const CHATS = Array.from({ length: 200 }, (_, stream) => take(600, { seed: 5, stream, turns: 8 }));

describe("world", () => {
  it("gives the same text for the same seed, and other text for another seed or stream", () => {
    const text = joined(take(2000, { seed: 1 }));
    expect(joined(take(2000, { seed: 1 }))).toBe(text);
    expect(joined(take(2000, { seed: 1, stream: 1 }))).not.toBe(text);
    expect(joined(take(2000, { seed: 2 ** 40 + 1 }))).not.toBe(text);
  });

  it("answers every question by what the text last stated, and says where", () => {
    for (const pieces of [LONG, ...LATER, ...CHATS]) {
      const last = new Map<string, { value: string; piece: number }>();
      pieces.forEach((piece, index) => {
        const { kind, question, states } = piece;
        // A user's turn states facts before it asks.
        for (const fact of states) last.set(key(fact), { value: fact.value, piece: index });
        if (kind !== "question" || question!.stated === null) return;
        const known = last.get(key({ kind: factKind(question!.kind), subject: question!.subject }));
        const fact = restated(question!).find(({ kind }) => kind === factKind(question!.kind));
        expect({ ...question, value: fact!.value }).toMatchObject({
          stated: known?.piece,
          value: known?.value,
        });
        expect(grade(question!, pieces[index + 1]!.text)).toBe(true);
      });
    }
  });

  it("says in words what it states: the subject, then the value where places are concerned", () => {
    for (const { text, kind, states, question } of LONG) {
      for (const fact of states) {
        // "to the boathouse" says it as well as "in the boathouse".
        const value = fact.value.replace(/^(at|in|on|by|with) /, "");
        const said =
          kind === "answer"
            ? text.replace(
                / (is|are) (\w+ing)/,
                (_, be, doing) => ` ${be === "is" ? "was" : "were"} ${doing}`,
              )
            : text;
        expect(said.toLowerCase()).toContain(value.toLowerCase());
        if (!["weather", "tide", "day", "scene"].includes(fact.kind)) expect(said).toContain(fact.subject);
      }
      if (kind === "answer") expect(text).toContain(question!.answer);
    }
  });

  it("names no thing and no boat without stating a fact about it, unless it leaves for good", () => {
    const thing = new RegExp(`\\b(${THINGS.join("|")})\\b`, "g");
    const boat = new RegExp(`\\b(${BOATS.join("|")})\\b`, "g");
    for (const { text, kind, states } of LONG) {
      if (kind !== "log") continue;
      for (const [name] of text.matchAll(thing)) {
        const stated = states.some(({ kind, subject }) => /thing|keepsake/.test(kind) && subject === name);
        if (!stated) expect(text).toMatch(/pedlar|sold|sent away|given away/);
      }
      for (const [name] of text.matchAll(boat)) {
        if (!states.some(({ subject }) => subject === name)) expect(text).toMatch(/landed|came off|unloaded/);
      }
    }
  });

  it("remembers where things and people came from", () => {
    const last = new Map<string, string>();
    let checked = 0;
    for (const { text, states } of LONG) {
      const from = /from the (\w+) to the (\w+)/.exec(text);
      for (const fact of states) {
        const old = last.get(key(fact));
        if (from && fact.kind === "thing" && old !== undefined) {
          expect(`${text}: ${old}`).toMatch(new RegExp(`: \\w+ the ${from[1]}$`));
          checked++;
        }
        last.set(key(fact), fact.value);
      }
    }
    expect(checked).toBeGreaterThan(200);
  });

  it("never gives a name to two things while what was said of the first still holds", () => {
    const alive = new Map<string, number>();
    take(40_000, { seed: 21 }).forEach((piece, index) => {
      const found = / (an? )([a-z]+ [a-z]+) (?:away|at|in|on|by|was|turned|and)/.exec(piece.text);
      if (piece.kind !== "log" || !found || !THINGS.includes(found[2]!)) return;
      const name = found[2]!;
      if (alive.has(name)) {
        const between = joined(take(40_000, { seed: 21 }).slice(alive.get(name)! + 1, index));
        expect(between).toMatch(
          new RegExp(`the ${name} (and took it away|to a pedlar|was (sold|sent|given) )`),
        );
      }
      alive.set(name, index);
    });
    expect(alive.size).toBeGreaterThan(50);
  });

  it("lets a thing rest for 60 words between moves", () => {
    const moved = new Map<string, number>();
    const value = new Map<string, string>();
    let words = 0;
    for (const { text, states } of LONG) {
      for (const fact of states) {
        if (fact.kind !== "thing") continue;
        if (value.has(fact.subject) && value.get(fact.subject) !== fact.value) {
          const before = moved.get(fact.subject);
          if (before !== undefined) expect(words - before).toBeGreaterThanOrEqual(60);
          moved.set(fact.subject, words);
        }
        value.set(fact.subject, fact.value);
      }
      words += countWords(text);
    }
    expect(moved.size).toBeGreaterThan(50);
  });

  it("spreads distances evenly over the range asked for, and stays in it", () => {
    const found = distances(LONG);
    expect(found.length).toBeGreaterThan(500);
    expect(Math.min(...found)).toBeGreaterThanOrEqual(10);
    expect(Math.max(...found)).toBeLessThanOrEqual(900);
    for (let from = 0; from < 900; from += 100) {
      const share =
        found.filter((distance) => distance >= from && distance < from + 100).length / found.length;
      expect(share).toBeGreaterThan(0.07);
      expect(share).toBeLessThan(0.16);
    }
  });

  it("asks from 100,000 words back about what was put away", () => {
    const questions = { from: 10, to: 200_000, spread: "logarithmic" } as const;
    const found = distances(take(400_000, { seed: 8, questions }));
    for (let from = 10; from < 100_000; from *= 10) {
      const share =
        found.filter((distance) => distance >= from && distance < 10 * from).length / found.length;
      expect(share).toBeGreaterThan(0.1);
    }
    expect(found.filter((distance) => distance > 100_000).length).toBeGreaterThan(20);
  });

  it("asks about everything in several ways", () => {
    const asked = new Map<string, Set<string>>();
    for (const { kind, question, text } of LONG) {
      if (kind !== "question") continue;
      const subject = question!.kind === "talk" ? "\0" : question!.subject;
      const form = text.replace(subject, "…").replace(/(at|in|on|by) the …/, "…");
      asked.set(question!.kind, (asked.get(question!.kind) ?? new Set()).add(form));
    }
    for (const kind of [
      "thing",
      "keepsake",
      "holder",
      "carries",
      "person",
      "boat",
      "cargo",
      "price",
      "job",
    ]) {
      expect([kind, asked.get(kind)?.size ?? 0]).toEqual([kind, expect.any(Number)]);
      expect(asked.get(kind)!.size).toBeGreaterThan(1);
    }
    for (const kind of ["scene", "weather", "tide", "day", "talk"]) expect(asked.has(kind)).toBe(true);
  });

  it("writes English: capitals, articles, spaces, and one line a paragraph or turn", () => {
    const text = joined(LONG);
    expect(text).not.toMatch(/\ba [aeiou]/i);
    expect(text).not.toMatch(/\ban [^aeiou]/i);
    expect(text).not.toMatch(/ {2}| \n|\n\n| [.,?]|undefined|[{}]/);
    expect(text).not.toMatch(/[.?] [a-z]|\." [a-z]/);
    for (const line of text.split("\n").slice(0, -1)) {
      expect(line).toMatch(/^(<\|user\|>[A-Z].*[.?]<\|assistant\|>[A-Z].*[.?]<\|end\|>|[A-Z].*[.?]"?)$/);
    }
    // A name at the beginning of a line would be another token than within one.
    for (const name of PEOPLE) expect(text).not.toMatch(new RegExp(`\\n${name}\\b`));
  });

  it("knows at most 800 words", () => {
    const words = new Set(
      [LONG, ...CHATS].flatMap(
        (pieces) =>
          joined(pieces)
            .toLowerCase()
            .match(/[a-z]+/g)!,
      ),
    );
    expect(words.size).toBeLessThan(800);
    expect(words.size).toBeGreaterThan(500);
  });

  it("begins with a conversation where turns are asked for", () => {
    for (const pieces of CHATS) {
      expect(pieces.slice(0, 16).map(({ kind }) => kind)).toEqual(
        Array.from({ length: 16 }, (_, i) => (i % 2 === 0 ? "question" : "answer")),
      );
      expect(pieces[16]!.kind).toBe("log");
    }
    expect(joined(CHATS.flat())).toContain("What is happening at the pier?");
  });

  it("begins in the middle of the town's life where words are skipped, and is the same town", () => {
    const whole = joined(take(6000, { seed: 6, questions: null }));
    const later = joined(take(2000, { seed: 6, skip: 3000, questions: null }));
    const at = whole.indexOf(later.slice(0, 200));
    expect(countWords(whole.slice(0, at))).toBeGreaterThanOrEqual(3000);
    expect(countWords(whole.slice(0, at))).toBeLessThan(3200);
    expect(whole.slice(at, at + later.length)).toBe(later);
  });

  it("asks nothing before it is time", () => {
    const pieces = take(1500, { seed: 7, questions: { every: 12, after: 700 } });
    const first = pieces.findIndex(({ kind }) => kind === "question");
    const before = countWords(joined(pieces.slice(0, first)));
    expect(before).toBeGreaterThanOrEqual(700);
    expect(before).toBeLessThan(800);
    expect(pieces.filter(({ kind }) => kind === "question").length).toBeGreaterThan(15);
    for (const distance of distances(pieces)) expect(distance).toBeLessThanOrEqual(900);
  });

  it("tells a log without questions where none are wanted", () => {
    const pieces = take(3000, { seed: 4, questions: null });
    expect(pieces.every(({ kind }) => kind === "log")).toBe(true);
    for (const name of CONTROL_TOKENS) expect(joined(pieces)).not.toContain(name);
  });

  it.each([
    [{ seed: -1 }, "seed"],
    [{ seed: 0.5 }, "seed"],
    [{ seed: 1, stream: 2 ** 32 }, "stream"],
    [{ seed: 1, turns: -1 }, "turns"],
    [{ seed: 1, questions: { every: 0 } }, "questions.every"],
    [{ seed: 1, questions: { talk: 2 } }, "questions.talk"],
    [{ seed: 1, questions: { from: 20, to: 20 } }, "questions.from, .to"],
  ])("refuses %j", (options, name) => {
    expect(() => world(options).next()).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", details: { name } }),
    );
  });
});

describe("grade", () => {
  const question = { kind: "thing", subject: "brass key", answer: "in the boathouse" } as const;
  it("looks for the decisive words, whatever their case and marks", () => {
    expect(grade(question, "The brass key is in the boathouse.<|end|>")).toBe(true);
    expect(grade(question, "It is IN THE BOATHOUSE!")).toBe(true);
    expect(grade(question, "The brass key is in the loft.")).toBe(false);
    expect(grade(question, "The brass key is in the boathouses.")).toBe(false);
    expect(grade(question, "The brass lamp is in the boathouse.")).toBe(false);
    expect(grade({ kind: "job", subject: "baker", answer: "Ada" }, "The baker is Adamant.")).toBe(false);
  });
});

describe("vocabulary", () => {
  it("has every name once, and as one word", () => {
    for (const names of [THINGS, PEOPLE, BOATS, PLACES.map(({ name }) => name)]) {
      expect(new Set(names).size).toBe(names.length);
    }
    for (const name of [...PEOPLE, ...BOATS, ...PLACES.map(({ name }) => name)])
      expect(name).toMatch(/^\w+$/);
    for (const name of THINGS) expect(name).toMatch(/^[a-z]+ [a-z]+$/);
    expect(THINGS.length).toBeGreaterThan(1200);
  });

  it("knows its articles", () => {
    expect(["old key", "brass key", "iron key", "odd cup"].map(withArticle)).toEqual([
      "an old key",
      "a brass key",
      "an iron key",
      "an odd cup",
    ]);
  });
});

describe("text", () => {
  it("fills slots, and begins sentences with capitals behind quotation marks too", () => {
    const [template] = templates('"{who} is {at}," said {other}.');
    expect(fill(template!, { who: "Ada", at: "by the gate", other: "Tom" })).toBe(
      '"Ada is by the gate," said Tom.',
    );
    expect(capitalise('"who is it?"')).toBe('"Who is it?"');
    expect(capitalise("the end")).toBe("The end");
  });

  it("counts words and marks", () => {
    expect(countWords(" The brass key, they say, is here.\n")).toBe(11);
  });
});

describe("Random", () => {
  it("is even, and differs by every bit of its seed", () => {
    const counts = new Array<number>(8).fill(0);
    const random = new Random(9);
    for (let i = 0; i < 80_000; i++) counts[random.below(8)]!++;
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(400);
    const first = [0, 1, 2 ** 32, 2 ** 52].map((seed) => new Random(seed).fraction());
    expect(new Set([...first, new Random(0, 1).fraction()]).size).toBe(5);
    expect(new Random(3).weighted([0, 0, 1, 0])).toBe(2);
  });
});
