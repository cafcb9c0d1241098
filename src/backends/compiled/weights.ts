/** Loading: weights streamed from the checkpoint, a few megabytes at a time, and packed for the kernels. */
import { MillraceError } from "../../errors.js";
import { rowBytes } from "../../formats/blocks/contract.js";
import { blockFormat } from "../../formats/blocks/index.js";
import type { Checkpoint, TensorType } from "../../formats/checkpoint.js";
import type { Tape, TensorSlice, WeightRef } from "../../tape/tape.js";
import type { LoadedWeights, LoadProgress, Region } from "../contract.js";
import { align, PANEL, weightTypeNumber } from "./abi.js";
import type { Kernels, Machine } from "./machine.js";

/** Stored bytes that are read at a time; two such pieces are under way at once. */
const CHUNK_BYTES = 4 << 20;

/** How one distinct matrix is packed. */
interface PackedMatrix {
  readonly weight: WeightRef;
  /** Number of the type in packed form. */
  readonly type: number;
  readonly panelBytes: number;
  /** From the start of the weights. */
  readonly offset: number;
  /** The kernels have no layout for rows of this type and length: they are decoded to F32 first. */
  readonly decode: boolean;
}

/** Where everything a tape reads will lie, known before anything is allocated. */
export interface WeightPlan {
  readonly matrices: readonly PackedMatrix[];
  /** By weight id, an index into `matrices`: weights made of the same rows are packed once. */
  readonly matrixOf: readonly number[];
  /** By vector id, from the start of the weights. */
  readonly vectorOffsets: readonly number[];
  readonly matrixBytes: number;
  readonly byteLength: number;
}

function packing(kernels: Kernels, type: TensorType, columns: number) {
  const own = weightTypeNumber(type);
  const panelBytes = kernels.panelBytes(own, columns);
  if (panelBytes > 0) return { type: own, panelBytes, decode: false };
  const plain = weightTypeNumber("F32");
  return { type: plain, panelBytes: kernels.panelBytes(plain, columns), decode: true };
}

const panelsOf = (rows: number): number => Math.ceil(rows / PANEL);

export function planWeights(tape: Tape, kernels: Kernels): WeightPlan {
  const matrices: PackedMatrix[] = [];
  const known = new Map<string, number>();
  let offset = 0;
  const matrixOf = tape.weights.map((weight) => {
    const { slices, type, rows, columns, experts } = weight;
    const key = JSON.stringify([slices, type, rows, columns, experts]);
    const index = known.get(key);
    if (index !== undefined) return index;
    const packed = packing(kernels, type, columns);
    known.set(key, matrices.length);
    matrices.push({ weight, offset, ...packed });
    offset += align(experts * panelsOf(rows) * packed.panelBytes);
    return matrices.length - 1;
  });
  const matrixBytes = offset;
  const vectorOffsets = tape.vectors.map(({ width }) => {
    const at = offset;
    offset += align(width * 4);
    return at;
  });
  return { matrices, matrixOf, vectorOffsets, matrixBytes, byteLength: offset };
}

/** Weights packed in a machine's memory. */
export class CompiledWeights implements LoadedWeights {
  readonly byteLength: number;
  readonly #plan: WeightPlan;
  readonly #matrices: Region;
  readonly #vectors: Region;

  constructor(
    readonly machine: Machine,
    readonly tape: Tape,
    plan: WeightPlan,
    matrices: Region,
    vectors: Region,
  ) {
    this.byteLength = plan.byteLength;
    this.#plan = plan;
    this.#matrices = matrices;
    this.#vectors = vectors;
  }

  /** By weight id: numbers of the packed types. */
  get types(): number[] {
    return this.#plan.matrixOf.map((index) => this.#plan.matrices[index]!.type);
  }

  /** By weight id. */
  get addresses(): number[] {
    return this.#plan.matrixOf.map((index) => this.#matrices.address + this.#plan.matrices[index]!.offset);
  }

  /** By vector id. */
  get vectorAddresses(): number[] {
    return this.#plan.vectorOffsets.map((offset) => this.#vectors.address + offset - this.#plan.matrixBytes);
  }

  dispose(): void {
    this.#matrices.free();
    this.#vectors.free();
  }
}

/** Rows `first` .. `first + count - 1` of one expert of a matrix, which are packed in one go. */
interface Chunk {
  readonly matrix: PackedMatrix;
  readonly expert: number;
  readonly first: number;
  readonly count: number;
}

function* chunksOf(matrices: readonly PackedMatrix[]): Generator<Chunk> {
  for (const matrix of matrices) {
    const { type, rows, columns, experts } = matrix.weight;
    const most = Math.max(1, Math.floor(CHUNK_BYTES / (rowBytes(type, columns) * PANEL))) * PANEL;
    for (let expert = 0; expert < experts; expert++) {
      for (let first = 0; first < rows; first += most) {
        yield { matrix, expert, first, count: Math.min(most, rows - first) };
      }
    }
  }
}

/** Reads rows `first` .. `first + count - 1` of what the slices make up, one after another. */
async function readRows(
  checkpoint: Checkpoint,
  slices: readonly TensorSlice[],
  bytesPerRow: number,
  first: number,
  count: number,
  into: Uint8Array,
): Promise<void> {
  let start = 0;
  for (const { tensor, rowStart, rowCount } of slices) {
    const from = Math.max(first, start);
    const to = Math.min(first + count, start + rowCount);
    if (from < to) {
      const piece = into.subarray((from - first) * bytesPerRow, (to - first) * bytesPerRow);
      await checkpoint.read(tensor, (rowStart + from - start) * bytesPerRow, piece);
    }
    start += rowCount;
  }
}

