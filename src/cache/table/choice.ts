import type { Backend, ChoiceRule, KvChoice, Region } from "../../backends/contract.js";
import { SlotValues } from "./slot-values.js";

/** Which tokens queries attend to. */
export class Choice implements KvChoice {
  readonly rule: ChoiceRule;
  readonly slots: SlotValues;
  readonly chooser: Region;
  readonly #width: number;

  /** `width`: elements of the lanes' queries. */
  constructor(backend: Backend, rule: ChoiceRule, width: number, pageTokens: number, maxRows: number) {
    this.rule = rule;
    this.slots = new SlotValues(backend, 1, pageTokens, maxRows);
    this.chooser = backend.allocate(4 + 4 * width);
    this.#width = width;
    this.chosenAt = -1;
  }

  get shown(): Region {
    return this.slots.region;
  }

  /** Position of the query that chose last, -1: none has, and the next one will. */
  get chosenAt(): number {
    return this.chooser.int32(0, 1)[0]!;
  }

  set chosenAt(position: number) {
    this.chooser.int32(0, 1)[0] = position;
  }

  /** That query, [lanes, D]. */
  query(): Float32Array {
    return this.chooser.float32(4, this.#width);
  }

  copyFrom(other: Choice): void {
    this.slots.copyFrom(other.slots);
    this.chooser.bytes().set(other.chooser.bytes());
  }
}
