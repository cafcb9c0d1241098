/** Bytes [start, end) of some address space. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

export interface Access {
  readonly reads: readonly Range[];
  readonly writes: readonly Range[];
}

const overlap = (a: readonly Range[], b: readonly Range[]): boolean =>
  a.some((x) => b.some((y) => x.start < y.end && y.start < x.end));

/** Whether two ops may not run at the same time: one writes what the other reads or writes. */
export const conflict = (a: Access, b: Access): boolean =>
  overlap(a.writes, b.writes) || overlap(a.writes, b.reads) || overlap(a.reads, b.writes);

/**
 * Which ops must wait until all threads are done with the ops before them: those that conflict with an op since the
 * last wait. Between two waits, threads may be at different ops.
 */
export function barriers(ops: readonly Access[]): boolean[] {
  let since = 0;
  return ops.map((op, index) => {
    const wait = ops.slice(since, index).some((before) => conflict(before, op));
    if (wait) since = index;
    return wait;
  });
}
