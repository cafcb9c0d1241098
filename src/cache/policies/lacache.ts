import { blockOf, inBlocks } from "../blocks.js";
import { type CachePolicy, type LaneView, NOTHING, type Plan, type PolicyOfLane } from "../contract.js";
import { contiguous } from "./contiguous.js";
import { wholeNumber } from "./options.js";

export interface LaCacheOptions {
  /** Most tokens of a lane. */
  readonly tokens: number;
  /** First tokens of the stream, which stay for ever. Default 4. */
  readonly sinks?: number;
  /** Layers that keep a token when it is first thinned out: S of the paper. Default: a quarter of the layers. */
  readonly span?: number;
  /** How many of them keep the next token too: O of the paper, below `span`. Default: half of `span`. */
  readonly overlap?: number;
}

/** How groups of consecutive tokens are thinned out: layer i keeps `kept` of every `group`, from offset `from(i)` on. */
export interface Ladder {
  readonly group: number;
  readonly kept: number;
  from(layer: number): number;
}

/**
 * The ladder of a model: token j of a group belongs to `span` layers from layer j (span - overlap) on; every layer
 * keeps as many. `group` is 1, and nothing can be thinned out, where the span covers all layers.
 */
export function ladderOf(numLayers: number, span: number, overlap: number): Ladder {
  const step = span - overlap;
  const group = 1 + Math.ceil(Math.max(0, numLayers - span) / step);
  const kept = Math.min(Math.ceil(span / step), group);
  const from = (layer: number) => {
    const first = Math.ceil((layer - span + 1) / step);
    return Math.min(Math.max(0, first), group - kept);
  };
  return { group, kept, from };
}

/**
 * Thins old tokens out in the shape of a ladder: of every group of consecutive tokens each layer keeps a part, other
 * layers other parts, so that some layer remembers each; what is older has been thinned out more often. "LaCache:
 * Ladder-Shaped KV Caching for Efficient Long-Context Modeling of Large Language Models" (arXiv 2507.14204). Which
 * tokens stay depends on the layer and on their place alone. Those that stay close ranks (`contiguous`), so that distances
 * stay within `tokens`, whatever the stream's length.
 *
 * Tokens go in blocks of a quarter of `tokens`, the newest block never (`inBlocks`). Where the span covers all layers the
 * oldest go. Throws INVALID_ARGUMENT for options out of range.
 */
export function lacache({ tokens, sinks = 4, span, overlap }: LaCacheOptions): PolicyOfLane {
  wholeNumber("A lacache policy's sinks", sinks, 0);
  wholeNumber("A lacache policy's tokens", tokens, sinks + 4);
  if (span !== undefined) wholeNumber("A lacache policy's span", span, 1);
  if (overlap !== undefined) wholeNumber("A lacache policy's overlap", overlap, 0, (span ?? overlap + 1) - 1);
  return ({ layer }, numLayers) => {
    const spanned = span ?? Math.max(1, Math.floor(numLayers / 4), (overlap ?? -1) + 1);
    const ladder = ladderOf(numLayers, spanned, overlap ?? Math.floor(spanned / 2));
    return ofLayer(tokens, sinks, ladder, ladder.from(layer));
  };
}

function ofLayer(tokens: number, sinks: number, { group, kept }: Ladder, from: number): CachePolicy {
  const block = blockOf(tokens - sinks);
  const bounded = inBlocks(tokens, thin, block);
  /** Tokens seen when the first block goes; from then on `tokens` are held whenever one goes. */
  const first = bounded.maxIncoming(0);
  const cursorAt = cursors(first - sinks, first + block - tokens, tokens - sinks, block, cut);
  const id = `lacache(tokens=${tokens}, sinks=${sinks}, keeps=${kept} of ${group} from ${from})`;
  return contiguous({ id, ...bounded }, block);

  function thin(view: LaneView, excess: number): Plan {
    const held = [...view.oldest()].slice(sinks);
    const gone: number[] = [];
    for (const { at, count } of cut(cursorAt((view.seen - first) / block), held.length, excess).cuts) {
      // Those before the part that is kept, then those after it.
      const before = Math.min(from, count);
      gone.push(...held.splice(at + kept + from, count - before), ...held.splice(at, before));
    }
    gone.push(...held.slice(0, excess - gone.length));
    return gone.length === 0 ? NOTHING : [{ kind: "drop", slots: gone }];
  }

  /**
   * Where `excess` of `length` tokens go: groups from the cursor on, at indices among those then left, and where the
   * cursor stands afterwards. It begins again with the oldest where it reaches the newest block.
   */
  function cut(cursor: number, length: number, excess: number): Cut {
    const cuts: { at: number; count: number }[] = [];
    let [at, left, end] = [cursor, excess, length - block];
    while (left > 0 && kept < group && end >= group) {
      if (at + group > end) at = 0;
      const count = Math.min(group - kept, left);
      cuts.push({ at, count });
      at += group - count;
      end -= count;
      left -= count;
    }
    return { cuts, cursor: at };
  }
}

interface Cut {
  readonly cuts: readonly { readonly at: number; readonly count: number }[];
  readonly cursor: number;
}

/**
 * The cursor before the k-th time that tokens go. Cuts after the first are all alike but for the cursor, so that its
 * values repeat, and time does not grow with the stream.
 */
function cursors(
  firstLength: number,
  firstExcess: number,
  length: number,
  excess: number,
  cut: (cursor: number, length: number, excess: number) => Cut,
): (k: number) => number {
  const values: number[] = [];
  let cycle = 0;
  return (k) => {
    if (k === 0) return 0;
    if (values.length === 0) {
      let cursor = cut(0, firstLength, firstExcess).cursor;
      for (; !values.includes(cursor); cursor = cut(cursor, length, excess).cursor) values.push(cursor);
      cycle = values.indexOf(cursor);
    }
    const at = k - 1;
    return values[at < values.length ? at : cycle + ((at - cycle) % (values.length - cycle))]!;
  };
}
