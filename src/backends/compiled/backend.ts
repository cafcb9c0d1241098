import { MillraceError } from "../../errors.js";
import type { Checkpoint } from "../../formats/checkpoint.js";
import type { Tape } from "../../tape/tape.js";
import { NO_ROWS, type RowCounts, rowsOf, rowsOfStep, StepCheck } from "../check.js";
import type {
  Backend,
  LoadedWeights,
  LoadProgress,
  MemoryPlan,
  Program,
  ProgramLimits,
  Region,
  Step,
} from "../contract.js";
import { copyRegion } from "../host-memory.js";
import type { TrainingArithmetic } from "../training.js";
import { BARRIER_WORDS, LOW_RANK, Offsets, OP_RECORD, PROGRAM, putAddress } from "./abi.js";
import { encode, type Lowered, lower, tableLength, variantOf } from "./lower.js";
import type { Machine } from "./machine.js";
import { StepWriter, stepBytes } from "./step-writer.js";
import { CompiledTraining } from "./training.js";
import { CompiledWeights, loadWeights, planWeights } from "./weights.js";

/** A backend that runs the C kernels on a machine: native code or WebAssembly. */
export class CompiledBackend implements Backend {
  readonly #machine: Machine;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  get name(): Machine["name"] {
    return this.#machine.name;
  }

  get description(): string {
    return this.#machine.description;
  }

  get numThreads(): number {
    return this.#machine.numThreads;
  }

  plan(tape: Tape, limits: ProgramLimits): MemoryPlan {
    const { kernels, numThreads } = this.#machine;
    const weights = planWeights(tape, kernels);
    const types = weights.matrixOf.map((index) => weights.matrices[index]!.type);
    const lowered = lower(tape, limits, kernels, types, numThreads);
    return {
      weightBytes: weights.byteLength,
      scratchBytes: lowered.scratchBytes + controlLayout(lowered).bytes + stepBytes(tape, limits),
    };
  }

  allocate(byteLength: number): Region {
    return this.#machine.allocate(byteLength);
  }

  load(
    tape: Tape,
    checkpoint: Checkpoint,
    onProgress?: (progress: LoadProgress) => void,
  ): Promise<LoadedWeights> {
    return loadWeights(this.#machine, tape, checkpoint, onProgress);
  }

  /** Throws INVALID_ARGUMENT for weights of another backend or tape, and as `StepCheck` does. */
  async compile(tape: Tape, weights: LoadedWeights, limits: ProgramLimits): Promise<Program> {
    if (!(weights instanceof CompiledWeights) || weights.machine !== this.#machine || weights.tape !== tape) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "These weights were loaded by another backend or for another tape.",
      );
    }
    return new CompiledProgram(this.#machine, tape, weights, limits);
  }

  copy(from: Region, fromByte: number, to: Region, toByte: number, byteLength: number): void {
    copyRegion(from, fromByte, to, toByte, byteLength);
  }

  /** Throws OUT_OF_BUDGET. */
  training(): TrainingArithmetic {
    return new CompiledTraining(this.#machine);
  }

  dispose(): Promise<void> {
    return this.#machine.dispose();
  }
}

/** Offsets in the control region: what the interpreter reads besides the step. */
function controlLayout({ instructions, variants, lowRanks }: Lowered) {
  const offsets = new Offsets();
  return {
    program: offsets.take(PROGRAM.bytes),
    barrier: offsets.take(BARRIER_WORDS * 4),
    counters: offsets.take(instructions.length * 4),
    /** By variant. */
    ops: variants.map(({ length }) => offsets.take(length * OP_RECORD.bytes)),
    /** By op: LowRank [adapters]. */
    lowRanks: lowRanks.map((pairs) => offsets.take(tableLength(pairs) * LOW_RANK.words * 4)),
    bytes: offsets.bytes,
  };
}

class CompiledProgram implements Program {
  readonly #machine: Machine;
  readonly #tape: Tape;
  readonly #weights: CompiledWeights;
  readonly #check: StepCheck;
  readonly #lowered: Lowered;
  readonly #layout: ReturnType<typeof controlLayout>;
  readonly #control: Region;
  readonly #scratch: Region;
  readonly #steps: StepWriter;
  #ran: RowCounts = NO_ROWS;

  constructor(machine: Machine, tape: Tape, weights: CompiledWeights, limits: ProgramLimits) {
    this.#machine = machine;
    this.#tape = tape;
    this.#weights = weights;
    this.#check = new StepCheck(tape, limits);
    this.#lowered = lower(tape, limits, machine.kernels, weights.types, machine.numThreads);
    this.#layout = controlLayout(this.#lowered);
    const regions: { free(): void }[] = [];
    const owned = <T extends { free(): void }>(region: T): T => {
      regions.push(region);
      return region;
    };
    try {
      this.#control = owned(machine.allocate(this.#layout.bytes));
      this.#scratch = owned(machine.allocate(this.#lowered.scratchBytes));
      this.#steps = owned(new StepWriter(machine, tape, limits));
    } catch (error) {
      for (const region of regions) region.free();
      throw error;
    }
    this.#writeProgram();
    this.#writeLowRanks();
    this.#writeOps();
  }

  async run(step: Step): Promise<void> {
    this.#check.check(step);
    if (this.#steps.write(step)) this.#writeOps();
    const { counters, program } = this.#layout;
    this.#control.int32(counters, this.#lowered.instructions.length).fill(0);
    this.#selectOps(step);
    this.#machine.run(this.#control.address + program);
    this.#ran = rowsOfStep(step);
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
    const place = this.#lowered.buffers[bufferId];
    if (!buffer || !place) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `No buffer ${bufferId}; there are ${this.#tape.buffers.length}.`,
      );
    }
    if (!place.survives) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Buffer ${bufferId} shares its memory with later ones; compile with keepBuffers to read it.`,
        { bufferId },
      );
    }
    const numRows = rowsOf(this.#tape, buffer.rows, this.#ran);
    return this.#scratch.float32(place.offset, numRows * buffer.width);
  }

  dispose(): void {
    this.#control.free();
    this.#scratch.free();
    this.#steps.free();
  }

  #writeProgram(): void {
    const at = this.#layout;
    const { address } = this.#control;
    const words = this.#control.int32(at.program, PROGRAM.bytes >> 2);
    putAddress(words, PROGRAM.step >> 2, this.#steps.address);
    putAddress(words, PROGRAM.counters >> 2, address + at.counters);
    putAddress(words, PROGRAM.barrier >> 2, address + at.barrier);
    words[PROGRAM.threads >> 2] = this.#machine.numThreads;
  }

  /** What the next run executes: all, or what is left where no sequence has an adapter, or no query a choice. */
  #selectOps({ spans }: Step): void {
    const adapters = spans.some(({ adapter }) => adapter !== undefined);
    const choices = spans.some(({ views }) => views.some(({ choice }) => choice));
    const variant = variantOf(adapters, choices);
    const { program, ops } = this.#layout;
    const words = this.#control.int32(program, PROGRAM.bytes >> 2);
    putAddress(words, PROGRAM.ops >> 2, this.#control.address + ops[variant]!);
    words[PROGRAM.numOps >> 2] = this.#lowered.variants[variant]!.length;
  }

  /** Of each op that adapters change, where each adapter's pair lies; a rank of 0 where it has none. */
  #writeLowRanks(): void {
    const { vectorAddresses } = this.#weights;
    this.#lowered.lowRanks.forEach((pairs, id) => {
      const words = this.#control.int32(this.#layout.lowRanks[id]!, tableLength(pairs) * LOW_RANK.words);
      for (const { adapter, rank, down, up } of pairs) {
        const at = adapter * LOW_RANK.words;
        putAddress(words, at + LOW_RANK.down, vectorAddresses[down.id]!);
        putAddress(words, at + LOW_RANK.up, vectorAddresses[up.id]!);
        words[at + LOW_RANK.rank] = rank;
      }
    });
  }

  #writeOps(): void {
    const { ops, lowRanks } = this.#layout;
    const at = {
      scratch: this.#scratch.address,
      weights: this.#weights.addresses,
      vectors: this.#weights.vectorAddresses,
      ropes: this.#steps.ropeAddresses,
      lowRanks: lowRanks.map((offset) => this.#control.address + offset),
    };
    for (const [variant, instructions] of this.#lowered.variants.entries()) {
      const out = this.#control.bytes(ops[variant]!, instructions.length * OP_RECORD.bytes);
      encode(this.#lowered, at, out, instructions);
    }
  }
}
