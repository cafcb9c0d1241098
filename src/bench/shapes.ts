/** Shapes of well-known models, for random-weight files that cost what the real ones cost. */
import { MillraceError } from "../errors.js";
import type { TensorType } from "../formats/checkpoint.js";

export interface Shape {
  readonly name: string;
  readonly architecture: "llama" | "qwen2";
  readonly numLayers: number;
  readonly embeddingWidth: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headWidth: number;
  readonly feedForwardWidth: number;
  readonly vocabularySize: number;
  /** Context written into the file; long enough for every bench. */
  readonly contextLength: number;
  readonly ropeBase: number;
  /** The output matrix is the embedding table. */
  readonly tied: boolean;
}

export const SHAPES = {
  "tinyllama-1.1b": {
    name: "tinyllama-1.1b",
    architecture: "llama",
    numLayers: 22,
    embeddingWidth: 2048,
    numHeads: 32,
    numKvHeads: 4,
    headWidth: 64,
    feedForwardWidth: 5632,
    vocabularySize: 32000,
    contextLength: 32768,
    ropeBase: 10000,
    tied: false,
  },
  "160m": {
    name: "160m",
    architecture: "llama",
    numLayers: 12,
    embeddingWidth: 768,
    numHeads: 12,
    numKvHeads: 12,
    headWidth: 64,
    feedForwardWidth: 3072,
    vocabularySize: 32000,
    contextLength: 32768,
    ropeBase: 10000,
    tied: false,
  },
  "qwen2.5-0.5b": {
    name: "qwen2.5-0.5b",
    architecture: "qwen2",
    numLayers: 24,
    embeddingWidth: 896,
    numHeads: 14,
    numKvHeads: 2,
    headWidth: 64,
    feedForwardWidth: 4864,
    vocabularySize: 151936,
    contextLength: 32768,
    ropeBase: 1000000,
    tied: true,
  },
} as const satisfies Record<string, Shape>;

export type ShapeName = keyof typeof SHAPES;

/** How a whole model is quantised: which type each matrix gets. */
export const QUANTS = ["q4_0", "q8_0", "q4_k_m", "f16"] as const;
export type Quant = (typeof QUANTS)[number];

export interface MatrixSpec {
  /** GGUF name. */
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly layer: number | null;
}

/** Every matrix of the shape, in file order. */
export function matrices(shape: Shape): MatrixSpec[] {
  const { embeddingWidth: E, feedForwardWidth: F, headWidth: D } = shape;
  const list: MatrixSpec[] = [
    { name: "token_embd.weight", rows: shape.vocabularySize, columns: E, layer: null },
  ];
  for (let layer = 0; layer < shape.numLayers; layer++) {
    const add = (name: string, rows: number, columns: number) =>
      list.push({ name: `blk.${layer}.${name}.weight`, rows, columns, layer });
    add("attn_q", shape.numHeads * D, E);
    add("attn_k", shape.numKvHeads * D, E);
    add("attn_v", shape.numKvHeads * D, E);
    add("attn_output", E, shape.numHeads * D);
    add("ffn_gate", F, E);
    add("ffn_up", F, E);
    add("ffn_down", E, F);
  }
  if (!shape.tied) list.push({ name: "output.weight", rows: shape.vocabularySize, columns: E, layer: null });
  return list;
}

/** Parameters that a token is multiplied with: all matrices, the embedding table only where it is the output. */
export function multipliedParameters(shape: Shape): number {
  return matrices(shape)
    .filter(({ name }) => shape.tied || name !== "token_embd.weight")
    .reduce((sum, { rows, columns }) => sum + rows * columns, 0);
}

/**
 * The type of one matrix. q4_k_m is llama.cpp's recipe: Q6_K for the output and, in the first and last eighth of the
 * layers and every third between, for attn_v and ffn_down; Q4_K for the rest. Rows that are no multiple of 256 fall
 * back as there: Q4_K to Q5_0, Q6_K to Q8_0. The other recipes store every matrix alike.
 */
export function quantType(quant: Quant, shape: Shape, matrix: MatrixSpec): TensorType {
  if (quant === "f16") return "F16";
  if (quant === "q4_0") return "Q4_0";
  if (quant === "q8_0") return "Q8_0";
  const { name, layer, columns } = matrix;
  const eighth = Math.floor(shape.numLayers / 8);
  const more =
    layer !== null &&
    (layer < eighth || layer >= shape.numLayers - eighth || (layer - eighth) % 3 === 2) &&
    /attn_v|ffn_down/.test(name);
  const output = name === "output.weight" || (shape.tied && name === "token_embd.weight");
  const six = more || output;
  if (columns % 256 !== 0) return six ? "Q8_0" : "Q5_0";
  return six ? "Q6_K" : "Q4_K";
}

export function findShape(name: string): Shape {
  if (Object.hasOwn(SHAPES, name)) return SHAPES[name as ShapeName];
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `Unknown shape "${name}"; expected one of ${Object.keys(SHAPES).join(", ")}.`,
    { name, expected: Object.keys(SHAPES) },
  );
}

export function findQuant(name: string): Quant {
  const quant = QUANTS.find((known) => known === name.toLowerCase());
  if (quant) return quant;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `Unknown quantisation "${name}"; expected one of ${QUANTS.join(", ")}.`,
    {
      name,
      expected: QUANTS,
    },
  );
}
