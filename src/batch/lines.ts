/** The lines of a batch, in OpenAI's format: one request each. */
import * as z from "zod";
import { MillraceError } from "../errors.js";

const LINE = z.strictObject({
  custom_id: z.string().min(1),
  method: z.literal("POST", { error: 'expected "POST"' }),
  url: z.string().startsWith("/v1/", { error: 'expected a path such as "/v1/chat/completions"' }),
  body: z.record(z.string(), z.json()),
});

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
  const seen = new Map<string, number>();
  return text
    .replace(/^\uFEFF/, "")
    .split("\n")
    .flatMap((line, i): BatchLine[] => (line.trim() === "" ? [] : [readLine(line, i + 1, seen)]));
}

function readLine(line: string, number: number, seen: Map<string, number>): BatchLine {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    return { number, customId: null, request: bad(number, `is no JSON (${(error as Error).message})`) };
  }
  const parsed = LINE.safeParse(value);
  const given = (value as { custom_id?: unknown } | null)?.custom_id;
  const customId = typeof given === "string" ? given : null;
  if (!parsed.success) {
    return { number, customId, request: bad(number, `is no request: ${z.prettifyError(parsed.error)}`) };
  }
  const { custom_id } = parsed.data;
  const before = seen.get(custom_id);
  if (before !== undefined) {
    const what = `has the custom_id ${JSON.stringify(custom_id)}, as line ${before} has; each needs its own`;
    return { number, customId, request: bad(number, what) };
  }
  seen.set(custom_id, number);
  return { number, customId, request: parsed.data };
}

const bad = (number: number, what: string): MillraceError =>
  new MillraceError("INVALID_ARGUMENT", `Line ${number} ${what}`, { line: number });
