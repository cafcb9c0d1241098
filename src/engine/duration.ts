/** Spans of time as people write them: "200ms", "1.5 s", "2 min", or a number of milliseconds. */
import { invalid } from "./options.js";

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  ms: 1,
  s: 1000,
  sec: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
};

/**
 * Milliseconds meant by `value`, above 0. Case and spaces do not matter.
 *
 * @param name The option's name, for the message.
 * @throws INVALID_ARGUMENT for anything else.
 */
export function parseDuration(value: unknown, name: string): number {
  const match =
    typeof value === "number"
      ? [undefined, String(value), ""]
      : /^\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*$/i.exec(String(value));
  const ms = Number(match?.[1]) * (UNITS[match?.[2]?.toLowerCase() ?? "none"] ?? Number.NaN);
  if (Number.isFinite(ms) && ms > 0) return ms;
  throw invalid(name, value, 'a number of milliseconds above 0, or a text such as "200ms", "1.5s" or "2min"');
}
