/** Random-weight GGUF files in the shape of a known model: for speed it does not matter what the numbers say. */
import { access } from "node:fs/promises";
import { join } from "node:path";
import { blockFormat, tensorBytes } from "../formats/blocks/index.js";
import { makeFolder } from "../formats/cache-folder.js";
import type { Checkpoint, TensorInfo, TensorType } from "../formats/checkpoint.js";
import { fileError } from "../formats/file.js";
import { array, f32, type GgufValue, plainValue, string, u32 } from "../formats/gguf-values.js";
import { type GgufTensor, writeGguf } from "../formats/gguf-writer.js";
import { createRandom } from "../sampling/random.js";
import { fillNormal } from "../train/normal.js";
import { type MatrixSpec, matrices, type Quant, quantType, type Shape } from "./shapes.js";

/** Values from which a type's blocks are drawn: enough that neighbouring rows differ, quick to quantise. */
const POOL_VALUES = 1 << 18;

/**
 * The file of this shape and quantisation in `folder`, written first where it is not there.
 * Weights are normal with variance 1 / columns, so that activations keep their size through the layers.
 */
export async function randomModel(
  shape: Shape,
  quant: Quant,
  folder: string,
  onProgress?: (written: number, total: number) => void,
): Promise<string> {
  const path = join(folder, `${shape.name}-${quant}-v1.gguf`);
  try {
    await access(path);
    return path;
  } catch {
    await makeFolder(folder).catch((error: unknown) => {
      throw fileError(folder, error);
    });
  }
  const pools = new Map<string, Uint8Array>();
  const tensors: GgufTensor[] = [];
  for (const matrix of matrices(shape))
    tensors.push(randomMatrix(matrix, quantType(quant, shape, matrix), pools));
  tensors.push(...norms(shape), ...biases(shape));
  await writeGguf(path, { metadata: metadata(shape), tensors }, onProgress ? { onProgress } : {});
  return path;
}

