/** Training windows from the world: see src/world/world.ts. */
import type { Tokenizer } from "../tokenizer/contract.js";
import { check } from "../world/check.js";
import { BOS } from "../world/control.js";
import { drills } from "../world/drills.js";
import { Random } from "../world/random.js";
import { type Piece, world } from "../world/world.js";
import type { Window, WindowSource } from "./data.js";
import { checkCourse, drawQuestions, drawSkip, share, type WorldCourse } from "./world-course.js";

export interface WorldSourceOptions {
  /** Tokens of every window. */
  readonly windowLength: number;
  /** A whole number from 0 on; other seeds give other windows, so that a held-out source is one of another seed. */
  readonly seed: number;
  /** What windows ask. Default: as far back as they reach, many questions in some windows and few in others. */
  readonly course?: WorldCourse;
  /** Factor on the loss of an answer's decisive words. Default 4. */
  readonly answerWeight?: number;
  /**
   * Share of windows that begin with a conversation, in which questions follow close on what the user tells. Default:
   * all windows of up to 128 tokens, so that looking back is learned on short windows, soonest; 0.5 of those up to 256;
   * 0.15 of longer ones.
   */
  readonly chats?: number;
  /**
   * Share of windows that are drills (src/world/drills.ts). Default: all of up to 64 tokens, 0.3 of those up to 128, 0.1
   * up to 256, 0.03 of longer ones.
   */
  readonly drilled?: number;
}

/** Tokens that a turn of a conversation has at least, with its answer. */
const LEAST_TURN = 20;

/**
 * Windows that never repeat. Each is the beginning of a world of its own, so that every answer is told before in the
 * same window, behind the one token that begins them all. Throws INVALID_ARGUMENT for options out of range, and for a
 * tokenizer that does not have the world's control tokens. (A vocabulary of 1,536 holds nearly every word whole.)
 */
export function worldSource(tokenizer: Tokenizer, options: WorldSourceOptions): WindowSource {
  const { windowLength, seed, answerWeight = 4, course = {} } = options;
  const { chats = windowLength <= 128 ? 1 : windowLength <= 256 ? 0.5 : 0.15 } = options;
  const drillsBy = windowLength <= 64 ? 1 : windowLength <= 128 ? 0.3 : windowLength <= 256 ? 0.1 : 0.03;
  const { drilled = drillsBy } = options;
  const to = Math.max(20, Math.min(900, windowLength - 60));
  check(Number.isSafeInteger(windowLength) && windowLength >= 16, "windowLength", windowLength, "16 or more");
  check(Number.isSafeInteger(seed) && seed >= 0, "seed", seed, "a whole number from 0 on");
  check(chats >= 0 && chats <= 1, "chats", chats, "a share from 0 to 1");
  check(drilled >= 0 && drilled <= 1, "drilled", drilled, "a share from 0 to 1");
  check(answerWeight > 0, "answerWeight", answerWeight, "a number above 0");
  checkCourse(course);
  const bos = tokenizer.idOf(BOS);
  check(bos !== undefined, "tokenizer", `no token ${BOS}`, "a tokenizer with the world's control tokens");
  const mostTurns = windowLength / LEAST_TURN;
  const encoder = new PieceEncoder(tokenizer);
  return {
    windowLength,
    numWindows: Number.POSITIVE_INFINITY,
    window(index: number): Window {
      const chat = share(seed, index, "chat");
      const turns = chat < chats ? Math.ceil((chat / chats) * mostTurns) : 0;
      const tokens = new Int32Array(windowLength + 1);
      const weights = new Float32Array(windowLength + 1).fill(1);
      tokens[0] = bos;
      let filled = 1;
      const questions = drawQuestions(course, seed, index, to);
      const skip = drawSkip(course, seed, index);
      const pieces =
        share(seed, index, "drill") < drilled
          ? drills(new Random(seed, index))
          : world({ seed, stream: index, skip, turns, questions });
      for (const piece of pieces) {
        const [ids, decisive] = encoder.encode(piece);
        for (let i = 0; i < ids.length && filled < tokens.length; i++, filled++) {
          tokens[filled] = ids[i]!;
          if (decisive[i] === 1) weights[filled] = answerWeight;
        }
        if (filled === tokens.length) break;
      }
      return {
        tokens: tokens.slice(0, windowLength),
        targets: tokens.slice(1),
        weights: weights.slice(1),
      };
    },
  };
}

/**
 * Tokens of pieces, put together from those of their words, which are kept: no tokenizer of words merges across a space
 * before a word, so the sum is the same.
 */
export class PieceEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #words = new Map<string, Int32Array>();
  readonly #ids: number[] = [];
  readonly #decisive: number[] = [];

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  /** Ids, and 1 beside those of the decisive words of an answer that the log has told. Valid until the next call. */
  encode(piece: Piece): readonly [ids: readonly number[], decisive: readonly number[]] {
    const { text, kind, question } = piece;
    const told = kind === "answer" && question !== undefined && question.stated !== null;
    const from = told ? text.indexOf(question.answer) : 0;
    const to = told ? from + question.answer.length : 0;
    this.#ids.length = 0;
    this.#decisive.length = 0;
    for (const { 0: word, index } of text.matchAll(WORDS)) {
      // A word's space is part of it: "in" begins at the space before it.
      const at = word.startsWith(" ") ? index + 1 : index;
      const weighs = at >= from && at < to ? 1 : 0;
      const ids = this.#word(word);
      for (let i = 0; i < ids.length; i++) {
        this.#ids.push(ids[i]!);
        this.#decisive.push(weighs);
      }
    }
    return [this.#ids, this.#decisive];
  }

  #word(word: string): Int32Array {
    const known = this.#words.get(word);
    if (known) return known;
    const ids = this.#tokenizer.encode(word, { addSpecial: false, parseSpecial: true });
    this.#words.set(word, ids);
    return ids;
  }
}

/** Control tokens, words with the space before them, marks with the line breaks behind them. */
const WORDS = /<\|\w+\|>|'s| ?[A-Za-z]+| ?[^\sA-Za-z<]+\n*|\s/g;
