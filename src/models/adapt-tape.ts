/** Adapters applied at run time: the model stays as it is, and every sequence of a batch may have another one. */
import type { Checkpoint } from "../formats/checkpoint.js";
import { type MemoryTensor, overlayCheckpoint } from "../formats/memory.js";
import type { LowRankPair, Op, Tape, VectorRef, WeightRef } from "../tape/tape.js";
import type { LowRank, LowRanks } from "./low-rank.js";

/**
 * The tape with an operation behind every product with a matrix that one of the adapters changes, and a checkpoint
 * that also has the adapters' numbers. Spans name an adapter by its place in `adapters`.
 */
export function adaptTape(
  tape: Tape,
  checkpoint: Checkpoint,
  adapters: readonly LowRanks[],
): { tape: Tape; checkpoint: Checkpoint } {
  if (adapters.length === 0) return { tape, checkpoint };
  const tensors: Record<string, MemoryTensor> = {};
  const vectors: VectorRef[] = [...tape.vectors];
  const vector = (name: string, data: Float32Array): VectorRef => {
    tensors[name] = { shape: [data.length], data };
    const slice = { tensor: name, rowStart: 0, rowCount: 1 };
    const ref: VectorRef = { id: vectors.length, slice, type: "F32", width: data.length, add: 0 };
    vectors.push(ref);
    return ref;
  };
  const pairsOf = (weight: WeightRef): LowRankPair[] => {
    const { tensor, rowStart } = weight.slices[0]!;
    return adapters.flatMap((adapter, number) => {
      const change = adapter.get(tensor);
      if (!change) return [];
      const name = `adapters/${number}/${tensor}/${rowStart}`;
      const down = vector(`${name}/down`, change.down);
      const up = vector(`${name}/up`, upOf(change, rowStart, weight.rows));
      return [{ adapter: number, rank: change.rank, down, up }];
    });
  };
  const ops: Op[] = [];
  /** Changes of the products that were just written: side by side, they wait for each other less. */
  let pending: Extract<Op, { op: "lowRank" }>[] = [];
  for (const op of tape.ops) {
    if (op.op !== "matmul" || pending.some(({ out }) => out === op.x || out === op.out)) {
      ops.push(...pending);
      pending = [];
    }
    ops.push(op);
    if (op.op !== "matmul") continue;
    const pairs = pairsOf(op.weight);
    if (pairs.length > 0) pending.push({ op: "lowRank", x: op.x, pairs, out: op.out });
  }
  ops.push(...pending);
  return { tape: { ...tape, ops, vectors }, checkpoint: overlayCheckpoint(checkpoint, tensors) };
}

/** [rank, rows] of the rows from `first` on, the factor included. */
function upOf({ rank, up, scale }: LowRank, first: number, rows: number): Float32Array {
  const out = new Float32Array(rank * rows);
  for (let row = 0; row < rows; row++) {
    for (let j = 0; j < rank; j++) out[j * rows + row] = scale * up[(first + row) * rank + j]!;
  }
  return out;
}
