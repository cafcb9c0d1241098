/** The lengths of windows over a run, and how many steps each gets. */
import { MillraceError } from "../errors.js";

/** `share` of the steps have windows of `length` tokens. */
export interface LengthShare {
  readonly length: number;
  readonly share: number;
}

/**
 * "256", or several lengths with their shares of the steps, which make 1: "256:0.7,1024:0.3".
 * Throws INVALID_ARGUMENT.
 */
export function parseLengths(text: string): LengthShare[] {
  const parts = text.split(",").map((part) => /^\s*(\d+)\s*(?::\s*(\d*\.?\d+)\s*)?$/.exec(part));
  if (parts.some((part) => part === null || (part[2] === undefined && parts.length > 1))) {
    throw invalid(text, "a number of tokens, or several with their shares, such as 256:0.7,1024:0.3");
  }
  return checkLengths(parts.map((part) => ({ length: Number(part![1]), share: Number(part![2] ?? 1) })));
}

/** `lengths`, or one for the whole run. Throws INVALID_ARGUMENT. */
export function checkLengths(lengths: number | readonly LengthShare[]): LengthShare[] {
  const list = typeof lengths === "number" ? [{ length: lengths, share: 1 }] : [...lengths];
  for (const { length, share } of list) {
    if (!Number.isSafeInteger(length) || length < 2) throw invalid(length, "whole numbers of at least 2");
    if (!(share > 0 && share <= 1)) throw invalid(share, "shares above 0, at most 1");
  }
  const sum = list.reduce((total, { share }) => total + share, 0);
  if (Math.abs(sum - 1) > 1e-6) throw invalid(`shares that make ${sum}`, "shares that make 1");
  return list;
}

/** Steps of each; borders are rounded, and all steps are given away. */
export function stepsOf(lengths: readonly LengthShare[], steps: number): number[] {
  let share = 0;
  let before = 0;
  return lengths.map((each) => {
    share += each.share;
    const end = Math.round(Math.min(1, share + 1e-9) * steps);
    const own = end - before;
    before = end;
    return own;
  });
}

function invalid(got: unknown, expected: string): MillraceError {
  return new MillraceError("INVALID_ARGUMENT", `Window lengths: got ${String(got)}; expected ${expected}.`, {
    got: String(got),
    expected,
  });
}
