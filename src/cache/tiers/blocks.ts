/** A block of demoted tokens: how it is put together, and how it is written beside its keys and values. */
import type { KvGroup } from "../../backends/contract.js";
import type { CacheGroup } from "../layout.js";
import { copyTokens } from "../slots.js";
import { KeyTurner } from "../turn.js";
import type { Traits } from "./catalogue.js";
import { blockBytes, emptySummary, type Summary } from "./summary.js";
import { termsOf } from "./terms.js";

/** What stands beside a block's keys and values. Positions, counts and ids are by slot. */
export interface BlockMeta {
  readonly positions: Int32Array;
  /** How many tokens each stands for: more than 1 where others were merged into it. */
  readonly counts: Int32Array;
  /** -1 where the token's id was never told. */
  readonly ids: Int32Array;
  readonly summary: Summary | null;
}

/** A token on its way out: where it stands in its page, and what is known of it. */
export interface DraftToken {
  readonly slot: number;
  readonly position: number;
  readonly count: number;
  readonly id: number;
  /** How much further on its key is stored than its position; in the block it stands where it belongs. */
  readonly moved: number;
}

/** Tokens on their way out of one group's pages, until they fill a block. */
export class Draft {
  /** Keys and values, lane after lane, as they stand in pages. */
  readonly pages: Uint8Array;
  readonly #group: KvGroup;
  readonly #turner: KeyTurner;
  readonly #laneBytes: number;
  readonly #tokens: DraftToken[] = [];

  constructor(group: CacheGroup) {
    this.#group = group;
    this.#turner = new KeyTurner(group);
    this.#laneBytes = blockBytes(group);
    this.pages = new Uint8Array(this.#laneBytes * group.lanes.length);
  }

  get length(): number {
    return this.#tokens.length;
  }

  get room(): number {
    return this.#group.pageTokens - this.length;
  }

  meta(): Omit<BlockMeta, "summary"> {
    return {
      positions: Int32Array.from(this.#tokens, ({ position }) => position),
      counts: Int32Array.from(this.#tokens, ({ count }) => count),
      ids: Int32Array.from(this.#tokens, ({ id }) => id),
    };
  }

  /** Adds tokens that stand in slots of one row, at most `room`; `page` gives a lane's page of that row. */
  add(tokens: readonly DraftToken[], page: (lane: number) => Uint8Array): void {
    const { codec, headWidth, lanes, pageTokens } = this.#group;
    const whole = tokens.length === pageTokens && tokens.every(({ slot }, i) => slot === i);
    const slots = tokens.map(({ slot }) => slot);
    const to = tokens.map((_, i) => this.length + i);
    for (let lane = 0; lane < lanes.length; lane++) {
      const target = this.pages.subarray(lane * this.#laneBytes, (lane + 1) * this.#laneBytes);
      if (whole) target.set(page(lane).subarray(0, this.#laneBytes));
      else copyTokens(codec, headWidth, page(lane), slots, target, to);
      for (const [i, { moved }] of tokens.entries()) this.#turner.turn(lane, target, to[i]!, -moved);
    }
    this.#tokens.push(...tokens);
  }

  /** Empties it for the next block. */
  clear(): void {
    this.#tokens.length = 0;
    this.pages.fill(0);
  }
}

/** Most bytes of a meta whose block has `tokens` tokens; `vectors` 0 stands for no summary. */
export const metaBytes = ({ lanes, headWidth, pageTokens }: KvGroup, vectors: number): number =>
  12 * pageTokens + lanes.length * vectors * (4 + headWidth);

export function encodeMeta({ positions, counts, ids, summary }: BlockMeta): Uint8Array {
  const parts = [positions, counts, ids, ...(summary ? [summary.steps, summary.bytes] : [])];
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const { buffer, byteOffset, byteLength } of parts) {
    bytes.set(new Uint8Array(buffer, byteOffset, byteLength), at);
    at += byteLength;
  }
  return bytes;
}

/** Reads `encodeMeta`'s bytes; null where they are not those of a block of this shape. */
export function decodeMeta(
  bytes: Uint8Array,
  tokens: number,
  group: KvGroup,
  vectors: number,
): BlockMeta | null {
  const summary = vectors > 0 ? emptySummary(group, vectors) : null;
  const positions = new Int32Array(tokens);
  const counts = new Int32Array(tokens);
  const ids = new Int32Array(tokens);
  const parts = [positions, counts, ids, ...(summary ? [summary.steps, summary.bytes] : [])];
  if (tokens > group.pageTokens || parts.reduce((sum, part) => sum + part.byteLength, 0) !== bytes.length) {
    return null;
  }
  let at = 0;
  for (const { buffer, byteOffset, byteLength } of parts) {
    new Uint8Array(buffer, byteOffset, byteLength).set(bytes.subarray(at, at + byteLength));
    at += byteLength;
  }
  return { positions, counts, ids, summary };
}

/** What a catalogue keeps of a block; terms only where these are looked at. */
export function traitsOf({ positions, ids, summary }: BlockMeta, withTerms: boolean): Traits {
  if (!withTerms) return { summary, terms: null };
  const order = [...positions.keys()].sort((a, b) => positions[a]! - positions[b]!);
  return { summary, terms: termsOf(order.map((slot) => ids[slot]!).filter((id) => id >= 0)) };
}
