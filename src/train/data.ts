/**
 * What a model is trained on: windows of a fixed number of tokens without padding. A source answers for any index, so
 * the trainer need not keep a place in it: step s of batch size b takes windows s * b to s * b + b - 1, and a resumed
 * run asks for the same ones again. A generator is a source too: it makes window `index` from (its seed, index).
 */
import { createHash } from "node:crypto";
import { MillraceError } from "../errors.js";
import { createRandom } from "../sampling/random.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { deriveSeed } from "./seeds.js";
import { readTextPieces } from "./text-files.js";

/** One training example. Arrays are the caller's own. */
export interface Window {
  /** [length] ids that the model reads; the first is the same in every window of a source (the attention sink). */
  readonly tokens: Int32Array;
  /** [length] ids that it shall say next; -1 where nothing is asked of it. */
  readonly targets: Int32Array;
  /** [length] factors on the loss of each target; null where all are 1. */
  readonly weights: Float32Array | null;
}

export interface WindowSource {
  /** Tokens of every window. */
  readonly windowLength: number;
  /** Different windows there are before they come again; Infinity for a generator. */
  readonly numWindows: number;
  /** The window at `index`, any whole number from 0 on; the same index always gives the same window. */
  window(index: number): Window | Promise<Window>;
}

export interface TextDataOptions {
  /** Tokens of every window. */
  readonly windowLength: number;
  /** Order of the windows; a whole number from 0 on. */
  readonly seed: number;
  /** Share of the text, at its end, that is kept from training; default 0, at most 0.5. */
  readonly heldOut?: number;
  /** First token of every window; default the tokenizer's BOS, else its EOS. */
  readonly firstToken?: number;
  /** Token between documents; default the tokenizer's EOS; null for none. */
  readonly separator?: number | null;
  /** Take the names of control tokens in the text for those tokens; default false. */
  readonly parseSpecial?: boolean;
}

export interface TextData {
  readonly train: WindowSource;
  /** Null where nothing is held out. */
  readonly heldOut: WindowSource | null;
  /** Tokens of all documents and separators. */
  readonly numTokens: number;
  /** Of the text and its tokens. */
  readonly digest: string;
}

/** A document in pieces, as `readTextPieces` cuts them. */
export type TextPieces = Iterable<string> | AsyncIterable<string>;

/** As `packText`, every file a document. Throws also FILE_NOT_FOUND, and BAD_FORMAT for one empty or not UTF-8. */
export async function openTextData(
  paths: readonly string[],
  tokenizer: Tokenizer,
  options: TextDataOptions,
): Promise<TextData> {
  check(paths.length > 0, "data", "no files", "at least one text file");
  return packText(paths.map(readTextPieces), tokenizer, options);
}

/**
 * Tokenises documents and cuts the stream of all of them, one after another, into windows. Every token is the target of
 * one window an epoch; less than a window is left over. Throws INVALID_ARGUMENT for options out of range and for text
 * shorter than one window.
 */
export async function packText(
  documents: Iterable<TextPieces>,
  tokenizer: Tokenizer,
  options: TextDataOptions,
): Promise<TextData> {
  const { parseSpecial = false, separator = tokenizer.eosId } = options;
  const ids = new TokenStream();
  // Of the text too: another text's tokenizer may give it the same ids.
  const hash = createHash("sha256");
  for (const pieces of documents) {
    let first = true;
    for await (const piece of pieces) {
      // A tokenizer that puts a space before its text gets later pieces without theirs.
      const text = first || !tokenizer.leadingSpace ? piece : piece.slice(1);
      ids.append(tokenizer.encode(text, { addSpecial: false, parseSpecial }));
      hash.update(text);
      first = false;
    }
    if (separator !== null) ids.append(Int32Array.of(separator));
  }
  const tokens = ids.toArray();
  const digest = hash.update(tokens).digest("hex").slice(0, 16);
  return { ...packTokens(tokens, tokenizer, options), digest };
}

