/**
 * Tokenizers from `tokenizer.json` and `tokenizer_config.json`, which lie beside safetensors. Encoding is the work of
 * `@huggingface/tokenizers`; the bytes of each token, which streaming needs, are read from the file's decoder.
 */
import { Tokenizer as Library } from "@huggingface/tokenizers";
import { MillraceError } from "../errors.js";
import { byteOf, fallbackByte } from "./byte-pieces.js";
import type { EncodeOptions, Tokenizer } from "./contract.js";
import { decodeIds } from "./decode.js";
import { endOfGenerationIds } from "./special-tokens.js";
import { checkedTokenId } from "./token-id.js";
import { encodeUtf8, wellFormed } from "./utf8.js";

type Json = Record<string, unknown>;

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/**
 * Throws BAD_TOKENIZER for files that lack parts or contradict themselves, UNSUPPORTED_TOKENIZER for kinds of
 * tokenizer whose tokens are not runs of bytes (WordPiece, CTC).
 */
export function createHuggingFaceTokenizer(json: Json, config: Json): Tokenizer {
  const added = addedTokens(json);
  const full = load(json, config);
  // Without the special tokens' names, which the library would otherwise find in any text.
  const withoutSpecial = { ...json, added_tokens: added.filter((token) => !token.special) };
  const textOnly = load(withoutSpecial, config);
  /** For text that goes on from other text; made when first asked for, since each holds the whole vocabulary. */
  const inner = new Map<boolean, Library>();
  const within = (parseSpecial: boolean): Library => {
    let library = inner.get(parseSpecial);
    if (!library) {
      library = load(unprefixed(parseSpecial ? json : withoutSpecial), config);
      inner.set(parseSpecial, library);
    }
    return library;
  };

  const pieces: string[] = [];
  const ids = new Map<string, number>();
  for (const [piece, id] of full.get_vocab()) {
    if (piece === undefined) continue;
    pieces[id] = piece;
    ids.set(piece, id);
  }
  const special = new Set(added.filter((token) => token.special).map((token) => token.id));
  const userDefined = new Set(added.filter((token) => !token.special).map((token) => token.id));
  const bosId = namedToken(config, "bos_token", ids);
  const eosId = namedToken(config, "eos_token", ids);
  const eosIds = endOfGenerationIds([eosId], (piece) => ids.get(piece));
  const { before, after } = surroundings(full, config, bosId, eosId);

  const { toBytes, leadingSpace } = textOf(json);
  const fallback = isRecord(json.model) && json.model.byte_fallback === true;
  const byteIn = (id: number) => (fallback && !userDefined.has(id) ? fallbackByte(pieces[id] ?? "") : -1);

  const check = (id: number): number => checkedTokenId(id, pieces.length);
  const bytesOf: (Uint8Array | undefined)[] = new Array(pieces.length);
  const bytes = (id: number): Uint8Array => {
    const piece = pieces[id] ?? "";
    if (special.has(id) || userDefined.has(id)) return encodeUtf8(piece);
    const byte = byteIn(id);
    return byte >= 0 ? Uint8Array.of(byte) : toBytes(piece);
  };

  const tokenizer: Tokenizer = {
    vocabularySize: pieces.length,
    bosId,
    eosId,
    eosIds,
    addsBos: bosId !== null && before.includes(bosId),
    addsEos: eosId !== null && after.includes(eosId),
    leadingSpace,
    chatTemplate: chatTemplate(config),
    tokenBytes: (id) => (bytesOf[check(id)] ??= bytes(id)),
    isSpecial: (id) => special.has(check(id)) || eosIds.has(id),
    isOrdinary: (id) => !special.has(check(id)) && !userDefined.has(id) && !eosIds.has(id) && byteIn(id) < 0,
    idOf: (piece) => ids.get(piece),
    encode(text, options: EncodeOptions = {}) {
      const { addSpecial = true, parseSpecial = false, continues = false } = options;
      const library = continues && leadingSpace ? within(parseSpecial) : parseSpecial ? full : textOnly;
      // Where the vocabulary has neither a token nor an unknown token for a piece, the library yields undefined.
      const inner: readonly (number | undefined)[] = library.encode(wellFormed(text), {
        add_special_tokens: false,
      }).ids;
      const known = inner.filter((id) => id !== undefined);
      return Int32Array.from(addSpecial ? [...before, ...known, ...after] : known);
    },
    decode: (list, options) => decodeIds(tokenizer, list, options),
  };
  return tokenizer;
}

function load(json: Json, config: Json): Library {
  try {
    return new Library(json, config);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    if (/unknown|unsupported|not implemented/i.test(reason)) {
      const advice = "Token ids can still be given directly.";
      throw new MillraceError("UNSUPPORTED_TOKENIZER", `tokenizer.json: ${reason}. ${advice}`, { reason });
    }
    throw new MillraceError("BAD_TOKENIZER", `tokenizer.json: ${reason}. Fetch the file anew.`, { reason });
  }
}

