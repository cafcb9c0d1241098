/**
 * Memory that is counted and not there: what a network would take is known before a byte of it is allocated or read.
 */
import type { Ids, StoredRows, Values } from "../backends/training.js";
import { tensorBytes } from "../formats/blocks/index.js";
import type { Checkpoint, TensorType } from "../formats/checkpoint.js";
import { type Memory, storedRows, type TensorSource } from "./parameters.js";

/** Counts f32 numbers, ids of four bytes, and rows as they are stored. Nothing can be read from it. */
export class PlannedMemory implements Memory {
  readonly precision = "f32";
  #current = 0;

  get bytes(): { readonly current: number; readonly peak: number } {
    return { current: this.#current, peak: this.#current };
  }

  allocate(length: number): Values {
    this.#current += 4 * length;
    return {
      length,
      read: () => Promise.reject(new Error("Planned memory holds no numbers.")),
      write: async () => {},
      free: () => {},
    };
  }

  allocateIds(length: number): Ids {
    this.#current += 4 * length;
    return { length, write: async () => {}, free: () => {} };
  }

  store(type: TensorType, rows: number, columns: number): StoredRows {
    this.#current += tensorBytes(type, [rows, columns]);
    return { type, rows, columns, free: () => {} };
  }
}

/** The shapes of a checkpoint's tensors without their numbers. */
export const shapesOnly = (checkpoint: Checkpoint): TensorSource => ({
  rowsOf: storedRows(checkpoint),
  bytes: async () => new Uint8Array(0),
  fill: async () => {},
});
