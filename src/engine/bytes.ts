/** Byte counts as people write them: "2 GiB", "512MB", "1.5g", or a number. */
import { MillraceError } from "../errors.js";

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 2 ** 10,
  kb: 1e3,
  kib: 2 ** 10,
  m: 2 ** 20,
  mb: 1e6,
  mib: 2 ** 20,
  g: 2 ** 30,
  gb: 1e9,
  gib: 2 ** 30,
  t: 2 ** 40,
  tb: 1e12,
  tib: 2 ** 40,
};

/**
 * Bytes meant by `value`. KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB and the bare letters K, M, G, T are
 * powers of 1024. Case and spaces do not matter.
 *
 * @param name The option's name, for the message.
 * @throws INVALID_ARGUMENT for anything else, for negative numbers and for sizes past 2^53.
 */
export function parseBytes(value: string | number, name = "memory"): number {
  const match =
    typeof value === "number"
      ? [undefined, String(value), ""]
      : /^\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*$/i.exec(value);
  const unit = UNITS[match?.[2]?.toLowerCase() ?? "none"];
  const bytes = Math.floor(Number(match?.[1]) * (unit ?? Number.NaN));
  if (!Number.isSafeInteger(bytes) || bytes < 0) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Option "${name}" is ${JSON.stringify(value)}; expected a number of bytes or a size such as "2 GiB" or "512MB".`,
      { option: name, got: String(value) },
    );
  }
  return bytes;
}

/** `bytes` for people, in powers of 1024 with three figures: 1536 -> "1.50 KiB". */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  if (unit === 0) return `${bytes} B`;
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[unit]}`;
}
