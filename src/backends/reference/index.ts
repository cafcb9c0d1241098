import { MillraceError } from "../../errors.js";
import type { Checkpoint } from "../../formats/checkpoint.js";
import type { Tape } from "../../tape/tape.js";
import { mostRows, NO_ROWS, type RowCounts, rowsOf, rowsOfStep, StepCheck } from "../check.js";
import type {
  Backend,
  BackendOptions,
  KvLayout,
  LoadedWeights,
  LoadProgress,
  MemoryPlan,
  Program,
  ProgramLimits,
  Region,
  Step,
} from "../contract.js";
import { copyRegion, HostMemory } from "../host-memory.js";
import { fillRopeTable, ropeTableLength } from "../rope-table.js";
import type { TrainingArithmetic } from "../training.js";
import { execute } from "./ops.js";
import type { RouteData, Run } from "./state.js";
import { createReferenceTraining } from "./training.js";
import { decodedBytes, loadWeights, ReferenceWeights } from "./weights.js";

/** The definition of every op, executed: slow, one thread, double-precision sums, weights decoded to f32. */
export function createReference(_options: BackendOptions = {}): Backend {
  return new ReferenceBackend();
}

class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly description = "reference: plain TypeScript, double-precision sums, 1 thread";
  readonly numThreads = 1;
  readonly #memory = new HostMemory();

  plan(tape: Tape, limits: ProgramLimits): MemoryPlan {
    const most = mostRows(limits);
    const floats = tape.buffers.reduce((sum, b) => sum + rowsOf(tape, b.rows, most) * b.width, 0);
    const routes = tape.routes.reduce((sum, { perToken }) => sum + 2 * limits.maxTokens * perToken, 0);
    return { weightBytes: decodedBytes(tape), scratchBytes: 4 * (floats + routes) };
  }

  allocate(byteLength: number): Region {
    return this.#memory.allocate(byteLength);
  }

  load(
    tape: Tape,
    checkpoint: Checkpoint,
    onProgress?: (progress: LoadProgress) => void,
  ): Promise<LoadedWeights> {
    return loadWeights(tape, checkpoint, onProgress);
  }

  async compile(tape: Tape, weights: LoadedWeights, limits: ProgramLimits): Promise<Program> {
    if (!(weights instanceof ReferenceWeights)) {
      throw new MillraceError("INVALID_ARGUMENT", "These weights were loaded by another backend.");
    }
    return new ReferenceProgram(tape, weights, limits);
  }

  copy(from: Region, fromByte: number, to: Region, toByte: number, byteLength: number): void {
    copyRegion(from, fromByte, to, toByte, byteLength);
  }

  /** In f32, as the other backends; `createReferenceTraining` offers double precision. */
  training(): TrainingArithmetic {
    return createReferenceTraining({ precision: "f32" });
  }

  async dispose(): Promise<void> {}
}

class ReferenceProgram implements Program {
  readonly #tape: Tape;
  readonly #weights: ReferenceWeights;
  readonly #kv: KvLayout;
  readonly #check: StepCheck;
  readonly #buffers: Float32Array[];
  readonly #routes: RouteData[];
  #ran: RowCounts = NO_ROWS;

  constructor(tape: Tape, weights: ReferenceWeights, limits: ProgramLimits) {
    const { maxTokens } = limits;
    const most = mostRows(limits);
    this.#tape = tape;
    this.#weights = weights;
    this.#kv = limits.kv;
    this.#check = new StepCheck(tape, limits);
    this.#buffers = tape.buffers.map(({ rows, width }) => new Float32Array(rowsOf(tape, rows, most) * width));
    this.#routes = tape.routes.map(({ perToken }) => ({
      ids: new Int32Array(maxTokens * perToken),
      weights: new Float32Array(maxTokens * perToken),
    }));
  }

  async run(step: Step): Promise<void> {
    this.#check.check(step);
    this.#ran = rowsOfStep(step);
    const run: Run = {
      tape: this.#tape,
      step,
      kv: this.#kv,
      buffers: this.#buffers,
      weights: this.#weights.matrices,
      vectors: this.#weights.vectors,
      routes: this.#routes,
      ropes: this.#tape.ropes.map((rope) => {
        const table = new Float32Array(ropeTableLength(rope, step.tokens.length, step.rotations.length));
        fillRopeTable(rope, step.positions, step.rotations, table);
        return table;
      }),
    };
    for (const op of this.#tape.ops) execute(run, op);
  }

  logits(): Float32Array {
    return this.read(this.#tape.logits.id);
  }

  states(): Float32Array {
    const { states } = this.#tape;
    return states ? this.read(states.id) : new Float32Array();
  }

  read(bufferId: number): Float32Array {
    const buffer = this.#tape.buffers[bufferId];
    if (!buffer) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `No buffer ${bufferId}; ids end at ${this.#tape.buffers.length - 1}.`,
      );
    }
    const numRows = rowsOf(this.#tape, buffer.rows, this.#ran);
    return this.#buffers[bufferId]!.subarray(0, numRows * buffer.width);
  }

  dispose(): void {
    this.#buffers.length = 0;
  }
}
