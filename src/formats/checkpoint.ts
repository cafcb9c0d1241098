/**
 * A checkpoint is an opened model file (or folder): metadata, a list of tensors, and ranged reads of their bytes.
 * It never holds tensor data; whoever loads weights reads them piece by piece into memory of its own.
 */

/** Storage types of tensors, named as GGUF names them. */
export type TensorType =
  | "F32"
  | "F16"
  | "BF16"
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q8_0"
  | "Q2_K"
  | "Q3_K"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K"
  | "IQ4_NL"
  | "IQ4_XS";

export interface TensorInfo {
  readonly name: string;
  readonly type: TensorType;
  /** Outermost dimension first: a matrix is [rows, columns]; a row is contiguous in the file. */
  readonly shape: readonly number[];
  readonly byteLength: number;
}

export type MetadataValue = string | number | bigint | boolean | readonly MetadataValue[] | undefined;

/** Where the text <-> token mapping comes from. */
export type TokenizerSource =
  /** Keys `tokenizer.ggml.*` and `tokenizer.chat_template` of the checkpoint's metadata. */
  | { readonly kind: "gguf"; readonly metadata: ReadonlyMap<string, MetadataValue> }
  /** Parsed `tokenizer.json` and `tokenizer_config.json` (with `chat_template.jinja` folded in) beside safetensors. */
  | {
      readonly kind: "huggingface";
      readonly tokenizer: Record<string, unknown>;
      readonly config: Record<string, unknown>;
    }
  /** The file has none: only token ids can be used. */
  | { readonly kind: "none" };

export interface Checkpoint extends AsyncDisposable {
  readonly format: "gguf" | "safetensors";
  readonly path: string;
  /** GGUF `general.architecture`, or `model_type` of config.json. */
  readonly architecture: string;
  /** GGUF key-value pairs as they stand in the file, or config.json flattened with dots ("rope_scaling.factor"). */
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly tokenizer: TokenizerSource;
  /** Bytes of all files that make up the checkpoint. */
  readonly fileBytes: number;
  /**
   * Fills `into` with the tensor's stored bytes from `byteOffset` on.
   * Throws MISSING_TENSOR for an unknown name, BAD_FORMAT where the file ends early, INVALID_ARGUMENT for a range
   * outside the tensor.
   */
  read(name: string, byteOffset: number, into: Uint8Array): Promise<void>;
  close(): Promise<void>;
}
