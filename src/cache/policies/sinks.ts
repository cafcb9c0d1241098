import { blockOf, inBlocks } from "../blocks.js";
import type { CachePolicy, LaneView, Plan, PlanStep } from "../contract.js";
import { PLACEMENTS, type Placement } from "./contiguous.js";
import { oneOf, wholeNumber } from "./options.js";

export interface SinksOptions {
  /** Most tokens of the window that follows the sinks. */
  readonly window: number;
  /** First tokens of the stream, which stay for ever. Default 4. */
  readonly sinks?: number;
  /**
   * Where sinks count as standing: where they stood, for models that know such distances, or just before the window.
   * Default "contiguous".
   */
  readonly positions?: Placement;
}

/**
 * Keeps the first `sinks` tokens of the stream and the last `window`, and moves the sinks along so that positions are
 * contiguous: no query is ever further than sinks + window from a key, whatever the stream's length. "Efficient
 * Streaming Language Models with Attention Sinks" (arXiv 2309.17453). A token sees at least three quarters of the
 * window; see `inBlocks`.
 *
 * Choose sinks + window within the length that the model was trained on. Throws INVALID_ARGUMENT unless `window` is a
 * whole number of at least 1 and `sinks` one of at least 0.
 */
export function sinks({ window, sinks = 4, positions = "contiguous" }: SinksOptions): CachePolicy {
  wholeNumber("A sinks policy's window", window, 1);
  wholeNumber("A sinks policy's sinks", sinks, 0);
  oneOf("A sinks policy's positions", positions, PLACEMENTS);
  const moves = positions === "contiguous";
  return {
    id: `sinks(window=${window}, sinks=${sinks}${moves ? "" : ", positions=original"})`,
    sinks,
    ...inBlocks(sinks + window, slide, blockOf(window)),
  };

  function slide(view: LaneView, excess: number): Plan {
    const gone: number[] = [];
    let lastSink = -1;
    let first = view.nextPosition;
    for (const slot of view.oldest()) {
      if (view.segmentOf(slot) === "sinks") {
        lastSink = view.positions[slot]!;
        continue;
      }
      if (gone.length === excess) {
        first = view.positions[slot]!;
        break;
      }
      gone.push(slot);
    }
    const drop: PlanStep = { kind: "drop", slots: gone };
    return lastSink < 0 || !moves
      ? [drop]
      : [drop, { kind: "move", segment: "sinks", offset: first - lastSink - 1 }];
  }
}
