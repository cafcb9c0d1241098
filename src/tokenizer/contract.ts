/**
 * A tokenizer turns text into token ids and back. Every implementation holds to these rules, and tokenizer tests
 * assert them:
 *
 *   - `decode(ids)` is the UTF-8 text of the ids' bytes one after another, invalid bytes as U+FFFD; nothing is
 *     cleaned up or trimmed, save the one space that `leadingSpace` speaks of.
 *   - `decode(encode(text))` is `text` for every well-formed text that the vocabulary can write. (SentencePiece cannot
 *     write "▁", and models with `leadingSpace` put a space behind special and user-defined tokens as well.)
 *   - Text never becomes a control token unless `parseSpecial` asks for it.
 */
export interface EncodeOptions {
  /** Add the BOS and EOS tokens that the file asks for. Default true. */
  readonly addSpecial?: boolean;
  /** Take the names of control tokens in the text ("<|im_end|>") for those tokens. Default false. */
  readonly parseSpecial?: boolean;
  /** The text goes on from text before it: no `leadingSpace` is put there. Default false. */
  readonly continues?: boolean;
}

export interface DecodeOptions {
  /** Leave control tokens out of the text. Default true. */
  readonly skipSpecial?: boolean;
}

export interface Tokenizer {
  readonly vocabularySize: number;
  /** Beginning of sequence; null where the file names none. */
  readonly bosId: number | null;
  /** End of sequence; null where the file names none. */
  readonly eosId: number | null;
  /** Every token that ends an answer: end of sequence, of turn, of message, and well-known names for them. */
  readonly eosIds: ReadonlySet<number>;
  /** Whether `addSpecial` puts the BOS token first, and the EOS token last. */
  readonly addsBos: boolean;
  readonly addsEos: boolean;
  /**
   * Whether `encode` puts a space before the text, so that `decode` takes one space away from the first token, if
   * that is an ordinary one.
   */
  readonly leadingSpace: boolean;
  /** Jinja source of the model's chat template; null where the file has none. */
  readonly chatTemplate: string | null;
  /** Lone surrogates in `text` count as U+FFFD. */
  encode(text: string, options?: EncodeOptions): Int32Array;
  /** Throws INVALID_TOKEN for an id outside the vocabulary. */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string;
  /** Bytes of text that the token stands for; a control token's are its name. Not to be changed. Throws INVALID_TOKEN. */
  tokenBytes(id: number): Uint8Array;
  /** Whether the token is a control or unknown token, which `skipSpecial` leaves out. Throws INVALID_TOKEN. */
  isSpecial(id: number): boolean;
  /** Whether the token is ordinary text: neither special, nor user-defined, nor a single fallback byte. */
  isOrdinary(id: number): boolean;
  /** Id of the token that the vocabulary writes as `piece`. */
  idOf(piece: string): number | undefined;
}
