/** One ragged batch of a step: the tokens of the sequences of one place, one after another. */
import type { Span } from "../backends/contract.js";
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
  readonly #place: Place;
  readonly #rotations = new Rotations();
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  readonly #outputs: Int32Array;
  readonly #states: Int32Array;
  readonly #slots: readonly Int32Array[];

  constructor(place: Place, { maxTokens, maxOutputs }: Limits) {
    this.#place = place;
    this.#tokens = new Int32Array(maxTokens);
    this.#positions = new Int32Array(maxTokens);
    this.#outputs = new Int32Array(maxOutputs);
    this.#states = new Int32Array(maxTokens);
    this.#slots = place.layout.groups.map(() => new Int32Array(maxTokens));
  }

  /** Finds slots for the shares' tokens and runs them. `fail` hears of tasks that could not take part, or run. */
  async run(batch: readonly Share[], fail: (task: Task, error: MillraceError) => void): Promise<void> {
    const { program, pool } = this.#place;
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
        const prepared = cache.prepare(this.#positions.subarray(start, end), this.#rotations);
        this.#slots.forEach((slots, group) => {
          slots.set(prepared.slots[group]!, start);
        });
        const { adapter } = task;
        const span = { start, count, views: prepared.views };
        spans.push(adapter === undefined ? span : { ...span, adapter });
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
      await program.run({
        tokens: this.#tokens.subarray(0, numTokens),
        positions: this.#positions.subarray(0, numTokens),
        outputs: this.#outputs.subarray(0, numOutputs),
        states: this.#states.subarray(0, numStates),
        spans,
        slots: this.#slots.map((slots) => slots.subarray(0, numTokens)),
        rotations: this.#rotations.values(),
        arena: pool.arena,
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
