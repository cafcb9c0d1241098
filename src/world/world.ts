/**
 * The endless log of a small harbour town, with questions and their answers in it: what the boxed model is trained on,
 * and what every cache policy is judged by. The same seed gives the same text; memory stays the same however long it
 * is read; every answer is true where it stands, by what the log itself has said.
 */
import { check } from "./check.js";
import { ASSISTANT, END, USER } from "./control.js";
import { type Fact, FactBook } from "./facts.js";
import {
  type Asked,
  askAbout,
  chooseFact,
  type Distances,
  type Question,
  restated,
  talk,
  type Weights,
} from "./questions.js";
import { Random } from "./random.js";
import { LINKS } from "./sentences.js";
import { capitalise, countWords } from "./text.js";
import { imagineScene, type Sentence, Town } from "./town.js";

/**
 * A piece of the stream. The texts of all pieces one after another are the stream: spaces, line breaks and control
 * tokens are in them. A question is followed by its answer at once.
 */
export interface Piece {
  readonly text: string;
  /** "log": a sentence; "question": up to where the answer begins; "answer": up to the end of the turn. */
  readonly kind: "log" | "question" | "answer";
  /** What is asked; on both the question and the answer. */
  readonly question?: Question;
  /** What a sentence or an answer states. */
  readonly states: readonly Fact[];
}

export interface QuestionOptions extends Partial<Distances> {
  /** Words and marks of log between questions, on average. Default 60. */
  readonly every?: number;
  /** Share of questions that are small talk. Default 0.03. */
  readonly talk?: number;
  readonly weights?: Weights;
  /** Words and marks of log before the first question. Default 0. */
  readonly after?: number;
}

export interface WorldOptions {
  /** A whole number from 0 to 2^53 - 1. */
  readonly seed: number;
  /** Which of the worlds of one seed; a whole number from 0 to 2^32 - 1. Default 0. */
  readonly stream?: number;
  /**
   * Words and marks of the town's life that are left out before the stream begins: then people and things are known that
   * the stream never introduced. Default 0.
   */
  readonly skip?: number;
  /** Turns of conversation before the log begins, in which the user tells what the log would. Default 0. */
  readonly turns?: number;
  /** Null for a log without questions. Default: 10 to 900 words back, evenly spread. */
  readonly questions?: QuestionOptions | null;
}

/** The same town under a seed, at its beginning. Never ends. Throws INVALID_ARGUMENT for options out of range. */
export function* world(options: WorldOptions): Generator<Piece, never, undefined> {
  const { seed, stream = 0, skip = 0, turns = 0, questions = {} } = options;
  check(Number.isSafeInteger(seed) && seed >= 0, "seed", seed, "a whole number from 0 on");
  check(Number.isSafeInteger(turns) && turns >= 0, "turns", turns, "a whole number from 0 on");
  check(Number.isSafeInteger(stream) && stream >= 0 && stream < 2 ** 32, "stream", stream, "0 to 2^32 - 1");
  const { every = 60, talk: talkShare = 0.03, after = 0, weights } = questions ?? {};
  const { from = 10, to = 900, spread = "even" } = questions ?? {};
  check(skip >= 0 && skip < Number.POSITIVE_INFINITY, "skip", skip, "0 or more");
  check(after >= 0, "questions.after", after, "0 or more");
  check(every > 0, "questions.every", every, "a number above 0");
  check(talkShare >= 0 && talkShare <= 1, "questions.talk", talkShare, "a share from 0 to 1");
  for (const [kind, weight] of Object.entries(weights ?? {}))
    check(weight >= 0 && weight < Number.POSITIVE_INFINITY, `questions.weights.${kind}`, weight, "0 or more");
  check(from >= 1 && to > from, "questions.from, .to", `${from}, ${to}`, "1 <= from < to");
  const random = new Random(seed, stream);
  const town = new Town(random);
  let book = new FactBook();
  let index = 0;
  /** Of the town's life so far, and where in it the stream begins. */
  let words = 0;
  let begin = 0;

  /** Counts the piece in, with what it states. */
  const count = (piece: Piece): Piece => {
    words += countWords(piece.text);
    for (const fact of piece.states) book.state(fact, index, words - begin);
    index++;
    return piece;
  };

  while (words < skip) for (const piece of paragraph(town, book, random, () => words)) count(piece);
  if (skip > 0) [book, index, begin] = [new FactBook(), 0, words];

  for (let i = 0; i < turns; i++) {
    const [question, answer] = chatTurn(town, book, random, index, words, begin);
    yield count(question);
    yield count(answer);
  }
  /** Questions that are due, as parts of one. */
  let due = 0;
  for (;;) {
    const before = words;
    for (const piece of paragraph(town, book, random, () => words)) yield count(piece);
    if (questions === null || words - begin < after) continue;
    due += ((words - before) / every) * (0.5 + random.fraction());
    for (; due >= 1; due--) {
      const small = random.chance(talkShare);
      const fact = small ? null : chooseFact(book, words - begin, { from, to, spread }, random, weights);
      if (!small && fact === null) break;
      const asked = fact === null ? talk(random) : askAbout(fact, random);
      const [question, answer] = turn(asked, fact === null ? null : fact.piece);
      yield count(question);
      yield count(answer);
    }
  }
}

