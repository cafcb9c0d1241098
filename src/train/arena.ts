/**
 * Memory of one training step, planned before anything runs. A step does the same operations in the same order every
 * time, so where each of its matrices lies is decided while the step is compiled: `take` and `release` only move
 * numbers about, and the highest address reached is what gets allocated, once, by `commit`.
 */
import type { Matrix, TrainingArithmetic, Values } from "../backends/training.js";

/** A matrix whose memory exists from `Arena.commit` on. */
export class Slot implements Matrix {
  readonly #arena: Arena;
  readonly at: number;
  readonly rows: number;
  readonly columns: number;
  readonly stride: number;

  constructor(arena: Arena, at: number, rows: number, columns: number, stride = columns) {
    this.#arena = arena;
    this.at = at;
    this.rows = rows;
    this.columns = columns;
    this.stride = stride;
  }

  get values(): Values {
    return this.#arena.values;
  }

  /** `rows` rows from `first` on, in the same memory. */
  slice(first: number, rows: number): Slot {
    return new Slot(this.#arena, this.at + first * this.stride, rows, this.columns, this.stride);
  }

  /** `columns` columns from `first` on, in the same memory. */
  columnsFrom(first: number, columns: number): Slot {
    return new Slot(this.#arena, this.at + first, this.rows, columns, this.stride);
  }
}

/** Numbers that matrices start at a multiple of: a cache line of f32. */
const ALIGNMENT = 16;

const padded = (length: number): number => Math.ceil(length / ALIGNMENT) * ALIGNMENT;

export class Arena {
  /** Free runs below `#top`, by address, no two adjacent. */
  #free: { at: number; length: number }[] = [];
  #top = 0;
  #height = 0;
  #values: Values | null = null;

  /** Numbers that the plan needs so far. */
  get height(): number {
    return this.#height;
  }

  get values(): Values {
    if (!this.#values) throw new Error("The arena's memory is used before it is committed.");
    return this.#values;
  }

  /** The tightest free run that fits, or new memory at the top. Contents are whatever was there before. */
  take(rows: number, columns: number): Slot {
    const length = padded(rows * columns);
    const fitting = this.#free.filter((run) => run.length >= length);
    const run = fitting.reduce<(typeof fitting)[0] | null>(
      (best, each) => (best && best.length <= each.length ? best : each),
      null,
    );
    if (run) {
      const { at } = run;
      run.at += length;
      run.length -= length;
      if (run.length === 0) this.#free.splice(this.#free.indexOf(run), 1);
      return new Slot(this, at, rows, columns);
    }
    // A free run at the very top grows instead of staying behind as a hole.
    const last = this.#free.at(-1);
    const at = last && last.at + last.length === this.#top ? last.at : this.#top;
    if (at !== this.#top) this.#free.pop();
    this.#top = at + length;
    this.#height = Math.max(this.#height, this.#top);
    return new Slot(this, at, rows, columns);
  }

  /** Gives back what `take` gave; operations recorded before still find it. */
  release({ at, rows, columns }: Slot): void {
    const length = padded(rows * columns);
    if (length === 0) return;
    const next = this.#free.findIndex((run) => run.at > at);
    const index = next < 0 ? this.#free.length : next;
    this.#free.splice(index, 0, { at, length });
    for (const i of [index, index - 1]) {
      const [low, high] = [this.#free[i], this.#free[i + 1]];
      if (low && high && low.at + low.length === high.at) {
        low.length += high.length;
        this.#free.splice(i + 1, 1);
      }
    }
  }

  /** Allocates the plan's memory. Throws OUT_OF_BUDGET where the machine refuses. */
  commit(memory: Pick<TrainingArithmetic, "allocate">): void {
    this.#values = memory.allocate(this.#height);
  }

  free(): void {
    this.#values?.free();
    this.#values = null;
  }
}
