/**
 * First-fit allocation of address ranges, in units of 64 bytes; neighbours that are free are joined. It keeps the
 * books only: the memory itself belongs to the caller.
 */
export class Allocator {
  /** Free ranges [start, end), ascending, never touching each other. */
  readonly #free: { start: number; end: number }[] = [];
  #end: number;

  /** `start` is a multiple of 64; addresses end at `limit`. */
  constructor(
    start: number,
    readonly limit: number,
  ) {
    this.#end = start;
  }

  /** One past the highest address ever handed out. */
  get end(): number {
    return this.#end;
  }

  /** Bytes of the longest range that can still be had. */
  get longest(): number {
    const last = this.#free.at(-1);
    const top = this.limit - (last?.end === this.#end ? last.start : this.#end);
    return this.#free.reduce((most, { start, end }) => Math.max(most, end - start), top);
  }

  /** Address of `bytes` bytes, or null where no range is long enough. */
  take(bytes: number): number | null {
    const size = Math.max(64, Math.ceil(bytes / 64) * 64);
    const index = this.#free.findIndex(({ start, end }) => end - start >= size);
    const fit = this.#free[index];
    if (fit) {
      const address = fit.start;
      fit.start += size;
      if (fit.start === fit.end) this.#free.splice(index, 1);
      return address;
    }
    const last = this.#free.at(-1);
    const address = last?.end === this.#end ? last.start : this.#end;
    if (address + size > this.limit) return null;
    if (address !== this.#end) this.#free.pop();
    this.#end = address + size;
    return address;
  }

  /** Gives back what `take(bytes)` returned. */
  give(address: number, bytes: number): void {
    const size = Math.max(64, Math.ceil(bytes / 64) * 64);
    const after = this.#free.findIndex(({ start }) => start > address);
    const index = after < 0 ? this.#free.length : after;
    const previous = this.#free[index - 1];
    const next = this.#free[index];
    let start = address;
    let end = address + size;
    let from = index;
    let count = 0;
    if (previous?.end === start) {
      start = previous.start;
      from--;
      count++;
    }
    if (next?.start === end) {
      end = next.end;
      count++;
    }
    this.#free.splice(from, count, { start, end });
  }
}
