/**
 * Decodes tokens one by one as they are generated. What `push` and `flush` have returned, joined, is
 * `tokenizer.decode([...after, ...ids])` without the text of `after`, whatever the ids are, and no part of it ends
 * within a character.
 */
import type { Tokenizer } from "./contract.js";
import { withoutLeadingSpace } from "./decode.js";

export interface DetokenizerOptions {
  /**
   * Tokens that stand before the first pushed one: behind text, a first token keeps its leading space; behind nothing
   * (or a lone BOS) it is the start of a text and loses the space that encoding put there. Default: none.
   */
  readonly after?: ArrayLike<number>;
  /** Leave control tokens out. Default true. */
  readonly skipSpecial?: boolean;
  /** Goes on where another one of the same options was saved; `after` is then not looked at. */
  readonly state?: DetokenizerState;
}

/** What is needed to go on elsewhere. */
export interface DetokenizerState {
  readonly atStart: boolean;
  /** The last bytes, an incomplete character among them. */
  readonly tail: readonly number[];
}

export interface Detokenizer {
  /** Text that became certain through this token; "" while a character is incomplete. Throws INVALID_TOKEN. */
  push(id: number): string;
  /** The end: what was held back, an incomplete character as U+FFFD. Afterwards it continues behind that text. */
  flush(): string;
  save(): DetokenizerState;
}

/** An incomplete character has at most this many bytes; any before it are of no account to what follows. */
const TAIL_BYTES = 3;

export function createDetokenizer(tokenizer: Tokenizer, options: DetokenizerOptions = {}): Detokenizer {
  const { after = [], skipSpecial = true, state } = options;
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let atStart = state?.atStart ?? tokenizer.leadingSpace;
  let tail = state?.tail ?? [];
  if (state) decoder.decode(Uint8Array.from(tail), { stream: true });
  for (let i = 0; !state && atStart && i < after.length; i++) {
    if (!(skipSpecial && tokenizer.isSpecial(after[i]!))) atStart = false;
  }
  return {
    push(id) {
      let bytes = tokenizer.tokenBytes(id);
      if (skipSpecial && tokenizer.isSpecial(id)) return "";
      if (atStart) bytes = withoutLeadingSpace(tokenizer, id, bytes);
      atStart = false;
      tail = [...tail, ...bytes.subarray(-TAIL_BYTES)].slice(-TAIL_BYTES);
      return decoder.decode(bytes, { stream: true });
    },
    flush() {
      tail = [];
      return decoder.decode();
    },
    save: () => ({ atStart, tail }),
  };
}
