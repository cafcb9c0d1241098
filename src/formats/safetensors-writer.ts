/** Writes one safetensors file in one pass; tensors arrive in chunks, so that large files never sit in memory. */
import { MillraceError } from "../errors.js";
import { tensorBytes } from "./blocks/contract.js";
import { type ByteChunks, writeAtomically } from "./file.js";

export interface SafetensorsTensor {
  readonly name: string;
  readonly type: "F32" | "F16" | "BF16";
  /** Outermost dimension first. */
  readonly shape: readonly number[];
  /** Called once, when the tensor's turn comes; must yield exactly the bytes of type and shape. */
  readonly data: () => ByteChunks;
}

/**
 * Writes `tensors`, in this order, and free text `metadata` to `path`, replacing it only when complete.
 * Throws INVALID_ARGUMENT for duplicate or reserved names and data of the wrong length; nothing stays on disk then.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly SafetensorsTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const header = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) header.set("__metadata__", metadata);
  let offset = 0;
  for (const { name, type, shape } of tensors) {
    if (name === "__metadata__" || header.has(name)) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Writing safetensors: tensor name "${name}" is reserved or used twice.`,
        {
          tensor: name,
        },
      );
    }
    const end = offset + tensorBytes(type, shape);
    header.set(name, { dtype: type, shape, data_offsets: [offset, end] });
    offset = end;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  // Spaces up to a multiple of eight, so that the data is aligned.
  const padded = Buffer.alloc(Math.ceil(json.length / 8) * 8, " ");
  json.copy(padded);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(padded.length));
  await writeAtomically(path, async (file) => {
    await file.write(prefix);
    await file.write(padded);
    for (const { name, type, shape, data } of tensors)
      await file.writeTensor(name, tensorBytes(type, shape), data());
  });
}
