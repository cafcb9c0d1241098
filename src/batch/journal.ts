/** The answers of a batch, as a file that only grows: one whole line for each line of the input, in the order in which they came. */
import { type FileHandle, open } from "node:fs/promises";
import { MillraceError } from "../errors.js";
import type { BatchLine } from "./lines.js";

/** What the answer to one line comes to; `error` where there is no response. */
export interface BatchAnswer {
  readonly response: {
    readonly status_code: number;
    readonly request_id: string;
    readonly body: unknown;
  } | null;
  readonly error: { readonly code: string; readonly message: string } | null;
}

/** The answer that is an error alone. */
export function failure({ code, message }: MillraceError): BatchAnswer {
  return { response: null, error: { code, message } };
}

const PREFIX = "batch_req_";

export class Journal implements AsyncDisposable {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #answered: Set<number>;
  /** Lines are written one after the other. */
  #writing: Promise<void> = Promise.resolve();

  private constructor(file: FileHandle, path: string, answered: Set<number>) {
    this.#file = file;
    this.#path = path;
    this.#answered = answered;
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
      const bytes = await file.readFile();
      const end = bytes.lastIndexOf(0x0a) + 1;
      const answered = readAnswered(path, bytes.subarray(0, end).toString("utf8"), lines);
      if (end < bytes.length) await file.truncate(end);
      return new Journal(file, path, answered);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Numbers of the lines that have their answer. */
  get answered(): ReadonlySet<number> {
    return this.#answered;
  }

  /** Adds the answer to a line that has none. Rejects with WRITE_FAILED. */
  append({ number, customId }: BatchLine, { response, error }: BatchAnswer): Promise<void> {
    if (this.#answered.has(number))
      throw new MillraceError("INTERNAL", `Line ${number} has its answer already.`);
    this.#answered.add(number);
    const record = { id: `${PREFIX}${number}`, custom_id: customId, response, error };
    const line = `${JSON.stringify(record)}\n`;
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

function readAnswered(path: string, text: string, lines: readonly BatchLine[]): Set<number> {
  const byNumber = new Map(lines.map((line) => [line.number, line]));
  const answered = new Set<number>();
  const rows = text.split("\n").slice(0, -1);
  rows.forEach((row, i) => {
    const { id, custom_id } = parsed(path, row, i + 1);
    const number = Number(/^batch_req_([1-9]\d*)$/.exec(id)?.[1] ?? Number.NaN);
    const line = byNumber.get(number);
    if (!line || line.customId !== custom_id) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `${path} holds answers to another batch: its line ${i + 1} answers ${JSON.stringify(custom_id)} as ${JSON.stringify(id)}, ` +
          "which the input does not have there. Name another file for the answers.",
        { path, line: i + 1 },
      );
    }
    if (answered.has(number)) throw notAnswers(path, i + 1, `answers line ${number} a second time`);
    answered.add(number);
  });
  return answered;
}

function parsed(
  path: string,
  row: string,
  at: number,
): { readonly id: string; readonly custom_id: string | null } {
  try {
    const { id, custom_id } = JSON.parse(row) as Record<string, unknown>;
    if (typeof id === "string" && (custom_id === null || typeof custom_id === "string"))
      return { id, custom_id };
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
