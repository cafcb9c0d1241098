/** Parts of a view's slots in kernels/choice.c. */
const MOST_PARTS = 32;

export interface ChoiceShape {
  /** Lanes that choose together, and query heads of each. */
  readonly lanes: number;
  readonly queryHeads: number;
  /** Tokens of the span. */
  readonly tokens: number;
  /** Of the view. */
  readonly slots: number;
  /** From the oldest position that any of the tokens sees to that of the last. */
  readonly positions: number;
}

/** Where, in floats, the arrays of struct Choice begin in the memory for the scores of one view, and where it ends. */
export function choiceScratch({ lanes, queryHeads, tokens, slots, positions }: ChoiceShape) {
  const rows = lanes * tokens * queryHeads;
  const ends = rows * slots;
  const worth = ends + rows * MOST_PARTS * 2;
  return { scores: 0, ends, worth, length: worth + 2 * positions };
}
