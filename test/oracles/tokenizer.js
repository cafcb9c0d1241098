/**
 * Writes test/fixtures/tokenizer/{bpe,spm}.json: small vocabularies, strings that are hard on tokenizers, and the ids
 * that llama.cpp gives for them; and long.json: digests of its ids for a whole novel, where ../shared is there. Run it
 * again when a pre-tokeniser is added:
 *
 *   npm run build && npm --prefix bench install && node test/oracles/tokenizer.js
 *
 * The vocabularies are trained here, on the strings themselves and across all word boundaries, so that a merge is
 * ready to go wrong wherever a pre-tokeniser cuts in another place.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { getLlama } from "../../bench/node_modules/node-llama-cpp/dist/index.js";
import { array, bool, f32, string, u32 } from "../../dist/formats/gguf-values.js";
import { writeGguf } from "../../dist/formats/gguf-writer.js";
import { BYTE_CHARACTERS } from "../../dist/tokenizer/byte-pieces.js";
import { PRE_TOKENIZER_NAMES } from "../../dist/tokenizer/pre-tokenizers.js";
import { STRINGS } from "./tokenizer-strings.js";

const SHARED = new URL("../../../shared/", import.meta.url);
const NUM_MERGES = 900;
const SPECIAL = [
  ["<|endoftext|>", 3],
  ["<|im_start|>", 3],
  ["<|im_end|>", 3],
  ["<tool>", 4],
  ["<tool>x", 4],
  ["    ", 4],
];

/** No merge may make the name of a token that is not made of text; nor hold NUL, where the peer's texts end. */
const isSpecial = (piece) =>
  piece.includes("\0") ||
  SPECIAL.some(([name]) => name === piece) ||
  /^(<s>|<\/s>|<unk>|<0x[0-9A-F]{2}>)$/.test(piece);

