/**
 * Adapters as changes of low rank: W + scale * up * down for some of a model's matrices. LoRA (2106.09685) is one, and
 * so is PaCA (2503.01905), whose `down` picks columns.
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape } from "../tape/tape.js";
import { buildTape, resolveArchitecture } from "./resolve.js";

/** The change of one stored matrix [rows, columns], rows in the order in which the checkpoint stores them. */
export interface LowRank {
  readonly rank: number;
  readonly rows: number;
  readonly columns: number;
  /** [rank, columns] */
  readonly down: Float32Array;
  /** [rows, rank] */
  readonly up: Float32Array;
  readonly scale: number;
}

/** By the checkpoint's name of the tensor. */
export type LowRanks = ReadonlyMap<string, LowRank>;

/** A matrix of a checkpoint that can have an adapter. */
export interface AdaptableMatrix {
  readonly tensor: string;
  /** How the transformers library calls the layer that holds it: "model.layers.0.self_attn.q_proj". */
  readonly module: string;
  readonly rows: number;
  readonly columns: number;
  /** Width of the heads within which the checkpoint keeps the rows in GGUF's order (row-order.ts); null: in none. */
  readonly interleaved: number | null;
}

/** The dense matrices that a checkpoint multiplies activations with, by tensor; not an embedding, nor experts. */
export async function adaptableMatrices(checkpoint: Checkpoint): Promise<Map<string, AdaptableMatrix>> {
  const architecture = resolveArchitecture(checkpoint);
  const names = architecture.huggingFaceNames(await architecture.configure(checkpoint, {}));
  const { tape } = await buildTape(checkpoint);
  const rotated = rotatedByNeighbours(tape);
  const embeddings = new Set(tape.ops.flatMap((op) => (op.op === "embed" ? [op.weight] : [])));
  const matrices = new Map<string, AdaptableMatrix>();
  for (const op of tape.ops) {
    if (op.op !== "matmul" || embeddings.has(op.weight)) continue;
    const tensor = op.weight.slices[0]!.tensor;
    const name = checkpoint.format === "gguf" ? names(tensor)?.tensors[0] : tensor;
    if (name === undefined || matrices.has(tensor)) continue;
    matrices.set(tensor, {
      tensor,
      module: name.replace(/\.weight$/, ""),
      rows: checkpoint.tensors.get(tensor)!.shape[0]!,
      columns: op.weight.columns,
      interleaved: checkpoint.format === "gguf" ? (rotated.get(op.out.id) ?? null) : null,
    });
  }
  return matrices;
}

/** Buffers whose neighbouring elements a rope rotates together, and the width of their heads. */
function rotatedByNeighbours(tape: Tape): Map<number, number> {
  return new Map(
    tape.ops.flatMap((op) =>
      op.op === "rope" && op.rope.style === "interleaved" ? [[op.x.id, op.headWidth] as const] : [],
    ),
  );
}
