import type { EncodeOptions, Tokenizer } from "./contract.js";
import { decodeIds } from "./decode.js";
import { type GgufVocabulary, isSpecialType, TOKEN_TYPE } from "./gguf-vocabulary.js";
import { IdList } from "./id-list.js";
import { checkedTokenId } from "./token-id.js";
import { wellFormed } from "./utf8.js";

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

  const check = (id: number): number => checkedTokenId(id, pieces.length);
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
      const { addSpecial = true, parseSpecial = false, continues = false } = options;
      const ids = new IdList();
      if (addSpecial && vocabulary.addsBos) ids.push(bosId!);
      const matcher = parseSpecial ? vocabulary.allSpecial : vocabulary.userDefined;
      let first = !continues;
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
