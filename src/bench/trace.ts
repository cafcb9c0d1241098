/**
 * Request traces in the format of the Mooncake open traces (FAST '25): one JSON object a line, without any text.
 *
 *   {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, …]}
 *
 * `timestamp` is in milliseconds since the trace began, lengths are in tokens. There is one id for each 512 tokens of the
 * prompt, the last of them for what is left; an id stands for its block and all that comes before it, so prompts that begin
 * with the same ids begin with the same tokens.
 */
import { MillraceError } from "../errors.js";

/** Tokens of a prompt that one id stands for. */
export const TRACE_BLOCK = 512;

export interface TraceRequest {
  /** Milliseconds since the trace began. */
  readonly timestamp: number;
  readonly inputLength: number;
  readonly outputLength: number;
  readonly hashIds: readonly number[];
}

/** The requests of a trace, in order of their time. Throws BAD_FORMAT, with the line. */
export function readTrace(text: string, path: string): TraceRequest[] {
  const requests = text
    .split("\n")
    .map((line, at) => (line.trim() === "" ? null : readRequest(line, path, at + 1)))
    .filter((request) => request !== null);
  if (requests.length === 0) throw new MillraceError("BAD_FORMAT", `${path} holds no requests.`, { path });
  return requests.sort((a, b) => a.timestamp - b.timestamp);
}

function readRequest(text: string, path: string, line: number): TraceRequest {
  const wrong = (what: string) =>
    new MillraceError(
      "BAD_FORMAT",
      `${path}, line ${line}: ${what}; expected a line of a Mooncake trace, with timestamp, input_length, output_length and hash_ids.`,
      { path, line },
    );
  const fields = parseObject(text);
  if (fields === null) throw wrong("no JSON object");
  const number = (name: string, least: number, isFit: (value: number) => boolean): number => {
    const value = fields[name];
    if (typeof value === "number" && value >= least && isFit(value)) return value;
    throw wrong(`${name} is ${JSON.stringify(value) ?? "missing"}`);
  };
  const inputLength = number("input_length", 1, Number.isSafeInteger);
  const { hash_ids: hashIds } = fields;
  if (!Array.isArray(hashIds) || !hashIds.every((id) => Number.isSafeInteger(id) && id >= 0)) {
    throw wrong("hash_ids is no list of whole numbers");
  }
  // Some makers of traces give no id to what is left after the last whole block.
  const [least, most] = [Math.floor(inputLength / TRACE_BLOCK), Math.ceil(inputLength / TRACE_BLOCK)];
  if (hashIds.length < least || hashIds.length > most) {
    throw wrong(
      `${hashIds.length} hash_ids for ${inputLength} tokens, one for each ${TRACE_BLOCK} is ${most}`,
    );
  }
  return {
    timestamp: number("timestamp", 0, Number.isFinite),
    inputLength,
    outputLength: number("output_length", 0, Number.isSafeInteger),
    hashIds,
  };
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
