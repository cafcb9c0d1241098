/**
 * The weights of a network: each stored tensor once, however many operations read it or parts of it. What trains is
 * decoded into dense numbers with a gradient beside them; what is frozen stays as it is stored.
 */
import type { Matrix, StoredRows, TrainingArithmetic, Values } from "../backends/training.js";
import { MillraceError } from "../errors.js";
import { blockFormat, rowBytes } from "../formats/blocks/index.js";
import type { Checkpoint, TensorType } from "../formats/checkpoint.js";
import type { Tape, TensorSlice, VectorRef, WeightRef } from "../tape/tape.js";

/** A tensor that trains: one of the checkpoint's, or one of an adapter's own. */
export interface Parameter {
  /** The tensor's name in the checkpoint (canonical, where that is a GGUF file). */
  readonly name: string;
  readonly rows: number;
  /** Vectors have one row. */
  readonly columns: number;
  /** Embeddings have a row per token id: they look tokens up, or score them, or both. */
  readonly kind: "matrix" | "embedding" | "vector";
  /** Experts' matrices that lie one under another in it; default 1. */
  readonly experts?: number;
  /** All of it, no gaps between rows. */
  readonly weight: Matrix;
  /** Null in a network made without gradients. */
  readonly gradient: Matrix | null;
  /** What was added to the stored numbers, to be taken off again where the tensor is written (Gemma's norms). */
  readonly add: number;
}

/** What an operation reads of a tensor: some of its rows. */
export type Operand =
  | { readonly kind: "dense"; readonly weight: Matrix; readonly gradient: Matrix | null }
  | { readonly kind: "stored"; readonly stored: StoredRows; readonly firstRow: number };

interface Tensor {
  readonly whole: Operand;
  readonly columns: number;
}

const at = (values: Values, rows: number, columns: number, firstRow = 0): Matrix => ({
  values,
  at: firstRow * columns,
  rows,
  columns,
  stride: columns,
});

/** What allocates; a training arithmetic, or the plan of one. */
export type Memory = Pick<TrainingArithmetic, "precision" | "bytes" | "allocate" | "allocateIds" | "store">;

/** Where tensors come from. */
export interface TensorSource {
  /** Rows of a tensor as it is stored: all dimensions but the innermost. */
  rowsOf(name: string): number | undefined;
  bytes(spec: TensorSpec): Promise<Uint8Array>;
  /** Writes the tensor's numbers, decoded, plus what is to be added. */
  fill(values: Values, spec: TensorSpec): Promise<void>;
}

export interface ParameterOptions {
  readonly trainable: (name: string) => boolean;
  readonly gradients: boolean;
}

export class Parameters {
  /** Those that train, in the tape's order. */
  readonly list: readonly Parameter[];
  readonly #tensors: ReadonlyMap<string, Tensor>;
  readonly #owned: readonly { free(): void }[];

  private constructor(
    list: readonly Parameter[],
    tensors: ReadonlyMap<string, Tensor>,
    owned: readonly { free(): void }[],
  ) {
    this.list = list;
    this.#tensors = tensors;
    this.#owned = owned;
  }

  /**
   * Reads every tensor that the tape names. Throws as the source does, OUT_OF_BUDGET, and UNSUPPORTED_TENSOR_TYPE for a
   * frozen tensor that the arithmetic cannot decode; nothing stays allocated then.
   */
  static async load(
    memory: Memory,
    tape: Tape,
    source: TensorSource,
    options: ParameterOptions,
  ): Promise<Parameters> {
    const list: Parameter[] = [];
    const tensors = new Map<string, Tensor>();
    const owned: { free(): void }[] = [];
    const own = <T extends { free(): void }>(made: T): T => {
      owned.push(made);
      return made;
    };
    try {
      for (const spec of tensorsOf(tape, source)) {
        const { name, type, rows, columns, kind, experts, add } = spec;
        const trains = options.trainable(name);
        // A frozen vector is too small to be worth decoding again and again.
        if (!trains && kind !== "vector") {
          const stored = own(memory.store(type, rows, columns, await source.bytes(spec)));
          tensors.set(name, { whole: { kind: "stored", stored, firstRow: 0 }, columns });
          continue;
        }
        const values = own(memory.allocate(rows * columns));
        await source.fill(values, spec);
        const weight = at(values, rows, columns);
        const gradient =
          trains && options.gradients ? at(own(memory.allocate(rows * columns)), rows, columns) : null;
        tensors.set(name, { whole: { kind: "dense", weight, gradient }, columns });
        if (trains) list.push({ name, rows, columns, kind, experts, weight, gradient, add });
      }
    } catch (error) {
      for (const made of owned) made.free();
      throw error;
    }
    return new Parameters(list, tensors, owned);
  }

