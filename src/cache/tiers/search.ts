/** Finds the blocks of one group that a question is most likely about, on disk or on their way there. */
import type { CacheGroup } from "../layout.js";
import { type BlockMeta, decodeMeta, traitsOf } from "./blocks.js";
import type { Candidate, Catalogue, Ranking } from "./catalogue.js";
import { chooseBlocks } from "./choose.js";
import type { HeldTokens } from "./held.js";
import type { RecallSettings } from "./recall-settings.js";
import type { BlockStore } from "./store.js";
import type { TermQuery } from "./terms.js";

export interface RecallQuestion {
  /** Token ids of the question. */
  readonly ids: ArrayLike<number>;
  /** By layer and kv head, turned back to position 0: see probe.ts. Needed where keys count. */
  readonly queries?: (layer: number, head: number) => Float32Array;
}

/** Entries that a question opens, at most, for each block that it may choose: those found coarsely are read anew. */
const OPENED_PER_BLOCK = 4;

export interface BlockSearchParts {
  readonly group: CacheGroup;
  /** Of the group, in the layout. */
  readonly index: number;
  readonly catalogue: Catalogue;
  readonly store: BlockStore;
  /** Of the cache; null where terms are not looked at. */
  readonly held: HeldTokens | null;
  /** Vectors of a block's summary, per lane; 0 where there is none. */
  readonly vectors: number;
  readonly settings: Pick<RecallSettings, "by" | "tokens" | "following">;
}

export class BlockSearch {
  readonly #parts: BlockSearchParts;

  constructor(parts: BlockSearchParts) {
    this.#parts = parts;
  }

  /** Serials of the best blocks, best first, as many as may be lent. `terms`: the question's, null where they do not count. */
  find({ queries: all }: RecallQuestion, terms: TermQuery | null): Promise<number[]> {
    const { group, index, catalogue, store, held, settings } = this.#parts;
    const { pageTokens, lanes } = group;
    const most = Math.floor(settings.tokens / pageTokens);
    const queries =
      settings.by === "tokens" || !all ? null : lanes.map(({ layer, head }) => all(layer, head));
    return chooseBlocks({
      most,
      following: settings.following,
      terms,
      held: (terms && held?.blocks(pageTokens)) ?? [],
      rank: (query) => this.#open(catalogue.rank({ terms: query, queries }, most * OPENED_PER_BLOCK)),
      neighbour: (serial, side) => (side > 0 ? store.next(index, serial) : store.previous(index, serial)),
    });
  }

  /** Candidates that stand for several blocks, read anew block by block; the others as they are. */
  async #open(ranking: Ranking): Promise<Candidate[]> {
    const { index, store, held } = this.#parts;
    const { candidates } = ranking;
    const single = candidates.filter(({ blocks, first, last }) => blocks === 1 && first === last);
    const serials = candidates
      .filter(({ blocks, first, last }) => blocks > 1 || first !== last)
      .flatMap(({ first, last }) => store.serials(index, first, last));
    const records = await store.readMetas(index, serials);
    const read = records.flatMap((record) => {
      const meta = record && this.#decode(record.meta, record.tokens);
      return record && meta ? [{ serial: record.serial, meta }] : [];
    });
    const traits = read.map(({ meta }) => traitsOf(meta, held !== null));
    const { scores, beside } = ranking.score(traits);
    const opened = read.map(
      ({ serial }, i): Candidate => ({
        first: serial,
        last: serial,
        blocks: 1,
        score: scores[i]!,
        beside: beside[i]!,
        terms: traits[i]!.terms,
      }),
    );
    return [...single, ...opened];
  }

  #decode(meta: Uint8Array, tokens: number): BlockMeta | null {
    return decodeMeta(meta, tokens, this.#parts.group, this.#parts.vectors);
  }
}