function checkSlices(tape: Tape): void {
  for (const { slices, rows, experts } of tape.weights) {
    const found = slices.reduce((sum, { rowCount }) => sum + rowCount, 0);
    if (found === rows * experts) continue;
    const names = slices.map(({ tensor, rowCount }) => `${rowCount} of "${tensor}"`).join(", ");
    throw new MillraceError("BAD_SHAPE", `A weight of ${rows * experts} rows is made of ${names}.`, {
      rows,
      experts,
    });
  }
}

/**
 * Reads every matrix and vector of the tape into the machine's memory. While one chunk is packed by all threads, the
 * next one is read.
 * Throws as `Checkpoint.read` does, BAD_SHAPE for slices that do not add up, OUT_OF_BUDGET before anything is read.
 */
export async function loadWeights(
  machine: Machine,
  tape: Tape,
  checkpoint: Checkpoint,
  onProgress?: (progress: LoadProgress) => void,
): Promise<CompiledWeights> {
  checkSlices(tape);
  const plan = planWeights(tape, machine.kernels);
  if (plan.byteLength > machine.addressableBytes) {
    throw new MillraceError(
      "OUT_OF_BUDGET",
      `The weights take ${plan.byteLength} bytes; the ${machine.name} backend reaches ${machine.addressableBytes}. ` +
        "Use the native backend or a smaller quantisation.",
      { weightBytes: plan.byteLength, addressableBytes: machine.addressableBytes },
    );
  }
  const regions: Region[] = [];
  const allocate = (bytes: number): Region => {
    const region = machine.allocate(bytes);
    regions.push(region);
    return region;
  };
  try {
    const matrices = allocate(plan.matrixBytes);
    const vectors = allocate(plan.byteLength - plan.matrixBytes);
    await loadMatrices(machine, plan, matrices, checkpoint, progressOf(tape, plan, onProgress));
    await loadVectors(tape, plan, vectors, checkpoint);
    return new CompiledWeights(machine, tape, plan, matrices, vectors);
  } catch (error) {
    for (const region of regions) region.free();
    throw error;
  }
}

/** A function that counts bytes and reports them. */
function progressOf(tape: Tape, plan: WeightPlan, report: ((progress: LoadProgress) => void) | undefined) {
  const stored = plan.matrices.map(({ weight: w }) => w.experts * w.rows * rowBytes(w.type, w.columns));
  const vectorBytes = tape.vectors.reduce((sum, { type, width }) => sum + rowBytes(type, width), 0);
  const totalBytes = stored.reduce((sum, bytes) => sum + bytes, vectorBytes);
  let loadedBytes = vectorBytes;
  return (bytes: number): void => {
    loadedBytes += bytes;
    report?.({ loadedBytes, totalBytes });
  };
}

async function loadMatrices(
  machine: Machine,
  plan: WeightPlan,
  target: Region,
  checkpoint: Checkpoint,
  loaded: (bytes: number) => void,
): Promise<void> {
  const chunks = [...chunksOf(plan.matrices)];
  const bytesOf = ({ matrix, count }: Chunk): number =>
    count * rowBytes(matrix.weight.type, matrix.weight.columns);
  const valuesOf = ({ matrix, count }: Chunk): number => (matrix.decode ? count * matrix.weight.columns : 0);
  const stagingBytes = align(Math.max(0, ...chunks.map(bytesOf)));
  const decodedBytes = 4 * Math.max(0, ...chunks.map(valuesOf));
  const staging = machine.allocate(2 * stagingBytes);
  const decoded = machine.allocate(decodedBytes);
  const read = async (index: number): Promise<void> => {
    const chunk = chunks[index];
    if (!chunk) return;
    const { weight } = chunk.matrix;
    const into = staging.bytes((index % 2) * stagingBytes, bytesOf(chunk));
    const first = chunk.expert * weight.rows + chunk.first;
    await readRows(
      checkpoint,
      weight.slices,
      rowBytes(weight.type, weight.columns),
      first,
      chunk.count,
      into,
    );
  };
  const pack = (index: number): void => {
    const chunk = chunks[index]!;
    const { weight, type, panelBytes, offset, decode } = chunk.matrix;
    const { rows, columns } = weight;
    const at = (index % 2) * stagingBytes;
    if (decode) {
      const values = decoded.float32(0, valuesOf(chunk));
      blockFormat(weight.type).decode(staging.bytes(at, bytesOf(chunk)), values);
    }
    machine.pack({
      type,
      rows: chunk.count,
      columns,
      rowBytes: decode ? columns * 4 : rowBytes(weight.type, columns),
      panelBytes,
      from: decode ? decoded.address : staging.address + at,
      to: target.address + offset + (chunk.expert * panelsOf(rows) + chunk.first / PANEL) * panelBytes,
    });
  };
  let reading = read(0);
  try {
    for (let index = 0; index < chunks.length; index++) {
      await reading;
      reading = read(index + 1);
      pack(index);
      loaded(bytesOf(chunks[index]!));
    }
  } finally {
    // A read that is still under way must not write into freed memory.
    await reading.catch(() => {});
    staging.free();
    decoded.free();
  }
}

async function loadVectors(
  tape: Tape,
  plan: WeightPlan,
  target: Region,
  checkpoint: Checkpoint,
): Promise<void> {
  for (const [id, { slice, type, width, add }] of tape.vectors.entries()) {
    const bytes = new Uint8Array(rowBytes(type, width));
    // A vector may be stored as one row or as `width` rows of one element; its bytes are the same.
    await checkpoint.read(slice.tensor, 0, bytes);
    const values = target.float32(plan.vectorOffsets[id]! - plan.matrixBytes, width);
    blockFormat(type).decode(bytes, values);
    if (add !== 0) for (let i = 0; i < width; i++) values[i]! += add;
  }
}
