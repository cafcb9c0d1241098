/**
 * The terms of a catalogue's entries by place, and which entries may have a term: for each bucket that terms fall into, a
 * bit for every place (a bit-sliced signature file). A question has a few telling terms, each in few entries: it looks at
 * these terms' bits and then at the entries that they name, not at every term of every entry.
 */
import { type Found, isLate, type TermQuery } from "./terms.js";

/** With as many, a bit in sixteen is set where an entry has 32 terms. */
const BUCKETS = 512;

const bucketOf = (term: number): number => Math.imul(term, 0x9e3779b1) >>> 23;

export class TermIndex {
  readonly #perEntry: number;
  #terms = new Uint32Array();
  #counts = new Int32Array();
  /** [BUCKETS, #row] bytes. */
  #bits = new Uint8Array();
  #row = 0;

  /** @param perEntry Most terms of an entry. */
  constructor(perEntry: number) {
    this.#perEntry = perEntry;
  }

  /** Memory that a place takes, and what rounding adds at most whatever their number. */
  static bytesFor(perEntry: number): { readonly entry: number; readonly besides: number } {
    return { entry: 4 * perEntry + 4 + BUCKETS / 8, besides: BUCKETS };
  }

  /** Makes room for `places`, not fewer than there are; new ones are empty. */
  grow(places: number): void {
    const terms = new Uint32Array(places * this.#perEntry);
    terms.set(this.#terms);
    const counts = new Int32Array(places);
    counts.set(this.#counts);
    const row = Math.ceil(places / 8);
    const bits = new Uint8Array(BUCKETS * row);
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      bits.set(this.#bits.subarray(bucket * this.#row, (bucket + 1) * this.#row), bucket * row);
    }
    [this.#terms, this.#counts, this.#bits, this.#row] = [terms, counts, bits, row];
  }

  /** The terms at a place; a view. */
  at(place: number): Uint32Array {
    const at = place * this.#perEntry;
    return this.#terms.subarray(at, at + this.#counts[place]!);
  }

  /** Puts terms, distinct and no more than an entry may have, in place of those that stand there. */
  set(place: number, terms: Uint32Array): void {
    const mask = 1 << (place & 7);
    const byte = place >>> 3;
    for (const term of this.at(place)) this.#bits[bucketOf(term) * this.#row + byte]! &= ~mask;
    for (const term of terms) this.#bits[bucketOf(term) * this.#row + byte]! |= mask;
    this.#terms.set(terms, place * this.#perEntry);
    this.#counts[place] = terms.length;
  }

  /** Which of a query's terms stand at each place. */
  match({ terms }: TermQuery): Found {
    const all = new Int32Array(this.#counts.length);
    const late = new Int32Array(this.#counts.length);
    for (const [i, term] of terms.entries()) {
      const start = bucketOf(term) * this.#row;
      for (let byte = 0; byte < this.#row; byte++) {
        for (let bits = this.#bits[start + byte]!; bits !== 0; bits &= bits - 1) {
          const place = 8 * byte + 31 - Math.clz32(bits & -bits);
          const at = this.#indexOf(term, place);
          if (at < 0) continue;
          all[place]! |= 1 << i;
          if (isLate(at, this.#counts[place]!)) late[place]! |= 1 << i;
        }
      }
    }
    return { all, late };
  }

  #indexOf(term: number, place: number): number {
    const start = place * this.#perEntry;
    const end = start + this.#counts[place]!;
    for (let at = start; at < end; at++) if (this.#terms[at] === term) return at - start;
    return -1;
  }
}
