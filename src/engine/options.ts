/** What callers may ask for, and the checks that refuse everything else before any work starts. */
import { MillraceError } from "../errors.js";

/**
 * Throws INVALID_ARGUMENT for a key of `options` that is not in `known`, naming the nearest known one.
 *
 * @param what The call, for the message: "open".
 */
export function refuseUnknown(what: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `${what} expects an object of options; got ${show(options)}.`,
      {
        got: show(options),
        expected: "object",
      },
    );
  }
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue;
    const near = nearest(name, known);
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `${what} has no option "${name}". ${near ? `Did you mean "${near}"? ` : ""}Known are: ${known.join(", ")}.`,
      { name, nearest: near, expected: known },
    );
  }
}

/** `value` where it is a whole number in [minimum, maximum], `undefined` where it is absent; otherwise INVALID_ARGUMENT. */
export function wholeNumber(
  name: string,
  value: unknown,
  minimum: number,
  maximum: number = Number.MAX_SAFE_INTEGER,
): number | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= minimum && value <= maximum) {
    return value;
  }
  const expected =
    maximum === Number.MAX_SAFE_INTEGER
      ? `a whole number of at least ${minimum}`
      : `a whole number from ${minimum} to ${maximum}`;
  throw invalid(name, value, expected);
}

/** `value` where it is one of `choices`, `undefined` where it is absent; otherwise INVALID_ARGUMENT. */
export function oneOf<T extends string>(name: string, value: unknown, choices: readonly T[]): T | undefined {
  if (value === undefined) return undefined;
  const found = choices.find((choice) => choice === value);
  if (found !== undefined) return found;
  throw invalid(name, value, `one of ${choices.map((choice) => `"${choice}"`).join(", ")}`);
}

export function invalid(name: string, got: unknown, expected: string): MillraceError {
  return new MillraceError("INVALID_ARGUMENT", `${name} is ${show(got)}; expected ${expected}.`, {
    name,
    got: show(got),
    expected,
  });
}

function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "function") return "a function";
  const text = typeof value === "object" ? asJson(value) : String(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** Objects that JSON cannot hold (cycles, big integers) are named only. */
function asJson(value: object | null): string {
  try {
    return JSON.stringify(value) ?? "an object";
  } catch {
    return Array.isArray(value) ? "a list" : "an object";
  }
}

/** The known name fewest edits away, if it is near enough to be meant. */
export function nearest(name: string, known: readonly string[]): string | null {
  let best: string | null = null;
  let distance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of known) {
    const edits = editDistance(plain(name), plain(candidate));
    if (edits < distance) {
      best = candidate;
      distance = edits;
    }
  }
  return best;
}

/** Names that differ in case and separators only are the same to people. */
function plain(name: string): string {
  return name.toLowerCase().replaceAll(/[-_\s]/g, "");
}

/** Levenshtein distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(swap, previous[j]! + 1, row[j - 1]! + 1));
    }
    previous = row;
  }
  return previous[b.length]!;
}
