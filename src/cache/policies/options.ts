import { MillraceError } from "../../errors.js";

/** Throws INVALID_ARGUMENT, naming `what`, unless `value` is a whole number of at least `least`. */
export function wholeNumber(what: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `${what} is ${JSON.stringify(value) ?? value}; a whole number from ${least} is wanted.`,
  );
}
