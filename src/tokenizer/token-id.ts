import { MillraceError } from "../errors.js";

/** `id`, if it is one of a vocabulary of this size. Throws INVALID_TOKEN. */
export function checkedTokenId(id: number, vocabularySize: number): number {
  if (Number.isInteger(id) && id >= 0 && id < vocabularySize) return id;
  const expected = `0 to ${vocabularySize - 1}`;
  throw new MillraceError(
    "INVALID_TOKEN",
    `Token id ${id} is outside the vocabulary; expected a whole number from ${expected}.`,
    { got: id, expected },
  );
}
