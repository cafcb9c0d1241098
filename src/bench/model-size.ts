import type { CodecName } from "../cache/codecs/contract.js";
import { bytesPerToken } from "../cache/layout.js";
import { rowBytes } from "../formats/blocks/index.js";
import { openCheckpoint } from "../formats/open.js";
import { buildTape } from "../models/resolve.js";

/** What one decoding step must read and multiply, from the model's own tape. */
export interface ModelSize {
  /** Bytes of all matrices that a step reads once: routed experts in their share, embeddings only where tied. */
  readonly bytesPerStep: number;
  /** Bytes of keys and values that attention reads for each token in the cache. */
  readonly cacheBytesPerToken: number;
  /** Parameters that one token is multiplied with. */
  readonly multipliedParameters: number;
  /** The same without what only wanted outputs are multiplied with: the work of a prompt's tokens. */
  readonly promptParameters: number;
}

export async function measureModel(path: string, codec: CodecName): Promise<ModelSize> {
  await using checkpoint = await openCheckpoint(path);
  const { tape } = await buildTape(checkpoint, {});
  let bytesPerStep = 0;
  let multipliedParameters = 0;
  let promptParameters = 0;
  for (const op of tape.ops) {
    if (op.op !== "matmul" && op.op !== "matmulExperts") continue;
    const { rows, columns, type } = op.weight;
    const times = op.op === "matmulExperts" ? op.route.perToken : 1;
    bytesPerStep += times * rows * rowBytes(type, columns);
    multipliedParameters += times * rows * columns;
    if (op.x.rows !== "outputs") promptParameters += times * rows * columns;
  }
  return {
    bytesPerStep,
    cacheBytesPerToken: bytesPerToken(tape.kv, codec),
    multipliedParameters,
    promptParameters,
  };
}
