import type { DecodeOptions, Tokenizer } from "./contract.js";
import { decodeUtf8 } from "./utf8.js";

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