function packTokens(
  ids: Int32Array,
  tokenizer: Tokenizer,
  options: TextDataOptions,
): Omit<TextData, "digest"> {
  const { windowLength, seed, heldOut = 0 } = options;
  check(
    Number.isSafeInteger(windowLength) && windowLength >= 2,
    "windowLength",
    windowLength,
    "a whole number of at least 2",
  );
  check(Number.isSafeInteger(seed) && seed >= 0, "seed", seed, "a whole number from 0 to 2^53 - 1");
  check(heldOut >= 0 && heldOut <= 0.5, "heldOut", heldOut, "a share from 0 to 0.5");
  const firstToken = options.firstToken ?? tokenizer.bosId ?? tokenizer.eosId;
  if (firstToken === null || !(firstToken >= 0 && firstToken < tokenizer.vocabularySize)) {
    throw invalid("firstToken", String(firstToken), "a token id, since the tokenizer names no BOS or EOS");
  }
  const numWindows = Math.floor(ids.length / windowLength);
  const numHeldOut = heldOut === 0 ? 0 : Math.max(1, Math.round(numWindows * heldOut));
  if (numWindows - numHeldOut < 1) {
    throw invalid(
      "data",
      `${ids.length} tokens of text`,
      `at least ${windowLength * (numHeldOut + 1)}: one window of ${windowLength} tokens to train on` +
        (numHeldOut === 0 ? "" : ` and ${numHeldOut} held out`),
    );
  }
  const boundary = ids.length - numHeldOut * windowLength;
  const cut = { windowLength, firstToken };
  return {
    train: shuffledWindows(ids.subarray(0, boundary), cut, seed),
    heldOut: numHeldOut === 0 ? null : orderedWindows(ids.subarray(boundary), cut),
    numTokens: ids.length,
  };
}

interface Cut {
  readonly windowLength: number;
  readonly firstToken: number;
}

/** The window whose targets are `ids` from `start` on: what it reads is the first token and then all but the last. */
function windowAt(ids: Int32Array, { windowLength, firstToken }: Cut, start: number): Window {
  const targets = ids.slice(start, start + windowLength);
  const tokens = new Int32Array(windowLength);
  tokens[0] = firstToken;
  tokens.set(targets.subarray(0, windowLength - 1), 1);
  return { tokens, targets, weights: null };
}

function orderedWindows(ids: Int32Array, cut: Cut): WindowSource {
  const numWindows = Math.floor(ids.length / cut.windowLength);
  return {
    windowLength: cut.windowLength,
    numWindows,
    window: (index) => windowAt(ids, cut, (index % numWindows) * cut.windowLength),
  };
}

/** Every window once an epoch, in an order of the epoch's own, and cut at another place where there is room. */
function shuffledWindows(ids: Int32Array, cut: Cut, seed: number): WindowSource {
  const { windowLength } = cut;
  const numWindows = Math.floor(ids.length / windowLength);
  const room = ids.length - numWindows * windowLength;
  let known = -1;
  let start = 0;
  const order = new Uint32Array(numWindows);
  const prepare = (epoch: number): void => {
    const random = createRandom(deriveSeed(seed, epoch));
    start = Math.floor(random.next() * (room + 1));
    for (let i = 0; i < numWindows; i++) {
      const j = Math.floor(random.next() * (i + 1));
      order[i] = order[j]!;
      order[j] = i;
    }
    known = epoch;
  };
  return {
    windowLength,
    numWindows,
    window(index) {
      const epoch = Math.floor(index / numWindows);
      if (epoch !== known) prepare(epoch);
      return windowAt(ids, cut, start + order[index % numWindows]! * windowLength);
    },
  };
}

/** A growing list of ids. */
class TokenStream {
  #ids = new Int32Array(1024);
  #length = 0;

  append(ids: Int32Array): void {
    const length = this.#length + ids.length;
    if (length > this.#ids.length) {
      const grown = new Int32Array(Math.max(length, this.#ids.length * 2));
      grown.set(this.#ids.subarray(0, this.#length));
      this.#ids = grown;
    }
    this.#ids.set(ids, this.#length);
    this.#length = length;
  }

  toArray(): Int32Array {
    return this.#ids.subarray(0, this.#length);
  }
}

function check(holds: boolean, name: string, got: string | number, expected: string): void {
  if (!holds) throw invalid(name, String(got), expected);
}

function invalid(name: string, got: string, expected: string): MillraceError {
  return new MillraceError("INVALID_ARGUMENT", `Training data: ${name}: got ${got}; expected ${expected}.`, {
    name,
    got,
    expected,
  });
}
