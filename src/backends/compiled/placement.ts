/** A run of bytes that holds something from its first op to its last, both included. */
export interface Lifetime {
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

export interface Placement {
  /** By lifetime, in the order given; 64-byte aligned. */
  readonly offsets: readonly number[];
  readonly bytes: number;
}

const ALIGNMENT = 64;

/**
 * Finds offsets such that lifetimes that overlap in time do not overlap in memory. The largest are placed first,
 * each at the lowest offset that is free for as long as it lives (greedy by size: Pisarchyk and Lee, 2020,
 * arXiv:2001.03288).
 */
export function place(lifetimes: readonly Lifetime[]): Placement {
  const offsets = lifetimes.map(() => 0);
  const order = lifetimes
    .map((_, index) => index)
    .sort((a, b) => lifetimes[b]!.bytes - lifetimes[a]!.bytes || a - b);
  /** Indices of those placed so far, by offset. */
  const placed: number[] = [];
  let total = 0;
  for (const index of order) {
    const { first, last } = lifetimes[index]!;
    const bytes = Math.ceil(lifetimes[index]!.bytes / ALIGNMENT) * ALIGNMENT;
    if (bytes === 0) continue;
    let offset = 0;
    for (const other of placed) {
      const neighbour = lifetimes[other]!;
      if (neighbour.first > last || neighbour.last < first) continue;
      if (offsets[other]! >= offset + bytes) break;
      offset = Math.max(offset, Math.ceil((offsets[other]! + neighbour.bytes) / ALIGNMENT) * ALIGNMENT);
    }
    offsets[index] = offset;
    total = Math.max(total, offset + bytes);
    const after = placed.findIndex((other) => offsets[other]! > offset);
    placed.splice(after < 0 ? placed.length : after, 0, index);
  }
  return { offsets, bytes: total };
}
