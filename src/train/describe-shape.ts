import type { Checkpoint } from "../formats/checkpoint.js";
import type { Op, Tape } from "../tape/tape.js";

/** The sizes that tell models apart, in words. */
export function describeShape(model: Checkpoint, tape: Tape): string {
  const find = <Name extends Op["op"]>(name: Name) =>
    tape.ops.find((op): op is Extract<Op, { op: Name }> => op.op === name);
  const attention = find("attention");
  const kv = tape.kv[0];
  return [
    `${model.architecture}: ${tape.kv.length} ${tape.kv.length === 1 ? "layer" : "layers"}`,
    `width ${find("embed")?.out.width}`,
    `${attention?.numHeads} heads of ${kv?.headWidth} over ${kv?.numKvHeads}`,
    `feed-forward ${find("glu")?.gate.width}`,
    `vocabulary ${tape.logits.width}`,
  ].join(", ");
}
