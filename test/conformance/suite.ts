import { test } from "vitest";
import type { Backend } from "../../src/backends/contract.js";

/** Names of the suite's parts: what `skip` and `bound` of describeBackend are keyed by. */
export type Part =
  | "embed"
  | "rmsNorm"
  | "matmul"
  | "lowRank"
  | "rope"
  | "append"
  | "attention"
  | "glu"
  | "add"
  | "select"
  | "experts"
  | "limits"
  | "batchInvariance"
  | "chunkedPrefill"
  | "pagePlacement"
  | "ownPages"
  | "positionShift";

/** What a part's cases need: the backend, the reference, and how far off a result may be. */
export interface Suite {
  /** Valid inside a case only. */
  readonly backend: Backend;
  readonly reference: Backend;
  /** Factor on the bounds of this part; 1 unless the backend's tests state otherwise. */
  readonly slack: number;
  case(name: string, run: () => Promise<void>): void;
}

export const makeSuite = (backend: () => Backend, reference: () => Backend, slack: number): Suite => ({
  get backend() {
    return backend();
  },
  get reference() {
    return reference();
  },
  slack,
  case: (name, run) => void test(name, run),
});

/** Unit roundoff of f32. */
export const EPSILON = 2 ** -24;
