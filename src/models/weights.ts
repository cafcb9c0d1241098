/**
 * Finds a model's tensors: canonical (GGUF) names in, tape specs out. In a GGUF file the name is the tensor's own;
 * in a safetensors checkpoint the architecture's table says where it lies. Every shape is checked against what the
 * hyperparameters ask for, so that a wrong file fails here with a name and two shapes.
 */
import { MillraceError } from "../errors.js";
import type { Checkpoint, TensorInfo } from "../formats/checkpoint.js";
import type { TensorSlice, VectorSpec, WeightSpec } from "../tape/tape.js";
import type { HuggingFaceNames } from "./names.js";

export interface MatrixShape {
  /** Output width: rows taken. */
  readonly rows: number;
  /** Input width. */
  readonly columns: number;
  /** Where the rows lie in a fused tensor: from row `start` of `total`. */
  readonly within?: { readonly start: number; readonly total: number };
}

export class WeightSource {
  readonly #checkpoint: Checkpoint;
  readonly #names: HuggingFaceNames;

  constructor(checkpoint: Checkpoint, names: HuggingFaceNames) {
    this.#checkpoint = checkpoint;
    this.#names = names;
  }

  /** Whether the checkpoint has the tensor (all of them, where it is a stack). */
  has(canonical: string): boolean {
    const { tensors } = this.#place(canonical);
    return tensors.length > 0 && tensors.every((name) => this.#checkpoint.tensors.has(name));
  }

  /** A dense matrix, or rows of a fused one. Throws MISSING_TENSOR, BAD_SHAPE. */
  matrix(canonical: string, { rows, columns, within }: MatrixShape): WeightSpec {
    const { tensor } = this.#single(canonical, [within?.total ?? rows, columns]);
    const slice = { tensor: tensor.name, rowStart: within?.start ?? 0, rowCount: rows };
    return { slices: [slice], type: tensor.type, rows, columns, experts: 1 };
  }

  /**
   * One matrix [rows, columns] per expert: a stacked tensor [experts, rows, columns], or one tensor per expert.
   * Throws MISSING_TENSOR, BAD_SHAPE, and UNSUPPORTED_TENSOR_TYPE where experts are stored in different types.
   */
  experts(canonical: string, shape: { experts: number; rows: number; columns: number }): WeightSpec {
    const { experts, rows, columns } = shape;
    const { tensors } = this.#place(canonical);
    const stacked = tensors.length === 1;
    const stored = tensors.map((name) =>
      this.#find(canonical, name, stacked ? [experts, rows, columns] : [rows, columns]),
    );
    const first = stored[0];
    if (!first || (!stacked && stored.length !== experts)) throw this.#missing(canonical, tensors);
    const other = stored.find((tensor) => tensor.type !== first.type);
    if (other) {
      throw new MillraceError(
        "UNSUPPORTED_TENSOR_TYPE",
        `${this.#checkpoint.path}: experts of one layer are stored in different types: "${first.name}" as ` +
          `${first.type}, "${other.name}" as ${other.type}; expected one type. Convert the model again.`,
        { first: first.name, firstType: first.type, other: other.name, otherType: other.type },
      );
    }
    const rowCount = stacked ? experts * rows : rows;
    const slices: TensorSlice[] = stored.map((tensor) => ({ tensor: tensor.name, rowStart: 0, rowCount }));
    return { slices, type: first.type, rows, columns, experts };
  }

  /** A norm weight or a bias. Throws MISSING_TENSOR, BAD_SHAPE. */
  vector(canonical: string, width: number): VectorSpec {
    const { tensor, add } = this.#single(canonical, [width]);
    return { slice: { tensor: tensor.name, rowStart: 0, rowCount: 1 }, type: tensor.type, width, add };
  }

  #single(canonical: string, shape: readonly number[]): { tensor: TensorInfo; add: number } {
    const { tensors, add } = this.#place(canonical);
    const name = tensors[0];
    if (name === undefined || tensors.length !== 1) throw this.#missing(canonical, tensors);
    return { tensor: this.#find(canonical, name, shape), add };
  }

  #place(canonical: string): { tensors: readonly string[]; add: number } {
    if (this.#checkpoint.format === "gguf") return { tensors: [canonical], add: 0 };
    const place = this.#names(canonical);
    return { tensors: place?.tensors ?? [], add: place?.add ?? 0 };
  }

  #find(canonical: string, name: string, shape: readonly number[]): TensorInfo {
    const tensor = this.#checkpoint.tensors.get(name);
    if (!tensor) throw this.#missing(canonical, [name]);
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i])) {
      throw new MillraceError(
        "BAD_SHAPE",
        `${this.#checkpoint.path}: tensor "${name}" is [${tensor.shape.join(", ")}]; the metadata asks for ` +
          `[${shape.join(", ")}]. The file is damaged or mixes two models.`,
        { tensor: name, got: [...tensor.shape], expected: [...shape] },
      );
    }
    return tensor;
  }

  #missing(canonical: string, names: readonly string[]): MillraceError {
    const absent = names.find((name) => !this.#checkpoint.tensors.has(name)) ?? canonical;
    const alias = absent === canonical ? "" : ` (${canonical})`;
    return new MillraceError(
      "MISSING_TENSOR",
      `${this.#checkpoint.path}: tensor "${absent}"${alias} is missing among ${this.#checkpoint.tensors.size} ` +
        `tensors; architecture "${this.#checkpoint.architecture}" needs it. Get a complete file.`,
      { tensor: absent, canonical, architecture: this.#checkpoint.architecture },
    );
  }
}
