/**
 * A process of many clients, beside the server that they ask: so that their work is not measured as the server's. Each
 * keeps one connection of its own open all the time; so many of them ask at once, in turn, for answers that are streamed.
 */
import { Agent, type IncomingMessage, request } from "node:http";

export interface ClientsRequest {
  readonly url: string;
  readonly clients: number;
  readonly active: number;
  /** Tokens of each answer. */
  readonly answer: number;
  readonly seconds: number;
}

/** What happened since the start. */
export interface ClientsCount {
  readonly answered: number;
  readonly tokens: number;
  /** How often what went wrong. */
  readonly errors: Readonly<Record<string, number>>;
  /** Connections that clients have open; and how often one had to be opened again. */
  readonly open: number;
  readonly reconnected: number;
}

export interface ClientsResult extends ClientsCount {
  readonly seconds: number;
  /** Of answers: until the first event with text, and until the last, in milliseconds. */
  readonly firstMs: readonly number[];
  readonly wholeMs: readonly number[];
}

export type ToClients =
  | { readonly type: "run"; readonly request: ClientsRequest }
  | { readonly type: "stop" };
export type FromClients =
  | { readonly type: "connected" }
  | { readonly type: "count"; readonly count: ClientsCount }
  | { readonly type: "result"; readonly result: ClientsResult };

const COUNT_EVERY_MS = 1000;
/** Connections that are opened at once at the start. */
const CONNECTING = 50;

/** One client: a connection that is kept, and a number of its own. */
class Client {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });
  readonly #url: URL;
  readonly #number: number;
  #connections = 0;

  constructor(url: string, number: number) {
    this.#url = new URL(url);
    this.#number = number;
  }

  get isOpen(): boolean {
    return [this.#agent.sockets, this.#agent.freeSockets].some((all) => Object.keys(all).length > 0);
  }

  /** Times that a connection had to be opened after the first. */
  get reconnected(): number {
    return Math.max(0, this.#connections - 1);
  }

  async connect(): Promise<void> {
    const response = await this.#ask("GET", "/health");
    for await (const _ of response);
    if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
  }

  /** One streamed answer. Throws for anything but a whole one. */
  async answer(
    maxTokens: number,
    turn: number,
  ): Promise<{ firstMs: number; wholeMs: number; tokens: number }> {
    const startedAt = performance.now();
    const body = JSON.stringify({
      model: "default",
      messages: [
        { role: "user", content: `Client ${this.#number} asks question ${turn}: which ship is at the quay?` },
      ],
      max_tokens: maxTokens,
      ignore_eos: true,
      stream: true,
      stream_options: { include_usage: true },
    });
    const response = await this.#ask("POST", "/v1/chat/completions", body);
    response.setEncoding("utf8");
    let [text, firstMs] = ["", Number.NaN];
    for await (const chunk of response) {
      if (Number.isNaN(firstMs) && chunk.includes('"content":"')) firstMs = performance.now() - startedAt;
      text += chunk;
    }
    if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
    const [, code] = /^data: \{"error":.*?"code":"(\w+)"/m.exec(text) ?? [];
    if (code !== undefined) throw new Error(`error ${code} in the stream`);
    if (!text.endsWith("data: [DONE]\n\n")) throw new Error("the stream broke off");
    const tokens = Number(/"completion_tokens":(\d+)/.exec(text)?.[1] ?? 0);
    if (tokens !== maxTokens) throw new Error("fewer tokens than asked for");
    return { firstMs, wholeMs: performance.now() - startedAt, tokens };
  }

  end(): void {
    this.#agent.destroy();
  }

  #ask(method: string, path: string, body = ""): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const asked = request(new URL(path, this.#url), {
        method,
        agent: this.#agent,
        headers: { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) },
      });
      asked.on("socket", () => {
        if (!asked.reusedSocket) this.#connections++;
      });
      asked.on("response", resolve);
      asked.on("error", reject);
      asked.end(body);
    });
  }
}

/** Runs until `seconds` have passed since `connected`, or `stop` says so. */
async function run(
  { url, clients: count, active, answer, seconds }: ClientsRequest,
  tell: (message: FromClients) => void,
  stop: AbortSignal,
): Promise<void> {
  const clients = Array.from({ length: count }, (_, i) => new Client(url, i));
  const errors: Record<string, number> = {};
  const failed = (error: unknown) => {
    const { code, message } = error as NodeJS.ErrnoException;
    const name = code ?? message;
    errors[name] = (errors[name] ?? 0) + 1;
  };
  const firstMs: number[] = [];
  const wholeMs: number[] = [];
  let tokens = 0;
  const counted = (): ClientsCount => ({
    answered: wholeMs.length,
    tokens,
    errors,
    open: clients.filter(({ isOpen }) => isOpen).length,
    reconnected: clients.reduce((sum, { reconnected }) => sum + reconnected, 0),
  });

  const connecting = clients.values();
  await Promise.all(
    Array.from({ length: CONNECTING }, async () => {
      for (const client of connecting) await client.connect().catch(failed);
    }),
  );
  tell({ type: "connected" });
  const startedAt = performance.now();
  const timer = setInterval(() => tell({ type: "count", count: counted() }), COUNT_EVERY_MS);
  /** Those that do nothing now, longest first. */
  const idle = [...clients];
  const isOver = () => stop.aborted || performance.now() - startedAt > seconds * 1000;
  const turns = async (): Promise<void> => {
    for (let turn = 0; !isOver(); turn++) {
      const client = idle.shift()!;
      try {
        const got = await client.answer(answer, turn);
        firstMs.push(got.firstMs);
        wholeMs.push(got.wholeMs);
        tokens += got.tokens;
      } catch (error) {
        failed(error);
      }
      idle.push(client);
    }
  };
  await Promise.all(Array.from({ length: Math.min(active, count) }, turns));
  clearInterval(timer);
  const result = { ...counted(), seconds: (performance.now() - startedAt) / 1000, firstMs, wholeMs };
  for (const client of clients) client.end();
  tell({ type: "result", result });
}

const stop = new AbortController();
process.on("message", (message: ToClients) => {
  if (message.type === "stop") stop.abort();
  else void run(message.request, (answer) => process.send?.(answer), stop.signal);
});
process.on("disconnect", () => process.exit(0));
