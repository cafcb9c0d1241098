/** One ragged batch of a step: the tokens of its sequences, one after another, whatever pools their pages lie in. */
import type { Program, Span } from "../backends/contract.js";
import { Rotations } from "../cache/rotations.js";
import { MillraceError } from "../errors.js";
import type { Limits } from "../scheduler/contract.js";
import type { Place, Task } from "./task.js";

/** A task's part in a step. */
export interface Share {
  readonly task: Task;
  readonly tokens: number;
  /** Set to 0 where the task failed before the step ran. */
  outputs: number;
  /** Likewise. */
  states: number;
}

/** Lays out batches and runs them. Its arrays are reused from step to step. */
export class Batcher {
  readonly #program: Program;
  readonly #home: Place;
  readonly #rotations = new Rotations();
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  readonly #outputs: Int32Array;
  readonly #states: Int32Array;

  /** `home` is what `program` was compiled for. */
  constructor(program: Program, home: Place, { maxTokens, maxOutputs }: Limits) {
    this.#program = program;
    this.#home = home;
    this.#tokens = new Int32Array(maxTokens);
    this.#positions = new Int32Array(maxTokens);
    this.#outputs = new Int32Array(maxOutputs);
    this.#states = new Int32Array(maxTokens);
  }

  /** Finds slots for the shares' tokens and runs them. `fail` hears of tasks that could not take part, or run. */
  async run(batch: readonly Share[], fail: (task: Task, error: MillraceError) => void): Promise<void> {
    const spans: Span[] = [];
    const ran: Task[] = [];
    let numTokens = 0;
    let numOutputs = 0;
    let numStates = 0;
    this.#rotations.clear();
    for (const share of batch) {
      const { task, tokens: count } = share;
      const start = numTokens;
      const end = start + count;
      try {
        const cache = task.cache!;
        for (let t = start, position = cache.nextPosition; t < end; t++) this.#positions[t] = position++;
        const { slots, views } = cache.prepare(this.#positions.subarray(start, end), this.#rotations);
        const { adapter, place } = task;
        const pages = { kv: place.layout, arena: place.pool.arena, slots };
        spans.push({ start, count, views, pages, ...(adapter === undefined ? {} : { adapter }) });
      } catch (error) {
        fail(task, MillraceError.from(error));
        dropRows(share);
        continue;
      }
      ran.push(task);
      this.#tokens.set(task.take(count), start);
      for (let t = end - share.outputs; t < end; t++) this.#outputs[numOutputs++] = t;
      for (let t = end - share.states; t < end; t++) this.#states[numStates++] = t;
      numTokens = end;
    }
    if (spans.length === 0) return;
    try {
      await this.#program.run({
        tokens: this.#tokens.subarray(0, numTokens),
        positions: this.#positions.subarray(0, numTokens),
        outputs: this.#outputs.subarray(0, numOutputs),
        states: this.#states.subarray(0, numStates),
        spans,
        slots: [],
        rotations: this.#rotations.values(),
        arena: this.#home.pool.arena,
      });
    } catch (error) {
      for (const task of ran) fail(task, MillraceError.from(error));
      for (const share of batch) dropRows(share);
    }
  }
}

function dropRows(share: Share): void {
  share.outputs = 0;
  share.states = 0;
}
