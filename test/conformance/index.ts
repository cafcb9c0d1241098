/**
 * The one conformance suite that every backend runs in its own test file:
 *
 *   describeBackend("native", () => createNative({ threads: 2 }), { skip: { experts: "why" } });
 *
 * Every op is run on the backend and on the reference backend, over seeded inputs, and must agree within the bound
 * that stands with the op. Inputs reach an op through `embed` of crafted rows.
 */
import { afterAll, beforeAll, describe, test } from "vitest";
import type { Backend } from "../../src/backends/contract.js";
import { createReference } from "../../src/backends/reference/index.js";
import { appendCases } from "./append.js";
import { attentionCases } from "./attention.js";
import { addCases, gluCases, rmsNormCases, selectCases } from "./elementwise.js";
import { expertCases } from "./experts.js";
import { limitCases } from "./limits.js";
import { lowRankCases } from "./low-rank.js";
import { embedCases, matmulCases } from "./matmul.js";
import {
  batchInvarianceCases,
  chunkedPrefillCases,
  ownPagesCases,
  pagePlacementCases,
  positionShiftCases,
} from "./properties.js";
import { ropeCases } from "./rope.js";
import { makeSuite, type Part, type Suite } from "./suite.js";

const PARTS: Record<Part, (suite: Suite) => void> = {
  embed: embedCases,
  rmsNorm: rmsNormCases,
  matmul: matmulCases,
  lowRank: lowRankCases,
  rope: ropeCases,
  append: appendCases,
  attention: attentionCases,
  glu: gluCases,
  add: addCases,
  select: selectCases,
  experts: expertCases,
  limits: limitCases,
  batchInvariance: batchInvarianceCases,
  chunkedPrefill: chunkedPrefillCases,
  pagePlacement: pagePlacementCases,
  ownPages: ownPagesCases,
  positionShift: positionShiftCases,
};

export interface ConformanceOptions {
  /** Parts that the backend does not run, each with its reason. */
  readonly skip?: Partial<Record<Part, string>>;
  /** Factor on a part's bounds (default 1); say why beside it. */
  readonly bound?: Partial<Record<Part, number>>;
}

/** Declares the suite's tests for one backend; `create` is called once. */
export function describeBackend(
  name: string,
  create: () => Backend | Promise<Backend>,
  options: ConformanceOptions = {},
): void {
  describe(`${name} conforms`, () => {
    let backend: Backend;
    let reference: Backend;
    beforeAll(async () => {
      backend = await create();
      reference = createReference();
    });
    afterAll(async () => {
      await backend?.dispose();
    });
    for (const [part, declare] of Object.entries(PARTS) as [Part, (suite: Suite) => void][]) {
      const reason = options.skip?.[part];
      describe(part, () => {
        if (reason) test.skip(`skipped: ${reason}`, () => {});
        else
          declare(
            makeSuite(
              () => backend,
              () => reference,
              options.bound?.[part] ?? 1,
            ),
          );
      });
    }
  });
}
