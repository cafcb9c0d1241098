/** Requests to the server that sent this page. */
import { keep, read } from "../storage.js";

/** What the server refused or failed at, in OpenAI's error shape; `status` is 0 where it could not be reached. */
export class ServerError extends Error {
  readonly status: number;
  readonly code: string | null;
  /** The numbers behind the message, where there are some. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    status: number,
    code: string | null,
    message: string,
    details: Readonly<Record<string, unknown>> = {},
  ) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

/** Asked for where the server wants one; kept for this browser tab only. */
const KEY = "millrace.key";
let key = read(KEY, "", "sessionStorage");

export const apiKey = {
  get: (): string => key,
  set: (given: string): void => {
    key = given;
    keep(KEY, key, "sessionStorage");
  },
};

/** OpenAI's shape of an error. */
interface Said {
  readonly message?: string;
  readonly code?: string;
  readonly details?: Readonly<Record<string, unknown>>;
}

interface Options {
  readonly method?: "GET" | "POST" | "DELETE";
  readonly body?: unknown;
  readonly signal?: AbortSignal;
  /** It goes out although the page is being left. */
  readonly keepalive?: boolean;
}

/** The answer to a request; throws ServerError for any that is not good. */
export async function request(
  path: string,
  { method, body, signal, keepalive = false }: Options = {},
): Promise<Response> {
  const headers = new Headers();
  if (body !== undefined) headers.set("Content-Type", "application/json");
  if (apiKey.get() !== "") headers.set("Authorization", `Bearer ${apiKey.get()}`);
  let response: Response;
  try {
    response = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      keepalive,
      ...(body !== undefined && { body: JSON.stringify(body) }),
      ...(signal && { signal }),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError(0, null, "The server cannot be reached. Is it running? Try again when it is.");
  }
  if (response.ok) return response;
  const said: unknown = await response.json().catch(() => null);
  const { message, code, details } = (said as { error?: Said } | null)?.error ?? {};
  throw new ServerError(
    response.status,
    code ?? null,
    message ?? `The server answered ${response.status}.`,
    details,
  );
}

export async function json<T>(path: string, options?: Options): Promise<T> {
  return (await request(path, options)).json() as Promise<T>;
}

/**
 * The `data` of every server-sent event, parsed, up to "[DONE]". Throws ServerError for an event that holds an error, and
 * where the connection breaks off before that.
 */
export async function* events<T>(path: string, options: Options): AsyncGenerator<T, void> {
  const { body } = await request(path, options);
  if (!body) return;
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        if (options.signal?.aborted) throw error;
        return { done: true, value: "" };
      });
      if (done)
        throw new ServerError(0, null, "The connection to the server broke off. Try again when it is back.");
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event: unknown = JSON.parse(data);
        const { error } = event as { error?: { message: string; code?: string } };
        if (error) throw new ServerError(200, error.code ?? null, error.message);
        yield event as Awaited<T>;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
