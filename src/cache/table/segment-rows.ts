import type { Segment } from "../contract.js";
import { NONE } from "./order.js";

/** Indices of a table's segments. Thin: the part of the stream whose keys are stored in part, in rows of their own. */
export const SINKS = 0;
export const STREAM = 1;
export const THIN = 2;

/** The rows of one segment of a table: how many tokens they hold, and which of them have free slots. */
export class SegmentRows {
  readonly name: Segment;
  /** Tokens that a row takes: all its slots, fewer where others are thin. */
  readonly pageTokens: number;
  /** Rows with a free slot; the one to be filled next stands last. */
  open: number[] = [];
  held = 0;
  /** Free slots of the segment's rows. */
  room = 0;
  /** Positions by which the segment was moved. */
  offset = 0;
  /** Row of the step's rotations, or NONE. */
  rotation = NONE;

  constructor(name: Segment, pageTokens: number) {
    this.name = name;
    this.pageTokens = pageTokens;
  }

  /** Enters an empty row. */
  add(row: number): void {
    this.open.push(row);
    this.room += this.pageTokens;
  }

  /** Lets an empty row go. */
  remove(row: number): void {
    this.#close(row);
    this.room -= this.pageTokens;
  }

  /** Notes that `row` took a token and has `used` now. */
  filled(row: number, used: number): void {
    this.held++;
    this.room--;
    if (used === this.pageTokens) this.#close(row);
  }

  /** Notes that a token left `row`, which has `used` now. */
  left(row: number, used: number): void {
    this.held--;
    this.room++;
    if (used === this.pageTokens - 1) this.open.push(row);
  }

  /** Row `from` is called `to` from now on. */
  rename(from: number, to: number): void {
    const at = this.open.indexOf(from);
    if (at >= 0) this.open[at] = to;
  }

  copyFrom({ open, held, room, offset, rotation }: SegmentRows): void {
    Object.assign(this, { open: [...open], held, room, offset, rotation });
  }

  #close(row: number): void {
    if (this.open.at(-1) === row) this.open.pop();
    else this.open.splice(this.open.indexOf(row), 1);
  }
}
