import type { Tape } from "../../tape/tape.js";
import type { KvLayout } from "../contract.js";

/** Of each layer, the kv heads of all layers before it: where its entries begin in a table of lanes. */
export function firstHeads(tape: Tape): number[] {
  let heads = 0;
  return tape.kv.map(({ numKvHeads }) => {
    heads += numKvHeads;
    return heads - numKvHeads;
  });
}

/** Which group of a layout holds each kv head of a tape, and at which lane, as kernels read it; made once per layout. */
export class LaneTables {
  readonly #firstHeads: readonly number[];
  readonly #numHeads: number;
  readonly #tables = new WeakMap<KvLayout, Int32Array>();

  constructor(tape: Tape) {
    this.#firstHeads = firstHeads(tape);
    this.#numHeads = tape.kv.reduce((sum, { numKvHeads }) => sum + numKvHeads, 0);
  }

  /** int32 [kv heads of all layers, 2]: group, and lane within it. */
  of(layout: KvLayout): Int32Array {
    let table = this.#tables.get(layout);
    if (!table) {
      table = new Int32Array(2 * this.#numHeads);
      for (const [group, { lanes }] of layout.groups.entries()) {
        for (const [lane, { layer, head }] of lanes.entries()) {
          table.set([group, lane], 2 * (this.#firstHeads[layer]! + head));
        }
      }
      this.#tables.set(layout, table);
    }
    return table;
  }
}
