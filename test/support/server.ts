/** Servers for tests, and what asks them. */
import { createServer, type Server, type ServerOptions } from "../../src/server/create.js";
import type { Model } from "../../src/session/model.js";

/** A server of these models in this process, with a way to ask it without a network. */
export function serverOf(
  models: Readonly<Record<string, Model>>,
  options: ServerOptions = {},
): Server & { ask: Ask } {
  const named = Object.entries(models).map(([name, model]) => ({ name, model }));
  const server = createServer(named, options);
  return { ...server, ask: asker((path, init) => server.app.request(path, init)) };
}

export interface Asked {
  readonly status: number;
  readonly headers: Headers;
  /** What came, as JSON where it is some. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it as it is.
  readonly body: any;
}

/** POSTs `body` as JSON where there is one, otherwise GETs. */
export type Ask = (path: string, body?: unknown, init?: RequestInit) => Promise<Asked>;

export function asker(fetch: (path: string, init: RequestInit) => Response | Promise<Response>): Ask {
  return async (path, body, init = {}) => {
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      ...init,
      headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...init.headers },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.startsWith("application/json") ?? false;
    return { status: response.status, headers: response.headers, body: isJson ? JSON.parse(text) : text };
  };
}

/** The events of a stream's text, parsed; its last, "[DONE]", as it is. */
export function eventsOf(text: string): unknown[] {
  return text
    .split("\n\n")
    .filter((event) => event.startsWith("data: "))
    .map((event) => event.slice("data: ".length))
    .map((data) => (data === "[DONE]" ? data : JSON.parse(data)));
}
