import { MillraceError } from "../errors.js";
import type { DecodeOptions, EncodeOptions, Tokenizer } from "./contract.js";
import { type GgufVocabulary, isSpecialType, TOKEN_TYPE } from "./gguf-vocabulary.js";
import { decodeUtf8, wellFormed } from "./utf8.js";

/** A growing list of token ids. */
export class IdList {
  #ids = new Int32Array(64);
  #length = 0;

  push(id: number): void {
    if (this.#length === this.#ids.length) this.#grow(1);
    this.#ids[this.#length++] = id;
  }

  append(ids: Int32Array): void {
    if (this.#length + ids.length > this.#ids.length) this.#grow(ids.length);
    this.#ids.set(ids, this.#length);
    this.#length += ids.length;
  }

  toArray(): Int32Array {
    return this.#ids.slice(0, this.#length);
  }

  #grow(by: number): void {
    const ids = new Int32Array(Math.max(this.#ids.length * 2, this.#length + by));
    ids.set(this.#ids);
    this.#ids = ids;
  }
}

/** What differs between the kinds of tokenizer that GGUF files carry. */
export interface TextCoder {
  readonly leadingSpace: boolean;
  /**
   * Appends the ids of `text`, which holds no special token. `first`: it stands at the start or behind a special
   * token.
   */
  encode(text: string, first: boolean, into: IdList): void;
  /** Bytes that the ordinary token `id` stands for. */
  bytes(id: number): Uint8Array;
}

/** A tokenizer over `vocabulary` whose ordinary text is `coder`'s work. */
export function createGgufTokenizer(vocabulary: GgufVocabulary, coder: TextCoder): Tokenizer {
  const { pieces, types, bosId, eosId } = vocabulary;
  const bytesOf: (Uint8Array | undefined)[] = new Array(pieces.length);

  const check = (id: number): number => {
    if (Number.isInteger(id) && id >= 0 && id < pieces.length) return id;
    throw new MillraceError(
      "INVALID_TOKEN",
      `Token id ${id} is outside the vocabulary; expected a whole number from 0 to ${pieces.length - 1}.`,
      { got: id, expected: `0 to ${pieces.length - 1}` },
    );
  };
  const tokenBytes = (id: number): Uint8Array => (bytesOf[check(id)] ??= coder.bytes(id));
  const isSpecial = (id: number): boolean => isSpecialType(types[check(id)]!);
  const isOrdinary = (id: number): boolean => {
    const type = types[check(id)]!;
    return type === TOKEN_TYPE.normal || type === TOKEN_TYPE.undefined || type === TOKEN_TYPE.unused;
  };

  const tokenizer: Tokenizer = {
    vocabularySize: pieces.length,
    bosId,
    eosId,
    eosIds: vocabulary.eosIds,
    addsBos: vocabulary.addsBos,
    addsEos: vocabulary.addsEos,
    leadingSpace: coder.leadingSpace,
    chatTemplate: vocabulary.chatTemplate,
    tokenBytes,
    isSpecial,
    isOrdinary,
    idOf: (piece) => vocabulary.ids.get(piece),
    encode(text, options: EncodeOptions = {}) {
      const { addSpecial = true, parseSpecial = false } = options;
      const ids = new IdList();
      if (addSpecial && vocabulary.addsBos) ids.push(bosId!);
      const matcher = parseSpecial ? vocabulary.allSpecial : vocabulary.userDefined;
      let first = true;
      for (const fragment of matcher.split(wellFormed(text))) {
        if (typeof fragment === "number") ids.push(fragment);
        else coder.encode(fragment, first, ids);
        first = typeof fragment === "number";
      }
      if (addSpecial && vocabulary.addsEos) ids.push(eosId!);
      return ids.toArray();
    },
    decode: (ids, options) => decodeIds(tokenizer, ids, options),
  };
  return tokenizer;
}

/** `Tokenizer.decode` by the rules of the contract, from the tokenizer's other methods. */
export function decodeIds(
  tokenizer: Pick<Tokenizer, "tokenBytes" | "isSpecial" | "isOrdinary" | "leadingSpace">,
  ids: ArrayLike<number>,
  options: DecodeOptions = {},
): string {
  const { skipSpecial = true } = options;
  const parts: Uint8Array[] = [];
  let length = 0;
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    let bytes = tokenizer.tokenBytes(id);
    if (skipSpecial && tokenizer.isSpecial(id)) continue;
    if (tokenizer.leadingSpace && parts.length === 0) bytes = withoutLeadingSpace(tokenizer, id, bytes);
    parts.push(bytes);
    length += bytes.length;
  }
  const all = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return decodeUtf8(all);
}

/** `bytes` of the first token of a text, without the space that `encode` put before the text. */
export function withoutLeadingSpace(
  tokenizer: Pick<Tokenizer, "isOrdinary">,
  id: number,
  bytes: Uint8Array,
): Uint8Array {
  return bytes[0] === 0x20 && tokenizer.isOrdinary(id) ? bytes.subarray(1) : bytes;
}
