/**
 * The null backend computes nothing: any tape runs, no weight is read, no page is touched, and logits and states are a
 * hash of each row's token and position. It keeps every limit that the others keep, so that engine, cache and
 * scheduler can be tested without a model.
 */
import { MillraceError } from "../errors.js";
import type { Tape } from "../tape/tape.js";
import { mostRows, NO_ROWS, type RowCounts, rowsOf, rowsOfStep, StepCheck } from "./check.js";
import type { Backend, BackendOptions, LoadedWeights, Program, ProgramLimits, Step } from "./contract.js";
import { copyRegion, HostMemory } from "./host-memory.js";

export function createNull(_options: BackendOptions = {}): Backend {
  const memory = new HostMemory();
  return {
    name: "null",
    description: "null: computes nothing, logits are a hash of token and position",
    numThreads: 1,
    plan(tape, limits) {
      const { outputs, states } = mostRows(limits);
      return { weightBytes: 0, scratchBytes: 4 * (outputs * tape.logits.width + states * stateWidth(tape)) };
    },
    allocate: (byteLength) => memory.allocate(byteLength),
    load: async () => new NullWeights(),
    async compile(tape, weights, limits) {
      if (!(weights instanceof NullWeights)) {
        throw new MillraceError("INVALID_ARGUMENT", "These weights were loaded by another backend.");
      }
      return new NullProgram(tape, limits);
    },
    copy: copyRegion,
    async dispose() {},
  };
}

/** The pseudo-logit of `candidate` after `token` at `position`: 0 (included) to 1. */
export function nullLogit(token: number, position: number, candidate: number): number {
  let hash = Math.imul(token ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(position + 1, 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 15) ^ Math.imul(candidate + 1, 0x27d4eb2f), 0x165667b1);
  hash = Math.imul(hash ^ (hash >>> 13), 0x2c1b3c6d);
  return ((hash ^ (hash >>> 16)) >>> 8) / 2 ** 24;
}

class NullWeights implements LoadedWeights {
  readonly byteLength = 0;
  dispose(): void {}
}

class NullProgram implements Program {
  readonly #tape: Tape;
  readonly #check: StepCheck;
  readonly #logits: Float32Array;
  readonly #states: Float32Array;
  #ran: RowCounts = NO_ROWS;

  constructor(tape: Tape, limits: ProgramLimits) {
    this.#tape = tape;
    this.#check = new StepCheck(tape, limits);
    const { outputs, states } = mostRows(limits);
    this.#logits = new Float32Array(outputs * tape.logits.width);
    this.#states = new Float32Array(states * stateWidth(tape));
  }

  async run(step: Step): Promise<void> {
    this.#check.check(step);
    this.#ran = rowsOfStep(step);
    const fill = (rows: Int32Array | undefined, width: number, out: Float32Array) =>
      rows?.forEach((t, r) => {
        const [token, position] = [step.tokens[t]!, step.positions[t]!];
        for (let i = 0; i < width; i++) out[r * width + i] = nullLogit(token, position, i);
      });
    fill(step.outputs, this.#tape.logits.width, this.#logits);
    fill(step.states, stateWidth(this.#tape), this.#states);
  }

  logits(): Float32Array {
    return this.#logits.subarray(0, this.#ran.outputs * this.#tape.logits.width);
  }

  states(): Float32Array {
    return this.#states.subarray(0, this.#ran.states * stateWidth(this.#tape));
  }

  /** Logits and states for their buffers, zeros of the right size for every other one. */
  read(bufferId: number): Float32Array {
    const buffer = this.#tape.buffers[bufferId];
    if (!buffer) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `No buffer ${bufferId}; there are ${this.#tape.buffers.length}.`,
      );
    }
    if (bufferId === this.#tape.logits.id) return this.logits();
    if (bufferId === this.#tape.states?.id) return this.states();
    return new Float32Array(rowsOf(this.#tape, buffer.rows, this.#ran) * buffer.width);
  }

  dispose(): void {}
}

const stateWidth = ({ states }: Tape): number => states?.width ?? 0;