/** A question and its answer, as pieces. */
export function turn(
  asked: Asked,
  stated: number | null,
  states: readonly Fact[] = [],
): readonly [question: Piece, answer: Piece] {
  const question = { ...asked.question, stated };
  return [
    { kind: "question", text: `${USER}${asked.text}${ASSISTANT}`, question, states },
    { kind: "answer", text: `${asked.reply}${END}\n`, question, states: restated(question) },
  ];
}

/**
 * A turn of a conversation: small talk, a question about what was told before, or one to which the user tells the
 * answer first. A question about a place of which nothing was told gets an answer that may well be.
 */
function chatTurn(town: Town, book: FactBook, random: Random, index: number, words: number, begin: number) {
  const choice = random.weighted([6, 6, 58, 30]);
  if (choice === 0) return turn(talk(random), null);
  if (choice === 1) {
    const scene = imagineScene(random);
    const told = book.get("scene", scene.subject);
    return turn(askAbout(told ?? scene, random), told?.piece ?? null);
  }
  let fact =
    choice === 3 ? chooseFact(book, words - begin, { from: 0, to: 900, spread: "even" }, random) : null;
  if (fact !== null) return turn(askAbout(fact, random), fact.piece);
  const told: Sentence[] = [];
  for (let left = random.pick([1, 1, 1, 2, 3]); left > 0; ) {
    const sentence = town.happen(words, true);
    for (const { kind, subject } of sentence.ends) book.forget(kind, subject);
    for (const stated of sentence.states) book.state(stated, index, words - begin);
    told.push(sentence);
    if (sentence.states.length > 0) left--;
  }
  const states = told.flatMap((sentence) => sentence.states);
  const { kind, subject } = random.pick(states);
  fact = book.get(kind, subject) ?? null;
  const asked = askAbout(fact ?? states.at(-1)!, random);
  const story = told.map(({ text }) => `${capitalise(text)} `).join("");
  return turn({ ...asked, text: story + asked.text }, index, states);
}

function* paragraph(town: Town, book: FactBook, random: Random, words: () => number): Generator<Piece> {
  const { lead, text: opening, states } = town.open(words());
  const numSentences = random.between(2, 5);
  for (let i = 0; i < numSentences; i++) {
    const { text, states: stated, ends, event } = town.happen(words());
    for (const { kind, subject } of ends) book.forget(kind, subject);
    const leads = i === 0 && lead !== null && event;
    if (i === 0 && !leads) yield { kind: "log", text: opening, states };
    const link = event && i > 0 && random.chance(0.12) ? random.pick(LINKS) : "";
    const sentence = leads ? lead + text : ` ${capitalise(link + text)}`;
    yield { kind: "log", text: i === numSentences - 1 ? `${sentence}\n` : sentence, states: stated };
  }
}
