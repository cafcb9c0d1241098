/** Fresh models: a decoder of the llama architecture with weights drawn from a seed. */
import { MillraceError } from "../errors.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { f32, type GgufValue, plainValue, string, u32 } from "../formats/gguf-values.js";
import { type MemoryTensor, memoryCheckpoint } from "../formats/memory.js";
import { createRandom } from "../sampling/random.js";
import { wireLookBack } from "./look-back.js";
import { fillNormal } from "./normal.js";

/** Sizes of a decoder; widths in elements. */
export interface DecoderShape {
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  /** Heads of keys and values, which share the others among them; default `heads`. */
  readonly kvHeads?: number;
  /** Default width / heads. */
  readonly headWidth?: number;
  readonly feedForward: number;
  /** Tokens that the model is trained for. */
  readonly context: number;
  /** Default 10,000. */
  readonly ropeBase?: number;
  /** Whether the output matrix is the embedding; default true. */
  readonly tied?: boolean;
  /** Under the root of every norm; default 1e-5. */
  readonly epsilon?: number;
}

export interface InitialiseOptions {
  readonly seed: number;
  /** `general.name`. */
  readonly name?: string;
  /** Begin with heads that look back, where copying is much of the task: see look-back.ts. Default false. */
  readonly lookBack?: boolean;
}

/** A checkpoint that also knows its metadata with types, as a GGUF file does, so that it can be written. */
export interface WritableCheckpoint extends Checkpoint {
  readonly entries: ReadonlyMap<string, GgufValue>;
}

/**
 * A model of this shape over the vocabulary of `tokenizer` (keys `tokenizer.*`, as `trainTokenizer` gives them), in
 * memory, F32. Matrices are normal with variance 1 / columns, so that activations keep their size; those that write
 * onto the residual stream are divided by sqrt(2 layers), so that the stream keeps its own (Radford et al., 2019); norm
 * weights are 1. The same seed gives the same weights. Throws INVALID_ARGUMENT for sizes that make no decoder.
 */
export function initialiseModel(
  shape: DecoderShape,
  tokenizer: Readonly<Record<string, GgufValue>>,
  options: InitialiseOptions,
): WritableCheckpoint {
  const { width, layers, heads, feedForward, context, tied = true, epsilon = 1e-5, ropeBase = 10000 } = shape;
  const { kvHeads = heads, headWidth = width / heads } = shape;
  if (shape.headWidth === undefined)
    check(width % heads === 0, "width", width, `a multiple of its ${heads} heads`);
  for (const [name, value] of Object.entries({
    width,
    layers,
    heads,
    kvHeads,
    headWidth,
    feedForward,
    context,
  })) {
    check(Number.isSafeInteger(value) && value >= 1, name, value, "a whole number of at least 1");
  }
  check(heads % kvHeads === 0, "heads", heads, `a multiple of the ${kvHeads} key-value heads`);
  check(headWidth % 2 === 0, "headWidth", headWidth, "an even number, since elements are rotated in pairs");
  check(Number.isFinite(ropeBase) && ropeBase > 1, "ropeBase", ropeBase, "a number above 1");
  check(Number.isFinite(epsilon) && epsilon > 0, "epsilon", epsilon, "a number above 0");
  const { seed } = options;
  check(Number.isSafeInteger(seed) && seed >= 0, "seed", seed, "a whole number from 0 to 2^53 - 1");
  const tokens = tokenizer["tokenizer.ggml.tokens"];
  const vocabulary = tokens?.type === "array" ? tokens.value.length : 0;
  check(vocabulary > 0, "tokenizer", "no tokens", 'a list under "tokenizer.ggml.tokens"');

  const random = createRandom(seed);
  const tensors: Record<string, MemoryTensor> = {};
  const matrix = (name: string, rows: number, columns: number, gain = 1): void => {
    const data = fillNormal(new Float32Array(rows * columns), random, gain / Math.sqrt(columns));
    tensors[`${name}.weight`] = { shape: [rows, columns], data };
  };
  const norm = (name: string): void => {
    tensors[`${name}.weight`] = { shape: [width], data: new Float32Array(width).fill(1) };
  };
  const ontoStream = 1 / Math.sqrt(2 * layers);
  matrix("token_embd", vocabulary, width);
  for (let layer = 0; layer < layers; layer++) {
    const at = `blk.${layer}`;
    norm(`${at}.attn_norm`);
    matrix(`${at}.attn_q`, heads * headWidth, width);
    matrix(`${at}.attn_k`, kvHeads * headWidth, width);
    matrix(`${at}.attn_v`, kvHeads * headWidth, width);
    matrix(`${at}.attn_output`, width, heads * headWidth, ontoStream);
    norm(`${at}.ffn_norm`);
    matrix(`${at}.ffn_gate`, feedForward, width);
    matrix(`${at}.ffn_up`, feedForward, width);
    matrix(`${at}.ffn_down`, width, feedForward, ontoStream);
  }
  norm("output_norm");
  if (options.lookBack) {
    check(layers >= 2, "layers", layers, "at least 2, so that heads can look back");
    check(kvHeads >= 2, "kvHeads", kvHeads, "at least 2, so that heads can look back");
    check(heads * headWidth <= width, "headWidth", headWidth, "width / heads, so that heads can look back");
    wireLookBack(tensors, { width, layers, heads, kvHeads, headWidth, ropeBase });
  }
  if (!tied) matrix("output", vocabulary, width);

  const entries = new Map<string, GgufValue>([
    ["general.architecture", string("llama")],
    ["general.name", string(options.name ?? "millrace")],
    ["llama.block_count", u32(layers)],
    ["llama.context_length", u32(context)],
    ["llama.embedding_length", u32(width)],
    ["llama.feed_forward_length", u32(feedForward)],
    ["llama.attention.head_count", u32(heads)],
    ["llama.attention.head_count_kv", u32(kvHeads)],
    ["llama.attention.key_length", u32(headWidth)],
    ["llama.attention.value_length", u32(headWidth)],
    ["llama.attention.layer_norm_rms_epsilon", f32(Math.fround(epsilon))],
    ["llama.rope.dimension_count", u32(headWidth)],
    ["llama.rope.freq_base", f32(Math.fround(ropeBase))],
    ["llama.vocab_size", u32(vocabulary)],
    ...Object.entries(tokenizer),
  ]);
  const metadata = new Map(Array.from(entries, ([key, value]) => [key, plainValue(value)] as const));
  const checkpoint = memoryCheckpoint(tensors, {
    architecture: "llama",
    metadata,
    tokenizer: { kind: "gguf", metadata },
  });
  return { ...checkpoint, entries };
}

function check(holds: boolean, name: string, got: string | number, expected: string): void {
  if (holds) return;
  throw new MillraceError("INVALID_ARGUMENT", `A fresh model's ${name} is ${got}; expected ${expected}.`, {
    name,
    got,
    expected,
  });
}
