/** Options that several commands share, and the parsing of their values. */
import { InvalidArgumentError, Option } from "commander";

/** A whole number of at least 1. */
export function count(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError("expected a whole number of at least 1.");
  return value;
}

export const backendOption = (): Option =>
  new Option("--backend <name>", "where the arithmetic runs")
    .choices(["auto", "native", "wasm", "reference"])
    .default("auto");

export const threadsOption = (): Option =>
  new Option("--threads <n>", "threads that compute (default: all cores)").argParser(count);

export const jsonOption = (): Option => new Option("--json", "print one JSON object on standard output");
