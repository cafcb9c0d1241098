/** Bodies of multipart/form-data (RFC 7578), read as they come: a file in them may be larger than memory. */
import { ApiError } from "./errors.js";

export interface FormPart {
  readonly name: string;
  /** Null where the part is no file. */
  readonly filename: string | null;
  /** To be read before the next part is asked for; what is left then is skipped. */
  readonly body: AsyncGenerator<Uint8Array, void>;
}

/** Most bytes of a part's headers, and of a field that is no file. */
const MAX_HEADERS = 16 * 1024;
const MAX_FIELD = 64 * 1024;
const MAX_PARTS = 32;

/** Parts of `body`, in order. Throws 415 where `contentType` is another, 400 for what is no form. */
export async function* formParts(
  contentType: string | undefined,
  body: ReadableStream<Uint8Array> | null,
): AsyncGenerator<FormPart, void> {
  const reader = new Reader(body, boundaryOf(contentType));
  // The first delimiter has no line before it.
  await drain(reader.untilDelimiter());
  for (let count = 0; !(await reader.isEnd()); count++) {
    if (count === MAX_PARTS) throw malformed(`it has more than ${MAX_PARTS} parts`);
    const { name, filename } = disposition(await reader.headers());
    const part = reader.untilDelimiter();
    yield { name, filename, body: part };
    await drain(part);
  }
}

/** The text of a part that is no file. Throws 400 for more than a field should hold. */
export async function fieldText({ name, body }: FormPart): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > MAX_FIELD) {
      throw new ApiError(400, "invalid_value", `'${name}' has more than ${MAX_FIELD} bytes.`, {
        param: name,
      });
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

class Reader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #delimiter: Buffer;
  /** What has come and was not given on. Begins so that also the first delimiter stands behind a line's end. */
  #buffer = Buffer.from("\r\n");

  constructor(body: ReadableStream<Uint8Array> | null, boundary: string) {
    this.#chunks = (body ?? new Blob([]).stream())[Symbol.asyncIterator]();
    this.#delimiter = Buffer.from(`\r\n--${boundary}`);
  }

  /** What comes before the next delimiter, which is taken too. */
  async *untilDelimiter(): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      const at = this.#buffer.indexOf(this.#delimiter);
      const length = at >= 0 ? at : Math.max(0, this.#buffer.length - this.#delimiter.length + 1);
      const part = this.#take(length);
      if (at >= 0) this.#take(this.#delimiter.length);
      if (part.length > 0) yield part;
      if (at >= 0) return;
      await this.#more();
    }
  }

  /** Behind a delimiter: whether it was the last one. Otherwise the rest of its line is taken. */
  async isEnd(): Promise<boolean> {
    while (this.#buffer.length < 2) await this.#more();
    if (this.#buffer.toString("latin1", 0, 2) === "--") return true;
    const line = await this.#through("\r\n");
    if (line.trim() !== "") throw malformed("a line that begins as its boundary goes on with something else");
    return false;
  }

  async headers(): Promise<string[]> {
    // A part may have none: then the empty line comes at once.
    while (this.#buffer.length < 2) await this.#more();
    if (this.#buffer.toString("latin1", 0, 2) === "\r\n") {
      this.#take(2);
      return [];
    }
    return (await this.#through("\r\n\r\n")).split("\r\n");
  }

  async #through(end: string): Promise<string> {
    for (;;) {
      const at = this.#buffer.indexOf(end);
      if (at > MAX_HEADERS || (at < 0 && this.#buffer.length > MAX_HEADERS))
        throw malformed(`a part has more than ${MAX_HEADERS} bytes of headers`);
      if (at >= 0) return this.#take(at + end.length).toString("utf8", 0, at);
      await this.#more();
    }
  }

  #take(length: number): Buffer {
    const taken = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return taken;
  }

  async #more(): Promise<void> {
    const { done, value } = await this.#chunks.next();
    if (done) throw malformed("it ends before its last boundary");
    this.#buffer = this.#buffer.length === 0 ? Buffer.from(value) : Buffer.concat([this.#buffer, value]);
  }
}

function boundaryOf(contentType: string | undefined): string {
  const [, quoted, plain] =
    /^multipart\/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)/i.exec(
      contentType ?? "",
    ) ?? [];
  const boundary = quoted ?? plain;
  if (boundary !== undefined) return boundary;
  throw new ApiError(415, "unsupported_media_type", "Send the file as multipart/form-data, with a boundary.");
}

/** Throws 400 for a part without a name. */
function disposition(headers: readonly string[]): Pick<FormPart, "name" | "filename"> {
  const line = headers.find((header) => /^content-disposition\s*:\s*form-data\s*;/i.test(header)) ?? "";
  const found = new Map<string, string>();
  for (const [, key, quoted, plain] of line.matchAll(
    /;\s*([\w*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))/g,
  )) {
    found.set(key!.toLowerCase(), plain ?? unquoted(quoted!));
  }
  const name = found.get("name");
  if (name === undefined) throw malformed("a part has no name");
  return { name, filename: extended(found.get("filename*")) ?? found.get("filename") ?? null };
}

/** Browsers write what a name must not hold as %22, %0D and %0A; others put a backslash before it. */
const unquoted = (text: string): string =>
  text
    .replace(/\\(["\\])/g, "$1")
    .replace(/%22/g, '"')
    .replace(/%0D/gi, "\r")
    .replace(/%0A/gi, "\n");

/** RFC 5987: UTF-8''na%C3%AFve.jsonl */
function extended(text: string | undefined): string | null {
  const [, encoded] = /^utf-8'[^']*'(.*)$/i.exec(text ?? "") ?? [];
  try {
    return encoded === undefined ? null : decodeURIComponent(encoded);
  } catch {
    return null;
  }
}

async function drain(part: AsyncGenerator<Uint8Array, void>): Promise<void> {
  for await (const _ of part);
}

const malformed = (what: string): ApiError =>
  new ApiError(400, "invalid_form", `The body of the request is no form: ${what}.`);
