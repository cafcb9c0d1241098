/** Heads for the policies that keep everything in some of them, where nobody knows which retrieve: for speed it does not matter. */
import type { PolicyOfLane } from "../cache/contract.js";
import { duo, streaming } from "../cache/policies/duo.js";
import { full } from "../cache/policies/full.js";
import { razor } from "../cache/policies/razor.js";
import type { LanePolicySpec, PolicySpec } from "../cache/policies/resolve.js";
import type { HeadGates, ModelHeads } from "../cache/policies/split.js";
import { createRandom } from "../sampling/random.js";
import type { KvLayer } from "../tape/tape.js";

/** Scores and gates of a model's kv heads, drawn at random; the same for the same `seed`. */
export function drawHeads(kv: readonly KvLayer[], seed: number): ModelHeads {
  const random = createRandom(seed);
  // Above 0: a gate that is shut altogether keeps its head from being whole.
  const draw = () => kv.map(({ numKvHeads }) => Array.from({ length: numKvHeads }, () => 1 - random.next()));
  return { scores: { echo: draw(), induction: draw() }, gates: draw() };
}

/** A policy written out for every head, so that a model can run it that knows nothing of its heads. */
export interface HeadByHead {
  readonly policy: PolicySpec;
  /** Heads that keep everything, of `lanes`. */
  readonly whole: number;
  readonly lanes: number;
}

/** `spec` with the heads whole that it chooses by `heads`; null where it treats all heads alike. Throws as `resolvePolicy`. */
export function headByHead(spec: PolicySpec, heads: ModelHeads): HeadByHead | null {
  if (spec.policy === "razor" && heads.scores) {
    const { echo: _, induction: __, ...kept } = spec;
    return written(razor(spec, heads.scores), heads.scores.echo, { ...kept, policy: "compensated" });
  }
  if (spec.policy === "duo" && heads.gates) {
    return written(duo(spec, heads.gates), heads.gates, { ...streaming(spec), policy: "sinks" });
  }
  return null;
}

function written(policyOf: PolicyOfLane, rows: HeadGates, others: LanePolicySpec): HeadByHead {
  const whole: LanePolicySpec = { policy: "full" };
  const isWhole = (layer: number, head: number) => policyOf({ layer, head }, rows.length).id === full().id;
  const specs = rows.map((row, layer) => row.map((_, head) => (isWhole(layer, head) ? whole : others)));
  const lanes = specs.flat();
  return {
    policy: { policy: "perHead", heads: specs },
    whole: lanes.filter((each) => each === whole).length,
    lanes: lanes.length,
  };
}
