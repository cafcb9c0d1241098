import { MillraceError } from "../../errors.js";
import type { Scope } from "../contract.js";

/** Throws INVALID_ARGUMENT, naming `what`, unless `value` is a whole number from `least` to `most`. */
export function wholeNumber(
  what: string,
  value: number,
  least: number,
  most = Number.MAX_SAFE_INTEGER,
): void {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return;
  const to = most === Number.MAX_SAFE_INTEGER ? "" : ` to ${most}`;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `${what} is ${JSON.stringify(value) ?? value}; a whole number from ${least}${to} is wanted.`,
  );
}

/** Throws INVALID_ARGUMENT, naming `what`, unless `value` is one of `known`. */
export function oneOf<T extends string>(what: string, value: T, known: readonly T[]): void {
  if (known.includes(value)) return;
  const list = known.map((each) => `"${each}"`).join(", ");
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `${what} is ${JSON.stringify(value)}; one of ${list} is wanted.`,
  );
}

/** Throws INVALID_ARGUMENT, naming `what`, unless `value` is a number from `least` to `most`. */
export function numberWithin(what: string, value: number, least: number, most: number): void {
  if (typeof value === "number" && value >= least && value <= most) return;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `${what} is ${JSON.stringify(value) ?? value}; a number from ${least} to ${most} is wanted.`,
  );
}

export const checkScope = (what: string, value: Scope): void =>
  oneOf(what, value, ["model", "layer", "head"]);
