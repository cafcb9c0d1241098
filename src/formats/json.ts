/** JSON files beside a checkpoint. */
import { MillraceError } from "../errors.js";
import { openFile, readFully } from "./file.js";

/** Far above the largest tokenizer.json; a larger file is not what its name says. */
const MAX_TEXT = 2 ** 28;

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Reads a text file whole. Throws FILE_NOT_FOUND, or BAD_FORMAT past 256 MiB. */
export async function readText(path: string): Promise<string> {
  const file = await openFile(path);
  try {
    if (file.size > MAX_TEXT) {
      throw new MillraceError(
        "BAD_FORMAT",
        `${path} has ${file.size} bytes; expected a text of at most ${MAX_TEXT}.`,
        {
          path,
          size: file.size,
        },
      );
    }
    const bytes = Buffer.allocUnsafe(file.size);
    await readFully(file, 0, bytes);
    return bytes.toString("utf8");
  } finally {
    await file.handle.close();
  }
}

/** Reads a JSON object; `why` says in the error what it is needed for. Throws FILE_NOT_FOUND or BAD_FORMAT. */
export async function readJson(path: string, why: string): Promise<Record<string, unknown>> {
  const text = await readText(path).catch((error: unknown) => {
    if (!(error instanceof MillraceError) || error.code !== "FILE_NOT_FOUND") throw error;
    throw new MillraceError(error.code, `${error.message} It is needed: ${why}.`, error.details, {
      cause: error,
    });
  });
  return parseJson(text, path);
}

/** Parses a JSON object. Throws BAD_FORMAT naming `source`. */
export function parseJson(text: string, source: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new MillraceError(
      "BAD_FORMAT",
      `${source} is not JSON: ${(error as Error).message.slice(0, 200)}. Fetch the file again.`,
      { path: source },
      { cause: error },
    );
  }
  if (!isRecord(value)) {
    const got = Array.isArray(value) ? "an array" : value === null ? "null" : typeof value;
    throw new MillraceError("BAD_FORMAT", `${source} holds ${got}; expected a JSON object.`, {
      path: source,
    });
  }
  return value;
}