/** Plain byte-pair training: the most frequent pair of neighbours first, the lexically least of equals. */
function train(texts, symbolsOf, canMerge) {
  const sequences = texts.map(symbolsOf);
  const merges = [];
  while (merges.length < NUM_MERGES) {
    const counts = new Map();
    for (const sequence of sequences) {
      for (let i = 0; i + 1 < sequence.length; i++) {
        const pair = `${sequence[i]} ${sequence[i + 1]}`;
        if (canMerge(sequence[i] + sequence[i + 1])) counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    let best;
    for (const [pair, count] of counts) {
      if (!best || count > best[1] || (count === best[1] && pair < best[0])) best = [pair, count];
    }
    if (!best) break;
    merges.push(best[0]);
    const [left, right] = best[0].split(" ");
    for (const [s, sequence] of sequences.entries()) {
      const merged = [];
      for (let i = 0; i < sequence.length; i++) {
        const joins = sequence[i] === left && sequence[i + 1] === right;
        merged.push(joins ? left + right : sequence[i]);
        if (joins) i++;
      }
      sequences[s] = merged;
    }
  }
  return merges;
}

const llama = await getLlama({ gpu: false, build: "never", logLevel: "fatal" });
const folder = await mkdtemp(join(tmpdir(), "tokenizer-oracle-"));

/** What the peer's tokenizer makes of `metadata`, given to `use`. */
async function withTokenizer(metadata, use) {
  const path = join(folder, "vocabulary.gguf");
  await writeGguf(path, {
    metadata: {
      "general.architecture": string("llama"),
      "llama.context_length": u32(32),
      "llama.embedding_length": u32(32),
      "llama.block_count": u32(1),
      "llama.feed_forward_length": u32(32),
      "llama.attention.head_count": u32(1),
      "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
      "llama.rope.dimension_count": u32(32),
      ...metadata,
    },
    tensors: [],
  });
  return withModel(path, use);
}

async function withModel(path, use) {
  const model = await llama.loadModel({ modelPath: path, vocabOnly: true });
  const answer = use((text, special) => model._model.tokenize(text, special));
  await model.dispose();
  return answer;
}

/** Ids of every string, control tokens as text and as tokens. */
const ask = (metadata) =>
  withTokenizer(metadata, (tokenize) => {
    const ids = (special) => STRINGS.map((text) => Array.from(tokenize(text, special)));
    return { text: ids(false), special: ids(true) };
  });

const bpeMetadata = ({ pieces, types, merges }, name) => ({
  "tokenizer.ggml.model": string("gpt2"),
  "tokenizer.ggml.pre": string(name),
  "tokenizer.ggml.tokens": array("string", pieces),
  "tokenizer.ggml.token_type": array("i32", types),
  "tokenizer.ggml.merges": array("string", merges),
  "tokenizer.ggml.bos_token_id": u32(pieces.indexOf("<|endoftext|>")),
  "tokenizer.ggml.eos_token_id": u32(pieces.indexOf("<|endoftext|>")),
});

async function bpe() {
  const symbolsOf = (text) => Array.from(Buffer.from(text), (byte) => BYTE_CHARACTERS[byte]);
  const merges = train(STRINGS, symbolsOf, (piece) => !isSpecial(piece));
  const pieces = [...BYTE_CHARACTERS, ...new Set(merges.map((merge) => merge.replace(" ", "")))];
  const types = pieces.map(() => 1);
  for (const [piece, type] of SPECIAL) {
    pieces.push(piece);
    types.push(type);
  }
  const answers = {};
  const known = new Map();
  for (const name of PRE_TOKENIZER_NAMES) {
    let answer;
    try {
      answer = await ask(bpeMetadata({ pieces, types, merges }, name));
    } catch (error) {
      console.error(`${name}: not known to the peer (${error.message})`);
      continue;
    }
    const key = JSON.stringify(answer);
    answers[name] = known.get(key) ?? answer;
    if (!known.has(key)) known.set(key, name);
  }
  return { strings: STRINGS, pieces, types, merges, answers };
}

async function sentencePiece() {
  const escaped = STRINGS.map((text) => `▁${text.replaceAll(" ", "▁")}`);
  const answers = {};
  const vocabularies = {};
  // With pieces that never hold a space behind a letter, as real ones are, and with pieces that do.
  for (const [name, canMerge] of [
    ["words", (piece) => !isSpecial(piece) && !/[^▁]▁/u.test(piece)],
    ["phrases", (piece) => !isSpecial(piece)],
  ]) {
    const merges = train(escaped, (text) => Array.from(text), canMerge);
    const letters = new Set(escaped.flatMap((text) => text.match(/[\t-~▁é]/gu) ?? []));
    const byte = (value) => `<0x${value.toString(16).toUpperCase().padStart(2, "0")}>`;
    const pieces = ["<unk>", "<s>", "</s>", ...Array.from({ length: 256 }, (_, value) => byte(value))];
    const types = [2, 3, 3, ...Array.from({ length: 256 }, () => 6)];
    for (const piece of new Set([...merges.map((merge) => merge.replace(" ", "")), ...letters])) {
      pieces.push(piece);
      types.push(1);
    }
    for (const [piece, type] of SPECIAL) {
      pieces.push(piece);
      types.push(type);
    }
    const scores = pieces.map((_, id) => (types[id] === 1 ? 259 - id : 0));
    vocabularies[name] = { pieces, types, scores };
    for (const prefix of [true, false]) {
      answers[`${name}${prefix ? "" : ", no prefix"}`] = await ask({
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.tokens": array("string", pieces),
        "tokenizer.ggml.token_type": array("i32", types),
        "tokenizer.ggml.scores": array("f32", scores),
        "tokenizer.ggml.add_space_prefix": bool(prefix),
        "tokenizer.ggml.bos_token_id": u32(1),
        "tokenizer.ggml.eos_token_id": u32(2),
      });
    }
  }
  return { strings: STRINGS, vocabularies, answers };
}

/** Number and digest of the ids of a long text. */
async function long(vocabulary) {
  const novel = await readFile(new URL("data/text/war-and-peace.txt", SHARED), "utf8");
  const digest = (tokenize) => {
    const ids = Int32Array.from(tokenize(novel, false));
    return { count: ids.length, sha256: createHash("sha256").update(ids).digest("hex") };
  };
  const answers = {
    stories260K: await withModel(
      fileURLToPath(new URL("data/models/stories260K/stories260K.gguf", SHARED)),
      digest,
    ),
  };
  for (const name of ["llama-bpe", "deepseek-llm"]) {
    answers[name] = await withTokenizer(bpeMetadata(vocabulary, name), digest);
  }
  return answers;
}

const store = (name, value) =>
  writeFile(new URL(`../fixtures/tokenizer/${name}.json`, import.meta.url), `${JSON.stringify(value)}\n`);
const vocabulary = await bpe();
await store("bpe", vocabulary);
await store("spm", await sentencePiece());
if (existsSync(SHARED)) await store("long", await long(vocabulary));
await rm(folder, { recursive: true });
process.exit(0);
