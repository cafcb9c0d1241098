/** A checkpoint whose tensors are byte ranges of files: what GGUF and safetensors have in common. */
import { MillraceError } from "../errors.js";
import type { Checkpoint, MetadataValue, TensorInfo, TokenizerSource } from "./checkpoint.js";
import { closeAll, type OpenFile, readFully } from "./file.js";

/** A tensor and where it lies. */
export interface LocatedTensor extends TensorInfo {
  readonly file: OpenFile;
  /** Byte of the file at which the tensor starts. */
  readonly position: number;
}

export interface FileCheckpointParts {
  readonly format: Checkpoint["format"];
  readonly path: string;
  readonly architecture: string;
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  readonly tokenizer: TokenizerSource;
  /** All files, which the checkpoint owns from now on and closes. */
  readonly files: readonly OpenFile[];
  readonly tensors: ReadonlyMap<string, LocatedTensor>;
}

export class FileCheckpoint implements Checkpoint {
  readonly format: Checkpoint["format"];
  readonly path: string;
  readonly architecture: string;
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  readonly tokenizer: TokenizerSource;
  /** Plain data, which may cross to another thread. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly fileBytes: number;
  readonly #located: ReadonlyMap<string, LocatedTensor>;
  readonly #files: readonly OpenFile[];
  #closed: Promise<void> | undefined;

  constructor(parts: FileCheckpointParts) {
    this.format = parts.format;
    this.path = parts.path;
    this.architecture = parts.architecture;
    this.metadata = parts.metadata;
    this.tokenizer = parts.tokenizer;
    this.tensors = new Map(
      [...parts.tensors].map(([name, { type, shape, byteLength }]) => [
        name,
        { name, type, shape, byteLength },
      ]),
    );
    this.#located = parts.tensors;
    this.#files = parts.files;
    this.fileBytes = parts.files.reduce((sum, file) => sum + file.size, 0);
  }

  async read(name: string, byteOffset: number, into: Uint8Array): Promise<void> {
    if (this.#closed) throw new MillraceError("CLOSED", `${this.path} was closed before "${name}" was read.`);
    const tensor = this.#locatedTensor(name);
    if (!Number.isSafeInteger(byteOffset) || byteOffset < 0 || byteOffset + into.length > tensor.byteLength) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Read of ${into.length} bytes at ${byteOffset} of "${name}": expected a range inside its ${tensor.byteLength} bytes.`,
        { tensor: name, byteOffset, length: into.length, byteLength: tensor.byteLength },
      );
    }
    await readFully(tensor.file, tensor.position + byteOffset, into);
  }

  /** Where the tensor's bytes lie, for those who map files into memory. Throws MISSING_TENSOR. */
  locate(name: string): { readonly path: string; readonly position: number } {
    const { file, position } = this.#locatedTensor(name);
    return { path: file.path, position };
  }

  #locatedTensor(name: string): LocatedTensor {
    const tensor = this.#located.get(name);
    if (!tensor) {
      throw new MillraceError(
        "MISSING_TENSOR",
        `${this.path} has no tensor "${name}" among its ${this.tensors.size}.`,
        { path: this.path, tensor: name },
      );
    }
    return tensor;
  }

  /** Closes all files; a second call waits for the first. */
  close(): Promise<void> {
    this.#closed ??= closeAll(this.#files);
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
