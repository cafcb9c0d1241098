/** What a run can be trained on: text files, or anything that makes windows for a tokenizer. */
import type { Tokenizer } from "../tokenizer/contract.js";
import { openTextData, type WindowSource } from "./data.js";
import { readTextPieces } from "./text-files.js";
import type { TokenizerTrainingOptions } from "./tokenizer.js";

/**
 * How another thread makes the same data: it imports the module of this URL and calls its function `make` with
 * `options`, which are plain data.
 */
export interface DataRecipe {
  readonly module: string;
  readonly make: string;
  readonly options: unknown;
}

export interface TrainingData {
  /** Identifies the data in checkpoints: a resumed run must have the same. */
  readonly name: string;
  /** What a tokenizer that is trained on it must have beside words. */
  readonly tokenizer: Omit<TokenizerTrainingOptions, "vocabularySize">;
  /** Texts that a new tokenizer is trained on. */
  sample(): Iterable<string> | AsyncIterable<string>;
  /** Windows of `length` tokens to train on, and others that are kept from training, if any. */
  windows(
    tokenizer: Tokenizer,
    length: number,
  ): Promise<{
    readonly train: WindowSource;
    readonly heldOut: WindowSource | null;
    /** Of what stands in them, where the name does not say it: a resumed run must have the same. */
    readonly digest?: string;
  }>;
  /** Where making a window takes work: with it windows are made ahead, in a thread of their own. */
  readonly recipe?: DataRecipe;
}

/** Characters of text that a tokenizer is trained on at most. */
const SAMPLE_CHARACTERS = 2 ** 25;

export interface TextFilesOptions {
  /** Order of the windows. */
  readonly seed: number;
  /** Share of the text, at its end, that is kept from training. */
  readonly heldOut: number;
  /** Take the names of control tokens in the text for those tokens. Default false. */
  readonly parseSpecial?: boolean;
}

/** UTF-8 text files, each a document. Reading throws FILE_NOT_FOUND, and BAD_FORMAT for one empty or not UTF-8. */
export function textFiles(paths: readonly string[], options: TextFilesOptions): TrainingData {
  const { seed, heldOut, parseSpecial = false } = options;
  return {
    name: `${paths.length} text files, seed ${seed}, ${heldOut} held out${parseSpecial ? ", control tokens" : ""}`,
    tokenizer: {},
    async *sample() {
      let left = SAMPLE_CHARACTERS;
      for (const path of paths) {
        for await (const piece of readTextPieces(path)) {
          yield piece.slice(0, left);
          left -= piece.length;
          if (left <= 0) return;
        }
      }
    },
    windows: (tokenizer, windowLength) =>
      openTextData(paths, tokenizer, { windowLength, seed, heldOut, parseSpecial }),
  };
}
