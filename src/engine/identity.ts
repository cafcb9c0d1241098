/** Which model this is, so that what was saved with another one is refused. */
import { createHash, type Hash } from "node:crypto";
import type { Checkpoint, MetadataValue } from "../formats/checkpoint.js";
import type { LowRanks } from "../models/low-rank.js";

export interface ModelIdentity {
  /** Of metadata, tensor table and samples of the weights. */
  readonly model: string;
  readonly tokenizer: string;
}

/** Tensors of which a sample is read, spread over the file, and how much of each. */
const SAMPLES = 64;
const SAMPLE_BYTES = 64;

/** Hashes what tells models apart; of the weights only samples, so that it takes milliseconds whatever their size. */
export async function identify(checkpoint: Checkpoint): Promise<ModelIdentity> {
  const model = createHash("sha256");
  const tokenizer = createHash("sha256");
  for (const [key, value] of checkpoint.metadata) {
    add(key.startsWith("tokenizer.") ? tokenizer : model, key, value);
  }
  if (checkpoint.tokenizer.kind === "huggingface") add(tokenizer, "tokenizer.json", checkpoint.tokenizer);
  const tensors = [...checkpoint.tensors.values()];
  for (const { name, type, shape } of tensors) add(model, name, [type, ...shape]);
  const step = Math.max(1, Math.ceil(tensors.length / SAMPLES));
  for (let i = 0; i < tensors.length; i += step) {
    const { name, byteLength } = tensors[i]!;
    const sample = new Uint8Array(Math.min(SAMPLE_BYTES, byteLength));
    await checkpoint.read(name, Math.floor((byteLength - sample.length) / 2), sample);
    model.update(sample);
  }
  return { model: digest(model), tokenizer: digest(tokenizer) };
}

/** An adapter that a model was opened with: what callers name it, and what tells it apart. */
export interface AdapterIdentity {
  readonly name: string;
  /** Of all its numbers. */
  readonly fingerprint: string;
}

/** Hashes an adapter; under whatever name, and in whatever order it was read, the same numbers give the same text. */
export function identifyAdapter(adapter: LowRanks): string {
  const hash = createHash("sha256");
  for (const [tensor, { rank, rows, columns, scale, down, up }] of [...adapter].sort(byName)) {
    add(hash, tensor, [rank, rows, columns, scale]);
    for (const { buffer, byteOffset, byteLength } of [down, up]) {
      hash.update(new Uint8Array(buffer, byteOffset, byteLength));
    }
  }
  return digest(hash);
}

const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number =>
  a < b ? -1 : a > b ? 1 : 0;

function add(hash: Hash, key: string, value: MetadataValue | object): void {
  const json = JSON.stringify([key, value], (_, part) => (typeof part === "bigint" ? `${part}n` : part));
  hash.update(`${json.length}:`).update(json);
}

const digest = (hash: Hash): string => hash.digest("hex").slice(0, 32);
