/** Adapters with random numbers for tiny models, and what merging one gives. */
import type { Checkpoint } from "../../src/formats/checkpoint.js";
import { overlayCheckpoint } from "../../src/formats/memory.js";
import { adaptableMatrices, type LowRank, type LowRanks } from "../../src/models/low-rank.js";
import { TestRandom } from "./random.js";
import { type TinyName, tinyModel } from "./tiny-models.js";

/** An adapter of every matrix (or of those whose layer is among `targets`) with random numbers. */
export async function randomAdapter(
  checkpoint: Checkpoint,
  spec: { rank: number; seed: number; targets?: readonly string[] },
): Promise<LowRanks> {
  const { rank, seed, targets } = spec;
  const random = new TestRandom(seed);
  const adapter = new Map<string, LowRank>();
  for (const { tensor, module, rows, columns } of (await adaptableMatrices(checkpoint)).values()) {
    if (targets && !targets.some((target) => module.endsWith(target))) continue;
    const down = random.floats(rank * columns, 0.3);
    const up = random.floats(rows * rank, 0.3);
    adapter.set(tensor, { rank, rows, columns, down, up, scale: 0.5 });
  }
  return adapter;
}

/** The checkpoint with an adapter merged into its (F32) matrices. */
export function merged(checkpoint: Checkpoint, name: TinyName, adapter: LowRanks): Checkpoint {
  const tensors = { ...tinyModel(name).tensors };
  for (const [tensor, { rank, rows, columns, down, up, scale }] of adapter) {
    const data = tensors[tensor]!.data.slice();
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        let sum = 0;
        for (let j = 0; j < rank; j++) sum += up[r * rank + j]! * down[j * columns + c]!;
        data[r * columns + c]! += scale * sum;
      }
    }
    tensors[tensor] = { shape: [rows, columns], data };
  }
  return overlayCheckpoint(checkpoint, tensors);
}
