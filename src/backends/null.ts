/**
 * The null backend computes nothing: any tape runs, no weight is read, no page is touched, and the logits are a hash
 * of each output's token and position. It keeps every limit that the others keep, so that engine, cache and
 * scheduler can be tested without a model.
 */
import { MillraceError } from "../errors.js";
import type { Tape } from "../tape/tape.js";
import { checkLimits, checkStep, rowsOf, vocabularyOf } from "./check.js";
import type { Backend, BackendOptions, LoadedWeights, Program, ProgramLimits, Step } from "./contract.js";
import { copyRegion, HostMemory } from "./host-memory.js";

export function createNull(_options: BackendOptions = {}): Backend {
  const memory = new HostMemory();
  return {
    name: "null",
    description: "null: computes nothing, logits are a hash of token and position",
    numThreads: 1,
    plan: (tape, { maxOutputs }) => ({ weightBytes: 0, scratchBytes: 4 * maxOutputs * tape.logits.width }),
    allocate: (byteLength) => memory.allocate(byteLength),
    load: async () => new NullWeights(),
    async compile(tape, weights, limits) {
      if (!(weights instanceof NullWeights)) {
        throw new MillraceError("INVALID_ARGUMENT", "These weights were loaded by another backend.");
      }
      checkLimits(tape, limits);
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
  readonly #limits: ProgramLimits;
  readonly #logits: Float32Array;
  #numTokens = 0;
  #numOutputs = 0;

  constructor(tape: Tape, limits: ProgramLimits) {
    this.#tape = tape;
    this.#limits = limits;
    this.#logits = new Float32Array(limits.maxOutputs * tape.logits.width);
  }

  async run(step: Step): Promise<void> {
    checkStep(step, this.#limits, vocabularyOf(this.#tape));
    const { width } = this.#tape.logits;
    this.#numTokens = step.tokens.length;
    this.#numOutputs = step.outputs.length;
    step.outputs.forEach((t, r) => {
      const [token, position] = [step.tokens[t]!, step.positions[t]!];
      for (let v = 0; v < width; v++) this.#logits[r * width + v] = nullLogit(token, position, v);
    });
  }

  logits(): Float32Array {
    return this.#logits.subarray(0, this.#numOutputs * this.#tape.logits.width);
  }

  /** The logits for their buffer, zeros of the right size for every other one. */
  read(bufferId: number): Float32Array {
    const buffer = this.#tape.buffers[bufferId];
    if (!buffer) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `No buffer ${bufferId}; there are ${this.#tape.buffers.length}.`,
      );
    }
    if (bufferId === this.#tape.logits.id) return this.logits();
    return new Float32Array(
      rowsOf(this.#tape, buffer.rows, this.#numTokens, this.#numOutputs) * buffer.width,
    );
  }

  dispose(): void {}
}
