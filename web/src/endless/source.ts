/** Which of the blocks that came back for a question says what the answer says. */

/** A stored block, as tokens of the stream, with about what it says. */
export interface Block {
  readonly first: number;
  readonly last: number;
  readonly text: string;
}

export interface Source {
  readonly block: Block;
  /** The sentence in it. */
  readonly sentence: string;
}

/** Words that tell nothing by themselves. */
const EMPTY = new Set(
  "a an and are as at by did do does for from had has have he her his in is it its now of on or put she that the their then there they this to was were what when where which who whose why with".split(
    " ",
  ),
);

const wordsOf = (text: string): Set<string> =>
  new Set((text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).filter((word) => !EMPTY.has(word)));

/**
 * The sentence that has most of the answer's words, and among those the question's: something of both at least; of several,
 * the one said last. Null where no block has one, as when the answer came from what is in memory.
 */
export function sourceOf(blocks: readonly Block[], question: string, answer: string): Source | null {
  const asked = wordsOf(question);
  const told = [...wordsOf(answer)].filter((word) => !asked.has(word));
  let best: Source | null = null;
  let most = 0;
  for (const block of [...blocks].sort((a, b) => a.first - b.first)) {
    for (const sentence of block.text.split(/(?<=[.!?]["'”’]*)\s+/)) {
      const words = wordsOf(sentence);
      const news = told.filter((word) => words.has(word)).length;
      const known = [...asked].filter((word) => words.has(word)).length;
      const weight = news > 0 && known > 0 ? news * (asked.size + 1) + known : 0;
      if (weight === 0 || weight < most) continue;
      best = { block, sentence: sentence.trim() };
      most = weight;
    }
  }
  return best;
}
