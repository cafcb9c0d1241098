/** The command buffer of training on the compiled backends: op records that wait, and one run of the machine for them all. */
import type { Region } from "../contract.js";
import type { Matrix } from "../training.js";
import {
  BARRIER_WORDS,
  MATRIX,
  Offsets,
  OP_RECORD,
  type OpCode,
  PROGRAM,
  putAddress,
  STEP,
  TRAIN_SCRATCH,
} from "./abi.js";
import type { Machine } from "./machine.js";
import { CompiledValues, type Owner, ownedBy } from "./training-memory.js";

/** Ops that are recorded before they are run. */
const MAX_OPS = 512;
/** Matrices of one op. */
const MAX_MATRICES = 9;

/** Fields of an op's record beside its matrices. */
export interface Fields {
  readonly i?: readonly number[];
  readonly f?: readonly number[];
  /** p[2]. */
  readonly address?: number;
}

export class TrainingOps implements Owner {
  /** Bytes that are claimed now, and the most that ever were. */
  readonly bytes = { current: 0, peak: 0 };
  readonly #machine: Machine;
  readonly #layout = controlLayout();
  readonly #control: Region;
  readonly #scratch: Region;
  #numOps = 0;

  /** Throws OUT_OF_BUDGET where the machine refuses the threads' scratch memory. */
  constructor(machine: Machine) {
    this.#machine = machine;
    this.#control = this.claim(this.#layout.bytes);
    this.#scratch = this.claim(machine.numThreads * TRAIN_SCRATCH * 4);
    const { address } = this.#control;
    const words = this.#control.int32(this.#layout.program, PROGRAM.bytes >> 2);
    putAddress(words, PROGRAM.ops >> 2, address + this.#layout.ops);
    putAddress(words, PROGRAM.step >> 2, address + this.#layout.step);
    putAddress(words, PROGRAM.counters >> 2, address + this.#layout.counters);
    putAddress(words, PROGRAM.barrier >> 2, address + this.#layout.barrier);
    words[PROGRAM.threads >> 2] = machine.numThreads;
  }

  claim(byteLength: number): Region {
    const region = this.#machine.allocate(byteLength);
    this.bytes.current += byteLength;
    this.bytes.peak = Math.max(this.bytes.peak, this.bytes.current);
    return region;
  }

  release(region: Region): void {
    this.flush();
    this.bytes.current -= region.byteLength;
    region.free();
  }

  flush(): void {
    if (this.#numOps === 0) return;
    const { program, counters } = this.#layout;
    this.#control.int32(program, PROGRAM.bytes >> 2)[PROGRAM.numOps >> 2] = this.#numOps;
    this.#control.int32(counters, this.#numOps).fill(0);
    this.#numOps = 0;
    this.#machine.run(this.#control.address + program);
  }

  /** Writes an op's record; it waits for all that was recorded before. */
  record(code: OpCode, matrices: readonly Matrix[], { i = [], f = [], address = 0 }: Fields = {}): void {
    const places = matrices.map((m) => ownedBy(this, m.values, CompiledValues, "A matrix lies").place(m));
    if (this.#numOps === MAX_OPS) this.flush();
    const index = this.#numOps++;
    const opAt = this.#layout.ops + index * OP_RECORD.bytes;
    const matricesAt = this.#layout.matrices + index * MAX_MATRICES * MATRIX.bytes;
    const words = this.#control.int32(opAt, OP_RECORD.bytes >> 2);
    words.fill(0);
    words[OP_RECORD.code >> 2] = code;
    words[OP_RECORD.barrier >> 2] = index > 0 ? 1 : 0;
    words.set(i, OP_RECORD.i >> 2);
    this.#control.float32(opAt + OP_RECORD.f, OP_RECORD.numF).set(f);
    putAddress(words, OP_RECORD.p >> 2, this.#control.address + matricesAt);
    putAddress(words, (OP_RECORD.p >> 2) + 2, this.#scratch.address);
    putAddress(words, (OP_RECORD.p >> 2) + 4, address);
    const fields = this.#control.int32(matricesAt, (matrices.length * MATRIX.bytes) >> 2);
    matrices.forEach(({ stride, rows, columns }, index) => {
      const at = (index * MATRIX.bytes) >> 2;
      putAddress(fields, at + (MATRIX.at >> 2), places[index]!);
      putAddress(fields, at + (MATRIX.stride >> 2), stride);
      fields[at + (MATRIX.rows >> 2)] = rows;
      fields[at + (MATRIX.columns >> 2)] = columns;
    });
  }

  dispose(): void {
    this.flush();
    this.release(this.#scratch);
    this.release(this.#control);
  }
}

/** Offsets in the control region: the interpreter's structs, and the ops with their matrices. */
function controlLayout() {
  const offsets = new Offsets();
  return {
    program: offsets.take(PROGRAM.bytes),
    barrier: offsets.take(BARRIER_WORDS * 4),
    step: offsets.take(STEP.words * 4),
    counters: offsets.take(MAX_OPS * 4),
    ops: offsets.take(MAX_OPS * OP_RECORD.bytes),
    matrices: offsets.take(MAX_OPS * MAX_MATRICES * MATRIX.bytes),
    bytes: offsets.bytes,
  };
}
