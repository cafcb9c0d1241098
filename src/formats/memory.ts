/**
 * A checkpoint whose tensors lie in memory: for tests, for the self-check of backends, and for random-weight models
 * that are too small to deserve a file.
 */
import { MillraceError } from "../errors.js";
import type { Checkpoint, MetadataValue, TensorInfo, TensorType, TokenizerSource } from "./checkpoint.js";

/** One tensor: its stored bytes, or plain numbers for F32. */
export interface MemoryTensor {
  /** Outermost dimension first. */
  readonly shape: readonly number[];
  /** Default "F32". */
  readonly type?: TensorType;
  /** Stored bytes of `type`; a Float32Array stands for its own bytes. Not copied. */
  readonly data: Uint8Array | Float32Array;
}

export interface MemoryCheckpointOptions {
  readonly format?: Checkpoint["format"];
  /** Default "memory". */
  readonly architecture?: string;
  readonly metadata?: Iterable<readonly [string, MetadataValue]>;
  readonly tokenizer?: TokenizerSource;
}

/**
 * A checkpoint over `tensors`, read as if from a file. Later changes to the arrays are seen by later reads.
 * Throws INVALID_ARGUMENT where an F32 tensor's bytes do not fit its shape.
 */
export function memoryCheckpoint(
  tensors: Readonly<Record<string, MemoryTensor>>,
  options: MemoryCheckpointOptions = {},
): Checkpoint {
  const infos = new Map<string, TensorInfo>();
  const bytes = new Map<string, Uint8Array>();
  for (const [name, { shape, type = "F32", data }] of Object.entries(tensors)) {
    const stored =
      data instanceof Float32Array ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : data;
    const numElements = shape.reduce((product, size) => product * size, 1);
    if (type === "F32" && stored.byteLength !== numElements * 4) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Tensor "${name}" has ${stored.byteLength} bytes; F32 [${shape.join(", ")}] takes ${numElements * 4}.`,
      );
    }
    infos.set(name, { name, type, shape, byteLength: stored.byteLength });
    bytes.set(name, stored);
  }
  const close = async (): Promise<void> => {};
  return {
    format: options.format ?? "gguf",
    path: "(memory)",
    architecture: options.architecture ?? "memory",
    metadata: new Map(options.metadata ?? []),
    tensors: infos,
    tokenizer: options.tokenizer ?? { kind: "none" },
    fileBytes: [...bytes.values()].reduce((sum, data) => sum + data.byteLength, 0),
    async read(name, byteOffset, into) {
      const data = bytes.get(name);
      if (!data) {
        const known = [...bytes.keys()].slice(0, 8).join(", ");
        throw new MillraceError("MISSING_TENSOR", `No tensor "${name}" here; the first ones are: ${known}.`);
      }
      if (byteOffset < 0 || byteOffset + into.byteLength > data.byteLength) {
        throw new MillraceError(
          "INVALID_ARGUMENT",
          `Bytes ${byteOffset} to ${byteOffset + into.byteLength} of tensor "${name}" were asked for; it has ${data.byteLength}.`,
        );
      }
      into.set(data.subarray(byteOffset, byteOffset + into.byteLength));
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** `base` with further tensors that lie in memory; names of `base` that are among them are hidden. Closes `base`. */
export function overlayCheckpoint(
  base: Checkpoint,
  tensors: Readonly<Record<string, MemoryTensor>>,
): Checkpoint {
  const added = memoryCheckpoint(tensors);
  const close = (): Promise<void> => base.close();
  return {
    format: base.format,
    path: base.path,
    architecture: base.architecture,
    metadata: base.metadata,
    tensors: new Map([...base.tensors, ...added.tensors]),
    tokenizer: base.tokenizer,
    fileBytes: base.fileBytes,
    read: (name, byteOffset, into) => (added.tensors.has(name) ? added : base).read(name, byteOffset, into),
    close,
    [Symbol.asyncDispose]: close,
  };
}
