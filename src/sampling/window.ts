/** Token id -> how often it stands among the last `length` of `context`; ids outside [0, vocabularySize) are skipped. */
export function countWindow(
  context: ArrayLike<number>,
  length: number,
  vocabularySize: number,
): ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  for (let i = Math.max(0, context.length - length); i < context.length; i++) {
    const id = context[i]!;
    if (id >= 0 && id < vocabularySize) counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  return counts;
}
