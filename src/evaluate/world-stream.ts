/** The world in tokens: how far back each question reaches, and questions to examine a model with. */
import { MillraceError } from "../errors.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { PieceEncoder } from "../train/world-source.js";
import { check } from "../world/check.js";
import { BOS, END } from "../world/control.js";
import type { Question } from "../world/questions.js";
import { type Piece, type WorldOptions, world } from "../world/world.js";

/** A piece of the world with its place in the stream, whose token 0 is BOS. */
export interface TokenPiece extends Piece {
  /** Index of its first token. */
  readonly at: number;
  readonly tokens: readonly number[];
  /**
   * For a question and its answer: tokens from the end of the piece in which the fact was last stated to the beginning
   * of the question; null where nothing had to be stated, and 0 where the question's own turn states it.
   */
  readonly distance: number | null;
}

/** The world's pieces in tokens. Never ends. Throws INVALID_ARGUMENT as `world` does. */
export function* tokenPieces(tokenizer: Tokenizer, options: WorldOptions): Generator<TokenPiece, never> {
  const encoder = new PieceEncoder(tokenizer);
  /** Where each piece ended, by index: a few bytes for every sentence. */
  const ends: number[] = [];
  let at = 1;
  let distance: number | null = null;
  for (const piece of world(options)) {
    const tokens = [...encoder.encode(piece)[0]];
    if (piece.kind === "log") distance = null;
    if (piece.kind === "question") {
      const stated = piece.question?.stated ?? null;
      distance = stated === null ? null : Math.max(0, at - (ends[stated] ?? at));
    }
    yield { ...piece, at, tokens, distance };
    at += tokens.length;
    ends.push(at);
  }
  throw new MillraceError("INTERNAL", "The world came to its end.");
}

/** A question with all that a model has read when it is asked. */
export interface HeldOutQuestion {
  readonly question: Question;
  /** From BOS to where the answer begins. */
  readonly prompt: readonly number[];
  /** Tokens since the fact was last stated. */
  readonly distance: number;
  /** The answer that the world gives. */
  readonly expected: string;
}

export interface HeldOutOptions {
  /** A whole number from 0 on. Which world they are from: never one that models are trained on. */
  readonly seed: number;
  /** Questions to choose. */
  readonly count: number;
  /** Farthest that a fact may lie back, in tokens. */
  readonly within: number;
  /** Most tokens of a prompt; at least 64 more than `within`. */
  readonly promptTokens: number;
}

/** Parts of the range of distances from which equally many questions are taken. */
const NUM_BANDS = 10;
/** Tokens of a prompt for what stands before the fact, the fact, and the question. */
const PREAMBLE = 64;
/** Tokens that a fact lies back at least. */
const NEAREST = 10;

/**
 * Questions about facts of the log, as many from every tenth of the range of distances, each from the beginning of a
 * world of its own. Throws INVALID_ARGUMENT for options out of range and a tokenizer without the world's BOS token.
 */
export function heldOutQuestions(tokenizer: Tokenizer, options: HeldOutOptions): HeldOutQuestion[] {
  const { seed, count, within, promptTokens } = options;
  const bos = worldToken(tokenizer, BOS);
  check(Number.isSafeInteger(seed) && seed >= 0 && seed < HELD_OUT, "seed", seed, "from 0 to 2^52 - 1");
  check(Number.isSafeInteger(count) && count >= 1, "questions", count, "a whole number of at least 1");
  check(Number.isSafeInteger(within) && within >= 100, "within", within, "a whole number of at least 100");
  const most = promptTokens - PREAMBLE;
  check(within <= most, "within", within, `at most ${most}: a prompt has ${promptTokens} tokens`);
  const start = (band: number) => NEAREST + (band * (within - NEAREST)) / NUM_BANDS;
  const chosen: HeldOutQuestion[] = [];
  for (let stream = 0; chosen.length < count; stream++) {
    const band = chosen.length % NUM_BANDS;
    const found = lastQuestion(tokenizer, bos, stream, start(band), start(band + 1), options);
    if (found) chosen.push(found);
  }
  return chosen;
}

/** The last question at the beginning of a world whose fact lies from `from` to below `to` tokens back, if any. */
function lastQuestion(
  tokenizer: Tokenizer,
  bos: number,
  stream: number,
  from: number,
  to: number,
  { seed, promptTokens }: HeldOutOptions,
): HeldOutQuestion | null {
  const read = [bos];
  let last: Omit<HeldOutQuestion, "prompt"> | null = null;
  let promptLength = 0;
  // In words, of which there are a little fewer than tokens; what then lies outside is passed over.
  const questions = { from: Math.max(1, from * 0.9), to, every: 30 };
  for (const piece of tokenPieces(tokenizer, { seed: heldOutSeed(seed), stream, questions })) {
    const { kind, question, distance, tokens, text } = piece;
    if (kind === "answer" && question && distance !== null && distance >= from && distance < to) {
      last = { question, distance, expected: text.split(END)[0]! };
      promptLength = read.length;
    }
    if (read.length + tokens.length > promptTokens) break;
    for (const id of tokens) read.push(id);
  }
  return last && { ...last, prompt: read.slice(0, promptLength) };
}

const HELD_OUT = 2 ** 52;

/** The id of one of the world's control tokens. Throws INVALID_ARGUMENT where the tokenizer has no such token. */
export function worldToken(tokenizer: Tokenizer, name: string): number {
  const id = tokenizer.idOf(name);
  const expected = "a model of the world: one whose tokenizer has it";
  check(id !== undefined, "tokenizer", `no token ${name}`, expected);
  return id;
}

/** Seed `seed` of worlds that no model is trained on: those for training have seeds far from these. */
export const heldOutSeed = (seed: number): number => HELD_OUT + seed;