/** A model of this shape in F32, whose numbers are drawn as they are read: it takes no memory, whatever its size. */
export function randomCheckpoint(shape: Shape): Checkpoint {
  const listed = [
    ...matrices(shape).map(({ name, rows, columns }) => ({ name, shape: [rows, columns] })),
    ...[...norms(shape), ...biases(shape)].map(({ name, shape: sizes }) => ({ name, shape: sizes })),
  ];
  const tensors = new Map<string, TensorInfo>();
  for (const { name, shape: sizes } of listed)
    tensors.set(name, { name, type: "F32", shape: sizes, byteLength: tensorBytes("F32", sizes) });
  const close = async (): Promise<void> => {};
  return {
    format: "gguf",
    path: `(random weights: ${shape.name})`,
    architecture: shape.architecture,
    metadata: new Map(Object.entries(metadata(shape)).map(([key, value]) => [key, plainValue(value)])),
    tensors,
    tokenizer: { kind: "none" },
    fileBytes: [...tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0),
    async read(name, byteOffset, into) {
      const numbers = new Float32Array(into.byteLength / 4);
      const columns = tensors.get(name)?.shape.at(-1) ?? 1;
      if (name.includes("norm")) numbers.fill(1);
      else fillNormal(numbers, createRandom(byteOffset + name.length), 1 / Math.sqrt(columns));
      into.set(new Uint8Array(numbers.buffer));
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

function randomMatrix(matrix: MatrixSpec, type: TensorType, pools: Map<string, Uint8Array>): GgufTensor {
  const { name, rows, columns } = matrix;
  const format = blockFormat(type);
  const rowBytes = (columns / format.blockElements) * format.blockBytes;
  return {
    name,
    type,
    shape: [rows, columns],
    data: function* () {
      const key = `${type} ${columns}`;
      const pool = pools.get(key) ?? fillPool(type, columns);
      pools.set(key, pool);
      // Each matrix reads the pool from another block on.
      const poolBlocks = pool.length / format.blockBytes;
      let at =
        ([...name].reduce((hash, c) => (hash * 31 + c.charCodeAt(0)) >>> 0, 7) % poolBlocks) *
        format.blockBytes;
      for (let left = rows * rowBytes; left > 0; ) {
        const chunk = pool.subarray(at, Math.min(pool.length, at + left));
        left -= chunk.length;
        at = 0;
        yield chunk;
      }
    },
  };
}

function fillPool(type: TensorType, columns: number): Uint8Array {
  const random = createRandom(columns);
  const format = blockFormat(type);
  const values = new Float32Array(POOL_VALUES);
  const deviation = 1 / Math.sqrt(columns);
  for (let i = 0; i < POOL_VALUES; i += 2) {
    // Box and Muller: two normal numbers from two uniform ones.
    const radius = Math.sqrt(-2 * Math.log(1 - random.next())) * deviation;
    const angle = 2 * Math.PI * random.next();
    values[i] = radius * Math.cos(angle);
    values[i + 1] = radius * Math.sin(angle);
  }
  const bytes = new Uint8Array((POOL_VALUES / format.blockElements) * format.blockBytes);
  format.encode(values, bytes);
  return bytes;
}

function vector(name: string, width: number, value: number): GgufTensor {
  return {
    name,
    type: "F32",
    shape: [width],
    data: () => [new Uint8Array(new Float32Array(width).fill(value).buffer)],
  };
}

function norms(shape: Shape): GgufTensor[] {
  const list = [vector("output_norm.weight", shape.embeddingWidth, 1)];
  for (let layer = 0; layer < shape.numLayers; layer++) {
    list.push(vector(`blk.${layer}.attn_norm.weight`, shape.embeddingWidth, 1));
    list.push(vector(`blk.${layer}.ffn_norm.weight`, shape.embeddingWidth, 1));
  }
  return list;
}

/** Qwen2 adds biases to queries, keys and values. */
function biases(shape: Shape): GgufTensor[] {
  if (shape.architecture !== "qwen2") return [];
  const list: GgufTensor[] = [];
  for (let layer = 0; layer < shape.numLayers; layer++) {
    list.push(vector(`blk.${layer}.attn_q.bias`, shape.numHeads * shape.headWidth, 0.01));
    list.push(vector(`blk.${layer}.attn_k.bias`, shape.numKvHeads * shape.headWidth, 0.01));
    list.push(vector(`blk.${layer}.attn_v.bias`, shape.numKvHeads * shape.headWidth, 0.01));
  }
  return list;
}

function metadata(shape: Shape): Record<string, GgufValue> {
  const a = shape.architecture;
  return {
    "general.architecture": string(a),
    "general.name": string(`${shape.name} shape, random weights`),
    [`${a}.block_count`]: u32(shape.numLayers),
    [`${a}.context_length`]: u32(shape.contextLength),
    [`${a}.embedding_length`]: u32(shape.embeddingWidth),
    [`${a}.feed_forward_length`]: u32(shape.feedForwardWidth),
    [`${a}.attention.head_count`]: u32(shape.numHeads),
    [`${a}.attention.head_count_kv`]: u32(shape.numKvHeads),
    [`${a}.attention.layer_norm_rms_epsilon`]: f32(1e-5),
    [`${a}.rope.dimension_count`]: u32(shape.headWidth),
    [`${a}.rope.freq_base`]: f32(shape.ropeBase),
    [`${a}.vocab_size`]: u32(shape.vocabularySize),
    ...tokenizer(shape.vocabularySize),
  };
}

/** A SentencePiece vocabulary: three control tokens, all bytes, then made-up words. */
function tokenizer(size: number): Record<string, GgufValue> {
  const tokens = ["<unk>", "<s>", "</s>"];
  const types = [2, 3, 3];
  for (let byte = 0; byte < 256; byte++) {
    tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    types.push(6);
  }
  for (let id = tokens.length; id < size; id++) {
    tokens.push(`\u2581w${id.toString(36)}`);
    types.push(1);
  }
  return {
    "tokenizer.ggml.model": string("llama"),
    "tokenizer.ggml.tokens": array("string", tokens),
    "tokenizer.ggml.scores": array(
      "f32",
      tokens.map((_, id) => (id < 259 ? 0 : 259 - id)),
    ),
    "tokenizer.ggml.token_type": array("i32", types),
    "tokenizer.ggml.bos_token_id": u32(1),
    "tokenizer.ggml.eos_token_id": u32(2),
    "tokenizer.ggml.unknown_token_id": u32(0),
  };
}
