/** The answers of a batch, as a file that only grows: one whole line for each line of the input, in the order in which they came. */
import { type FileHandle, open } from "node:fs/promises";
import { MillraceError } from "../errors.js";
import { type BatchLine, textLines } from "./lines.js";

/** What the answer to one line comes to; `error` where there is no response. */
export interface BatchAnswer {
  readonly response: {
    readonly status_code: number;
    readonly request_id: string;
    readonly body: unknown;
  } | null;
  readonly error: { readonly code: string; readonly message: string } | null;
}

/** A line of a file of answers. */
export interface AnswerRecord extends BatchAnswer {
  /** "batch_req_" and the number of the line that it answers. */
  readonly id: string;
  readonly custom_id: string | null;
}

/** The record of an answer to one line. */
export const answerRecord = (
  { number, customId }: BatchLine,
  { response, error }: BatchAnswer,
): AnswerRecord => ({
  id: `${PREFIX}${number}`,
  custom_id: customId,
  response,
  error,
});

/** Whether an answer is one that was not asked for. */
export const isFailure = ({ response, error }: BatchAnswer): boolean =>
  response === null || error !== null || response.status_code >= 400;

/** The answer that is an error alone. */
export function failure({ code, message }: MillraceError): BatchAnswer {
  return { response: null, error: { code, message } };
}

const PREFIX = "batch_req_";

export class Journal implements AsyncDisposable {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #answered: Set<number>;
  #failed: number;
  /** Lines are written one after the other. */
  #writing: Promise<void> = Promise.resolve();

  private constructor(file: FileHandle, path: string, { answered, failed }: Answered) {
    this.#file = file;
    this.#path = path;
    this.#answered = answered;
    this.#failed = failed;
  }

  /**
   * Opens the file of a batch's answers, and takes what is in it for answered. A last line that was cut off while it was
   * written is taken away. Throws INVALID_ARGUMENT for answers to another batch, BAD_FORMAT for what are none, or a line
   * that was answered twice; the file is then untouched. WRITE_FAILED.
   */
  static async open(path: string, lines: readonly BatchLine[]): Promise<Journal> {
    let file: FileHandle;
    try {
      file = await open(path, "a+");
    } catch (error) {
      throw failed(path, error);
    }
    try {
      const found = await readAnswered(path, lines);
      const { size } = await file.stat();
      if (found.end < size) await file.truncate(found.end);
      return new Journal(file, path, found);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Numbers of the lines that have their answer. */
  get answered(): ReadonlySet<number> {
    return this.#answered;
  }

  /** How many of them failed. */
  get failed(): number {
    return this.#failed;
  }

  /** Adds the answer to a line that has none. Rejects with WRITE_FAILED. */
  append(batchLine: BatchLine, answer: BatchAnswer): Promise<void> {
    const { number } = batchLine;
    if (this.#answered.has(number))
      throw new MillraceError("INTERNAL", `Line ${number} has its answer already.`);
    this.#answered.add(number);
    if (isFailure(answer)) this.#failed++;
    const line = `${JSON.stringify(answerRecord(batchLine, answer))}\n`;
    this.#writing = this.#writing.then(async () => {
      try {
        await this.#file.appendFile(line);
      } catch (cause) {
        throw failed(this.#path, cause);
      }
    });
    return this.#writing;
  }

  /** Resolves when all is on the disk. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writing.catch(() => {});
    await this.#file.datasync().catch(() => {});
    await this.#file.close();
  }
}

interface Answered {
  readonly answered: Set<number>;
  readonly failed: number;
  /** Bytes of whole lines. */
  readonly end: number;
}

/** The records of a file of answers, but for a last one that was cut off. Rejects with BAD_FORMAT for what is none. */
export async function* answerRecords(
  path: string,
): AsyncGenerator<AnswerRecord & { readonly end: number }, void> {
  let at = 0;
  for await (const { text, end } of textLines(path)) {
    if (end !== null && text !== null) yield { ...parsed(path, text, ++at), end };
  }
}

async function readAnswered(path: string, lines: readonly BatchLine[]): Promise<Answered> {
  const byNumber = new Map(lines.map((line) => [line.number, line]));
  const answered = new Set<number>();
  let [failed, last, at] = [0, 0, 0];
  for await (const record of answerRecords(path)) {
    const { id, custom_id, end } = record;
    at++;
    const number = Number(/^batch_req_([1-9]\d*)$/.exec(id)?.[1] ?? Number.NaN);
    const line = byNumber.get(number);
    if (!line || line.customId !== custom_id) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `${path} holds answers to another batch: its line ${at} answers ${JSON.stringify(custom_id)} as ${JSON.stringify(id)}, ` +
          "which the input does not have there. Name another file for the answers.",
        { path, line: at },
      );
    }
    if (answered.has(number)) throw notAnswers(path, at, `answers line ${number} a second time`);
    answered.add(number);
    if (isFailure(record)) failed++;
    last = end;
  }
  return { answered, failed, end: last };
}

function parsed(path: string, row: string, at: number): AnswerRecord {
  try {
    const record = JSON.parse(row) as Partial<AnswerRecord>;
    const { id, custom_id, response = null, error = null } = record;
    if (typeof id === "string" && (custom_id === null || typeof custom_id === "string"))
      return { id, custom_id, response, error };
  } catch {}
  throw notAnswers(path, at, "is no answer of a batch");
}

const notAnswers = (path: string, line: number, what: string): MillraceError =>
  new MillraceError(
    "BAD_FORMAT",
    `${path} cannot be gone on with: its line ${line} ${what}. Name another file for the answers.`,
    { path, line },
  );

const failed = (path: string, cause: unknown): MillraceError =>
  new MillraceError(
    "WRITE_FAILED",
    `${path} cannot be written: ${(cause as Error).message}.`,
    { path },
    { cause },
  );
