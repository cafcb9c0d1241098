import { MillraceError } from "../../errors.js";
import type { Plan } from "../contract.js";
import { checkMerge, type MergeStep } from "./merge.js";
import { NONE } from "./order.js";
import { type Incoming, type PageNeed, rowsToStore } from "./page-need.js";
import type { TableRows } from "./rows.js";
import { checkSettle, rowsToSettle } from "./settle.js";
import { checkThin, type ThinStep } from "./thin.js";

/** A token that a plan takes out. */
export interface Removal {
  readonly kind: "drop" | "expire" | "merge";
  readonly slot: number;
  readonly position: number;
  /** Tokens that it stands for. */
  readonly count: number;
  /** How much further on its key counts as stored than its position. */
  readonly moved: number;
}

/**
 * What one plan wants of a table: its tokens are out already, but their bytes still lie in their slots and `rollback` puts
 * them back. Used again for every step.
 */
export class StagedPlan {
  readonly removals: Removal[] = [];
  readonly merges: MergeStep[] = [];
  /** Whether what stays is settled. */
  settles = false;
  /** Which elements stay of keys that are thinned; null: as before. */
  elements: Int32Array | null = null;
  /** Rows that the step adds. */
  freshRows = 0;
  /** Slots whose keys are thinned, oldest first. */
  readonly #thinning: number[] = [];
  readonly #rows: TableRows;

  constructor(rows: TableRows) {
    this.#rows = rows;
  }

  /**
   * Takes the plan's tokens out, and says which pages storing so many tokens by segment will take. Throws INTERNAL, with
   * nothing changed, for a plan that names a slot twice or one that holds no token.
   */
  stage(plan: Plan, incoming: Incoming): PageNeed {
    const { lanes, hasThin } = this.#rows;
    try {
      for (const step of plan) {
        if (step.kind === "move") continue;
        if (step.kind === "thin") this.#thin(step, hasThin);
        else if (step.kind === "settle") {
          checkSettle(this.#rows);
          this.settles = true;
        } else {
          for (let i = 0; i < step.slots.length; i++) this.#remove(step.kind, step.slots[i]!);
          if (step.kind !== "merge") continue;
          checkMerge(this.#rows, step);
          this.merges.push(step);
        }
      }
      const { fresh, taken, returned } = this.settles
        ? rowsToSettle(this.#rows, incoming)
        : rowsToStore(this.#rows, this.merges, this.#thinning, incoming);
      this.freshRows = fresh;
      return { taken: taken * lanes, returned: returned * lanes };
    } catch (error) {
      this.rollback();
      throw error;
    }
  }

  /** Positions of the tokens whose keys are thinned. */
  get thinned(): ReadonlySet<number> {
    return new Set(this.#thinning.map((slot) => this.#rows.positions[slot]!));
  }

  /** Puts back what was taken out. */
  rollback(): void {
    for (let i = this.removals.length - 1; i >= 0; i--) {
      const { slot, position } = this.removals[i]!;
      this.#rows.putBack(slot, position);
    }
    this.clear();
  }

  /** Forgets the plan: it has been carried out. */
  clear(): void {
    this.removals.length = 0;
    this.merges.length = 0;
    this.settles = false;
    this.#thinning.length = 0;
  }

  #remove(kind: Removal["kind"], slot: number): void {
    const { positions, counts, moved, numRows, group } = this.#rows;
    const position = this.#rows.rowOf(slot) < numRows ? (positions[slot] ?? NONE) : NONE;
    if (position === NONE) {
      throw new MillraceError(
        "INTERNAL",
        `Policy ${group.policy.id} planned to ${kind} slot ${slot}, which holds no token.`,
        { slot },
      );
    }
    const count = Math.abs(counts?.[slot] ?? 1);
    this.removals.push({ kind, slot, position, count, moved: moved?.[slot] ?? 0 });
    this.#rows.take(slot);
  }

  #thin(step: ThinStep, chosen: boolean): void {
    checkThin(this.#rows, step, chosen);
    const { positions } = this.#rows;
    this.#thinning.push(...Array.from(step.slots));
    this.#thinning.sort((a, b) => positions[a]! - positions[b]!);
    this.elements = step.elements;
  }
}
