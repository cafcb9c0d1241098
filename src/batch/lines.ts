/** The lines of a batch, in OpenAI's format: one request each. */
import { createReadStream } from "node:fs";
import * as z from "zod";
import { MillraceError } from "../errors.js";

const LINE = z.strictObject({
  custom_id: z.string().min(1),
  method: z.literal("POST", { error: 'expected "POST"' }),
  url: z.string().startsWith("/v1/", { error: 'expected a path such as "/v1/chat/completions"' }),
  body: z.record(z.string(), z.json()),
});

/** What is wrong with a line, in the words of OpenAI's API: `details.problem` of its error. */
export type LineProblem =
  | "invalid_json_line"
  | "line_too_long"
  | "invalid_request"
  | "missing_required_parameter"
  | "duplicate_custom_id";

/** A request of a batch. */
export type BatchRequest = Readonly<z.output<typeof LINE>>;

/** A line of the input, from 1 on; empty lines are none. */
export interface BatchLine {
  readonly number: number;
  /** Null where it cannot be read. */
  readonly customId: string | null;
  /** What is wrong with it, where something is. */
  readonly request: BatchRequest | MillraceError;
}

/** Reads all lines of a batch. A line that is none, or whose custom_id stood before, holds the error that answers it. */
export function readLines(text: string): BatchLine[] {
  const read = lineReader();
  return text.split("\n").flatMap((line) => read(line));
}

/**
 * As `readLines`, of a file, while others have their turns: it may be long. A line of more than `mostBytes` is none: it is
 * neither kept nor parsed, which nobody could do meanwhile. Rejects with what reading fails for.
 */
export async function readLinesOf(path: string, mostBytes = Number.POSITIVE_INFINITY): Promise<BatchLine[]> {
  const read = lineReader(mostBytes);
  const lines: BatchLine[] = [];
  for await (const { text } of textLines(path, mostBytes)) lines.push(...read(text));
  return lines;
}

/** A line of a file. */
export interface TextLine {
  /** Null where it is longer than it may be. */
  readonly text: string | null;
  /** The byte behind what ends it; null for a last line that nothing ends. */
  readonly end: number | null;
}

export async function* textLines(
  path: string,
  mostBytes = Number.POSITIVE_INFINITY,
): AsyncGenerator<TextLine, void> {
  const open: Buffer[] = [];
  let length = 0;
  let before = 0;
  const put = (bytes: Buffer) => {
    length += bytes.length;
    if (length <= mostBytes) open.push(bytes);
  };
  const line = () => {
    const bytes = Buffer.concat(open.splice(0));
    const text = length <= mostBytes ? bytes.toString("utf8") : null;
    length = 0;
    return text;
  };
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
    let from = 0;
    for (let at = chunk.indexOf(0x0a); at >= 0; at = chunk.indexOf(0x0a, from)) {
      put(chunk.subarray(from, at));
      from = at + 1;
      yield { text: line(), end: before + from };
    }
    put(chunk.subarray(from));
    before += chunk.length;
  }
  if (length > 0) yield { text: line(), end: null };
}

/** Takes the texts of a batch's lines one after another; empty ones are none, and null is one of too many bytes. */
function lineReader(mostBytes = Number.POSITIVE_INFINITY): (text: string | null) => BatchLine[] {
  const seen = new Map<string, number>();
  let number = 0;
  return (text) => {
    number++;
    if (text === null) {
      const what = `has more than ${mostBytes} bytes, as many as a request may have`;
      return [{ number, customId: null, request: bad(number, what, "line_too_long") }];
    }
    const line = number === 1 ? text.replace(/^\uFEFF/, "") : text;
    return line.trim() === "" ? [] : [readLine(line, number, seen)];
  };
}

function readLine(line: string, number: number, seen: Map<string, number>): BatchLine {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    const what = `is no JSON (${(error as Error).message})`;
    return { number, customId: null, request: bad(number, what, "invalid_json_line") };
  }
  const parsed = LINE.safeParse(value);
  const given = (value as { custom_id?: unknown } | null)?.custom_id;
  const customId = typeof given === "string" ? given : null;
  if (!parsed.success) {
    const { path } = parsed.error.issues[0]!;
    const isMissing = path.length === 1 && (value as Record<PropertyKey, unknown>)[path[0]!] === undefined;
    const problem = isMissing ? "missing_required_parameter" : "invalid_request";
    const what = `is no request: ${z.prettifyError(parsed.error)}`;
    return { number, customId, request: bad(number, what, problem, path.join(".")) };
  }
  const { custom_id } = parsed.data;
  const before = seen.get(custom_id);
  if (before !== undefined) {
    const what = `has the custom_id ${JSON.stringify(custom_id)}, as line ${before} has; each needs its own`;
    return { number, customId, request: bad(number, what, "duplicate_custom_id", "custom_id") };
  }
  seen.set(custom_id, number);
  return { number, customId, request: parsed.data };
}

const bad = (number: number, what: string, problem: LineProblem, param = ""): MillraceError =>
  new MillraceError("INVALID_ARGUMENT", `Line ${number} ${what}`, {
    line: number,
    problem,
    param: param === "" ? null : param,
  });
