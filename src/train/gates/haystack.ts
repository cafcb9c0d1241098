/** Texts that passkeys are hidden in. */
import { MillraceError } from "../../errors.js";
import { createRandom } from "../../sampling/random.js";
import type { Tokenizer } from "../../tokenizer/contract.js";
import { BOS, END } from "../../world/control.js";
import { world } from "../../world/world.js";
import { deriveSeed } from "../seeds.js";
import { readTextPieces } from "../text-files.js";
import { PieceEncoder } from "../world-source.js";

/** Some tokens of a text, before which a passkey may stand. */
export interface Straw {
  readonly ids: ArrayLike<number>;
  /** 1 beside tokens that are answers, to be found further up in the text itself; null: none are. */
  readonly answers: ArrayLike<number> | null;
}

/** The straws of a text that never ends, another one for every seed. Valid until the next one is asked for. */
export type Straws = (seed: number, index: number) => Iterable<Straw>;

export interface Haystack {
  /** Identifies it in checkpoints. */
  readonly name: string;
  /** Straws for windows of `length` tokens. Throws as reading the text does. */
  open(tokenizer: Tokenizer, length: number): Promise<Straws>;
}

/** Whether the tokenizer is that of a model of the world. */
export const knowsWorld = (tokenizer: Tokenizer): boolean =>
  tokenizer.idOf(BOS) !== undefined && tokenizer.idOf(END) !== undefined;

/**
 * The log of the harbour town. For models of the world questions about it stand in it, as far back as the window
 * reaches, and the decisive words of their answers are answers; for others it is plain English text.
 */
export const worldHaystack: Haystack = {
  name: "the world's log",
  async open(tokenizer, length) {
    if (!knowsWorld(tokenizer)) return plainLog(tokenizer);
    const questions = { to: Math.max(20, Math.min(900, length - 60)), spread: "far" } as const;
    return function* (seed, index) {
      const encoder = new PieceEncoder(tokenizer);
      for (const piece of world({ seed, stream: index, questions })) {
        const [ids, answers] = encoder.encode(piece);
        yield { ids, answers };
      }
    };
  },
};

const plainLog = (tokenizer: Tokenizer): Straws =>
  function* (seed, index) {
    for (const { text } of world({ seed, stream: index, questions: null })) {
      yield { ids: tokenizer.encode(text, { addSpecial: false, continues: true }), answers: null };
    }
  };

/** Tokens of a straw of a file. */
const STRAW = 32;

/** UTF-8 text files, one after another; every window begins somewhere else in them. */
export const textHaystack = (paths: readonly string[]): Haystack => ({
  name: paths.join(", "),
  async open(tokenizer) {
    const ids: number[] = [];
    for (const path of paths) {
      for await (const text of readTextPieces(path)) {
        for (const id of tokenizer.encode(text, { addSpecial: false, continues: true })) ids.push(id);
      }
    }
    if (ids.length < STRAW) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `The text to hide passkeys in has ${ids.length} tokens; expected ${STRAW} or more.`,
        { tokens: ids.length },
      );
    }
    return function* (seed, index) {
      const random = createRandom(deriveSeed(seed, index, "place"));
      for (let at = Math.floor(random.next() * ids.length); ; at = (at + STRAW) % ids.length) {
        yield { ids: ids.slice(at, at + STRAW), answers: null };
      }
    };
  },
});