function addedTokens(json: Json): AddedToken[] {
  const list = json.added_tokens ?? [];
  const isToken = (token: unknown): token is AddedToken =>
    isRecord(token) &&
    Number.isInteger(token.id) &&
    (token.id as number) >= 0 &&
    typeof token.content === "string";
  if (Array.isArray(list) && list.every(isToken)) return list;
  throw new MillraceError(
    "BAD_TOKENIZER",
    "tokenizer.json's added_tokens holds something else than tokens; expected objects with id and content.",
    { name: "added_tokens" },
  );
}

/** The ids that the file puts before and after every text. */
function surroundings(
  library: Library,
  config: Json,
  bosId: number | null,
  eosId: number | null,
): { before: number[]; after: number[] } {
  const probe = "a";
  const inner: readonly number[] = library.encode(probe, { add_special_tokens: false }).ids;
  const outer: readonly number[] = library.encode(probe, { add_special_tokens: true }).ids;
  const at = outer.findIndex((_, i) => inner.every((id, j) => outer[i + j] === id));
  let before = outer.slice(0, Math.max(0, at));
  let after = outer.slice(Math.max(0, at) + inner.length);
  // tokenizer_config.json has the last word where it speaks.
  if (typeof config.add_bos_token === "boolean" && bosId !== null) {
    before = [...(config.add_bos_token ? [bosId] : []), ...before.filter((id) => id !== bosId)];
  }
  if (typeof config.add_eos_token === "boolean" && eosId !== null) {
    after = [...after.filter((id) => id !== eosId), ...(config.add_eos_token ? [eosId] : [])];
  }
  return { before, after };
}

function namedToken(config: Json, name: string, ids: ReadonlyMap<string, number>): number | null {
  const value = config[name];
  const piece = isRecord(value) ? value.content : value;
  if (piece === undefined || piece === null) return null;
  const id = typeof piece === "string" ? ids.get(piece) : undefined;
  if (id !== undefined) return id;
  throw new MillraceError(
    "BAD_TOKENIZER",
    `tokenizer_config.json's ${name} is ${JSON.stringify(piece)}, which tokenizer.json does not have.`,
    { name, got: String(piece) },
  );
}

/** A model may have several named templates; "default" is the one for conversations. */
function chatTemplate(config: Json): string | null {
  const value = config.chat_template;
  if (typeof value === "string" && value !== "") return value;
  if (!Array.isArray(value)) return null;
  const templates = value.filter(isRecord).filter((entry) => typeof entry.template === "string");
  const chosen = templates.find((entry) => entry.name === "default") ?? templates[0];
  return (chosen?.template as string | undefined) ?? null;
}

/** How ordinary pieces are turned into bytes, and whether decoding drops a leading space: from the file's decoder. */
function textOf(json: Json): { toBytes: (piece: string) => Uint8Array; leadingSpace: boolean } {
  const steps = flatten(json.decoder, "decoders");
  const types = steps.map((step) => step.type);
  if (types.includes("ByteLevel")) return { toBytes: fromByteAlphabet, leadingSpace: false };
  if (types.includes("Metaspace") || types.includes("ByteFallback") || types.includes("Fuse")) {
    const leadingSpace = steps.some(
      (step) =>
        (step.type === "Strip" && step.content === " " && Number(step.start) > 0) ||
        (step.type === "Metaspace" && step.prepend_scheme !== "never" && step.add_prefix_space !== false),
    );
    return { toBytes: (piece) => encodeUtf8(piece.replaceAll("▁", " ")), leadingSpace };
  }
  const got = types.length === 0 ? "none" : types.join(", ");
  throw new MillraceError(
    "UNSUPPORTED_TOKENIZER",
    `tokenizer.json's decoder is ${got}; known are ByteLevel, Metaspace and ByteFallback. ` +
      "Token ids can still be given directly.",
    { got, expected: ["ByteLevel", "Metaspace", "ByteFallback"] },
  );
}

/** The file without the steps that put a space before a text. */
function unprefixed(json: Json): Json {
  const stripped = (step: unknown, key: string): Json | null => {
    if (!isRecord(step) || step.type === "Prepend") return null;
    const parts = step[key];
    if (Array.isArray(parts)) {
      return { ...step, [key]: parts.map((part) => stripped(part, key)).filter((part) => part !== null) };
    }
    return step.type === "Metaspace" ? { ...step, prepend_scheme: "never", add_prefix_space: false } : step;
  };
  return {
    ...json,
    normalizer: stripped(json.normalizer, "normalizers"),
    pre_tokenizer: stripped(json.pre_tokenizer, "pretokenizers"),
  };
}

function flatten(step: unknown, key: string): Json[] {
  if (!isRecord(step)) return [];
  const inner = step[key];
  return step.type === "Sequence" && Array.isArray(inner)
    ? inner.flatMap((each) => flatten(each, key))
    : [step];
}

function fromByteAlphabet(piece: string): Uint8Array {
  return Uint8Array.from(Array.from(piece).flatMap((c) => byteOf(c) ?? Array.from(encodeUtf8(c))));
}

const isRecord = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
