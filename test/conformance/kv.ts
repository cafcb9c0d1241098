import type { ChoiceRule, KvGroup, Tempered } from "../../src/backends/contract.js";
import type { CodecName } from "../../src/cache/codecs/contract.js";
import type { TestRandom } from "../support/random.js";
import { type Batch, makeTable, PagePool, type Table } from "./scene.js";

/** How a case's sequences lie in pages. */
export interface KvShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headWidth: number;
  readonly codec: CodecName;
  readonly pageTokens: number;
  /** "together": one group for all lanes; "apart": a group per kv head, each of another codec and page size. */
  readonly groups: "together" | "apart";
  /** Sequences: `stored` tokens lie there, `count` come with the step. */
  readonly spans: readonly { readonly stored: number; readonly count: number }[];
  /** Rotation offsets; pages take one of them or none. */
  readonly rotations?: readonly number[];
  /** A further table per sequence, of another codec, with this many tokens. */
  readonly chained?: number;
  readonly wantsMass?: boolean;
  /** Only this many last queries of each span give mass. */
  readonly givers?: number;
  readonly tempered?: Tempered;
  /** Slots stand for up to this many tokens, some for none. */
  readonly mostCounts?: number;
  /** Elements of a thin key, in the rows that hold nothing but stored tokens. */
  readonly thin?: number;
  /** Only this many last queries of each span add to the sums of queries. */
  readonly measured?: number;
  /** How queries choose what they attend to; one chose three positions before each span's first. Of one layer. */
  readonly choice?: ChoiceRule;
  /** Added to every position. */
  readonly shift?: number;
}

const CODECS: readonly CodecName[] = ["f32", "f16", "int8"];
const following = (codec: CodecName, steps: number): CodecName =>
  CODECS[(CODECS.indexOf(codec) + steps) % CODECS.length]!;

function kvGroups(shape: KvShape): KvGroup[] {
  const { numLayers, numKvHeads, headWidth, codec, pageTokens } = shape;
  const lanesOf = (head: number) => Array.from({ length: numLayers }, (_, layer) => ({ layer, head }));
  const heads = Array.from({ length: numKvHeads }, (_, head) => head);
  if (shape.groups === "together") {
    return [
      { codec, pageTokens, headWidth, lanes: heads.flatMap(lanesOf), chooses: shape.choice !== undefined },
    ];
  }
  // The heads in reverse, so that a lane's place is not its head's number.
  return heads.reverse().map((head, g) => ({
    codec: following(codec, g),
    pageTokens: [16, 32, 64][g % 3]!,
    headWidth,
    lanes: lanesOf(head),
    chooses: shape.choice !== undefined,
  }));
}

/**
 * Page tables and a batch over them: slots in random order with empty ones between, page numbers shuffled, each
 * group of each sequence laid out on its own. Also returns the arena's size.
 */
export function kvBatch(
  random: TestRandom,
  shape: KvShape,
): { groups: KvGroup[]; batch: Batch; numPages: number; maxTokens: number } {
  const { headWidth, shift = 0, rotations = [], chained = 0 } = shape;
  const groups = kvGroups(shape);
  const numPages = shape.spans.reduce(
    (sum, { stored, count }) =>
      sum +
      groups.reduce(
        (pages, { lanes }) =>
          pages + lanes.length * (Math.ceil((stored + count + 10) / 16) + 1 + Math.ceil(chained / 16)),
        0,
      ),
    1,
  );
  const pool = new PagePool(numPages, random);
  const slots: number[][] = groups.map(() => []);
  const positions: number[] = [];
  const spans = shape.spans.map(({ stored, count }) => {
    for (let i = 0; i < count; i++) positions.push(shift + stored + i);
    const tables = groups.map(({ codec, pageTokens, lanes }, g): Table => {
      const capacity = Math.ceil((stored + count + random.below(10)) / pageTokens) * pageTokens;
      const order = random.permutation(capacity);
      const filled = new Array<number>(capacity).fill(-1);
      for (let i = 0; i < stored + count; i++) filled[order[i]!] = shift + i;
      for (let i = 0; i < count; i++) slots[g]!.push(order[stored + i]!);
      const pick = () => random.below(rotations.length + 1) - 1;
      const { givers, tempered, mostCounts, thin, measured, choice } = shape;
      const common = {
        lanes: lanes.length,
        headWidth,
        wantsMass: shape.wantsMass ?? false,
        ...(givers === undefined ? {} : { massFrom: shift + stored + count - givers }),
        ...(tempered === undefined ? {} : { tempered }),
        ...(mostCounts === undefined ? {} : { mostCounts }),
        ...(thin === undefined ? {} : { thin }),
        ...(measured === undefined ? {} : { queriesFrom: shift + stored + count - measured }),
      };
      const next =
        chained > 0
          ? makeTable(random, pool, {
              ...common,
              codec: following(codec, 1),
              pageTokens: 16,
              positions: Array.from({ length: chained }, (_, i) =>
                i % 5 === 3 ? -1 : shift + (i % (stored + 1)),
              ),
              rotations: Array.from({ length: Math.ceil(chained / 16) }, pick),
            })
          : null;
      const own = new Set(order.slice(stored, stored + count));
      return makeTable(random, pool, {
        ...common,
        codec,
        pageTokens,
        positions: filled,
        isStored: (slot) => !own.has(slot),
        rotations: Array.from({ length: capacity / pageTokens }, pick),
        ...(next ? { next } : {}),
        ...(choice === undefined ? {} : { choice, chosenAt: Math.max(-1, shift + stored - 3) }),
      });
    });
    return { count, tables };
  });
  const tokens = positions.map((_, t) => t);
  const batch: Batch = { tokens, positions, spans, slots, rotations };
  return { groups, batch, numPages, maxTokens: Math.max(1, tokens.length) };
}