  matrix({ slices, rows }: WeightRef): Operand {
    return this.#slice(slices[0]!, rows);
  }

  /** Experts' matrices, in order: all of them in one operand, or one operand each, as they are stored. */
  experts({ slices, rows, experts }: WeightRef): { operand: Operand; first: number; count: number }[] {
    const count = experts / slices.length;
    return slices.map((slice, i) => ({ operand: this.#slice(slice, count * rows), first: i * count, count }));
  }

  vector({ slice }: VectorRef): { weight: Matrix; gradient: Matrix | null } {
    const operand = this.#slice(slice, 1);
    if (operand.kind === "stored") throw new Error(`Vector "${slice.tensor}" was not decoded.`);
    return operand;
  }

  free(): void {
    for (const memory of this.#owned) memory.free();
  }

  #slice({ tensor, rowStart }: TensorSlice, rows: number): Operand {
    const { whole, columns } = this.#tensors.get(tensor)!;
    if (whole.kind === "stored") return { ...whole, firstRow: rowStart };
    const part = ({ values }: Matrix): Matrix => at(values, rows, columns, rowStart);
    return { kind: "dense", weight: part(whole.weight), gradient: whole.gradient && part(whole.gradient) };
  }
}

/** A stored tensor that the tape reads. */
export interface TensorSpec {
  readonly name: string;
  readonly type: TensorType;
  readonly rows: number;
  readonly columns: number;
  readonly kind: Parameter["kind"];
  readonly experts: number;
  readonly add: number;
}

/** Every tensor that the tape's operations read, whole, once. Throws UNSUPPORTED_ARCHITECTURE for a gathered matrix. */
function tensorsOf(tape: Tape, { rowsOf }: TensorSource): TensorSpec[] {
  const specs = new Map<string, TensorSpec>();
  const addMatrix = (weight: WeightRef, kind: "matrix" | "embedding"): void => {
    const [slice, ...others] = weight.slices;
    if (!slice || others.length > 0) {
      throw new MillraceError(
        "UNSUPPORTED_ARCHITECTURE",
        `Training does not know a matrix made of ${weight.slices.length} tensors ("${slice?.tensor}"). ` +
          "It knows matrices that are stored in one: choose a model of such an architecture.",
      );
    }
    addSlice(weight, slice, kind, 1);
  };
  const addSlice = (
    { type, columns }: WeightRef,
    { tensor: name, rowStart, rowCount }: TensorSlice,
    kind: "matrix" | "embedding",
    experts: number,
  ): void => {
    if (kind === "matrix" && specs.has(name)) return;
    const rows = rowsOf(name) ?? rowStart + rowCount;
    specs.set(name, { name, type, rows, columns, kind, experts, add: 0 });
  };
  for (const op of tape.ops) {
    if (op.op === "embed") addMatrix(op.weight, "embedding");
    if (op.op === "matmul") addMatrix(op.weight, op.out === tape.logits ? "embedding" : "matrix");
    if (op.op !== "matmulExperts") continue;
    const { slices, experts } = op.weight;
    for (const slice of slices) addSlice(op.weight, slice, "matrix", experts / slices.length);
  }
  for (const { slice, type, width, add } of tape.vectors) {
    const shape = { type, rows: 1, columns: width, experts: 1 };
    specs.set(slice.tensor, { name: slice.tensor, ...shape, kind: "vector", add });
  }
  return [...specs.values()];
}

/** Numbers decoded at a time. */
const PIECE = 1 << 20;

/** `TensorSource.rowsOf` of a checkpoint. */
export const storedRows =
  ({ tensors }: Checkpoint): TensorSource["rowsOf"] =>
  (name) =>
    tensors
      .get(name)
      ?.shape.slice(0, -1)
      .reduce((rows, size) => rows * size, 1);

/** The numbers of a checkpoint. */
export const readTensors = (checkpoint: Checkpoint): TensorSource => ({
  rowsOf: storedRows(checkpoint),
  async bytes({ name, type, rows, columns }) {
    const bytes = new Uint8Array(rows * rowBytes(type, columns));
    await checkpoint.read(name, 0, bytes);
    return bytes;
  },
  async fill(values, { name, type, rows, columns, add }) {
    const bytesPerRow = rowBytes(type, columns);
    const step = Math.max(1, Math.floor(PIECE / columns));
    for (let row = 0; row < rows; row += step) {
      const count = Math.min(step, rows - row);
      const bytes = new Uint8Array(count * bytesPerRow);
      await checkpoint.read(name, row * bytesPerRow, bytes);
      const decoded = new Float32Array(count * columns);
      blockFormat(type).decode(bytes, decoded);
      await values.write(add === 0 ? decoded : decoded.map((x) => x + add), row * columns);
    }
  },
});
