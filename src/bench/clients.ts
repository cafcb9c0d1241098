/** Many clients of one server: the server and its clients as processes of their own, and what the server's tells of itself. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { MillraceError } from "../errors.js";
import type {
  ClientsCount,
  ClientsRequest,
  ClientsResult,
  FromClients,
  ToClients,
} from "./client-process.js";
import type { FromWatched, LoopDelay, ToWatched } from "./watch-process.js";

export interface ClientsOptions extends Omit<ClientsRequest, "url"> {
  /** Arguments of `millrace serve`. */
  readonly serve: readonly string[];
  /** Folder for a profile of the server's processor time, as `node --cpu-prof` writes it. */
  readonly profile?: string;
  /** Ends the run: what was measured until then counts. */
  readonly signal: AbortSignal;
  readonly onSample?: (sample: ClientsSample) => void;
}

/** The server's process, and what its clients had until then. */
export interface ClientsSample extends Omit<Extract<FromWatched, { type: "sample" }>, "type">, ClientsCount {
  /** Since the clients began to ask. */
  readonly seconds: number;
}

export interface ClientsMeasured {
  readonly samples: readonly ClientsSample[];
  readonly result: ClientsResult;
  /** Of the server's event loop, over all of the time that clients asked. */
  readonly delay: LoopDelay;
}

/**
 * Starts `millrace serve` and clients for it, and measures. Throws BACKEND_UNAVAILABLE where either dies, ABORTED where
 * nothing was measured yet.
 */
export async function measureClients(options: ClientsOptions): Promise<ClientsMeasured> {
  const { serve, profile, signal, onSample, ...request } = options;
  const watch = new URL("./watch-process.js", import.meta.url).href;
  const millrace = fileURLToPath(new URL("../../bin/millrace", import.meta.url));
  const profiling = profile === undefined ? [] : ["--cpu-prof", "--cpu-prof-dir", profile];
  using server = start(
    "server",
    [...profiling, "--import", watch, millrace, "serve", "--port", "0", ...serve],
    // It logs each request, as it always does.
    ["ignore", "pipe", "ignore", "ipc"],
  );
  const stopped = new Promise<never>((_, reject) => {
    const stop = () => reject(new MillraceError("ABORTED", "Stopped before the server listened."));
    signal.addEventListener("abort", stop, { once: true });
  });
  stopped.catch(() => {});
  const url = await server.during(Promise.race([listening(server.child), stopped]));
  using clients = start(
    "clients",
    [fileURLToPath(new URL("./client-process.js", import.meta.url))],
    ["ignore", "ignore", "inherit", "ipc"],
  );

  const samples: ClientsSample[] = [];
  let startedAt = Number.NaN;
  let count: ClientsCount = { answered: 0, tokens: 0, errors: {}, open: 0, reconnected: 0 };
  const whole = new Promise<LoopDelay>((resolve) => {
    server.child.on("message", (message: FromWatched) => {
      if (message.type === "whole") return resolve(message.delay);
      if (Number.isNaN(startedAt)) return;
      const { type: _, ...sample } = message;
      samples.push({ ...sample, ...count, seconds: (performance.now() - startedAt) / 1000 });
      onSample?.(samples.at(-1)!);
    });
  });
  const ended = new Promise<ClientsResult>((resolve) => {
    clients.child.on("message", (message: FromClients) => {
      if (message.type === "count") count = message.count;
      if (message.type === "result") resolve(message.result);
      if (message.type === "connected") {
        startedAt = performance.now();
        server.child.send("begin" satisfies ToWatched);
      }
    });
  });
  const tell = (message: ToClients) => clients.child.send(message);
  const onAbort = () => tell({ type: "stop" });
  signal.addEventListener("abort", onAbort);
  try {
    tell({ type: "run", request: { ...request, url } });
    if (signal.aborted) onAbort();
    const result = await server.during(clients.during(ended));
    server.child.send("end" satisfies ToWatched);
    const delay = await server.during(whole);
    if (profile !== undefined) await server.end();
    return { samples, result, delay };
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

interface Started extends Disposable {
  readonly child: ChildProcess;
  /** What `promise` comes to, unless the process ends before. */
  during<T>(promise: Promise<T>): Promise<T>;
  /** Asks the process to end, and waits until it has. */
  end(): Promise<void>;
}

/** In a process group of its own: Ctrl-C is for us, and we tell it. */
function start(
  name: string,
  args: readonly string[],
  stdio: ("ignore" | "pipe" | "inherit" | "ipc")[],
): Started {
  const child = spawn(process.execPath, [...args], { stdio, detached: true });
  const exit = new Promise<string>((resolve) => {
    child.once("exit", (code, signal) => resolve(String(code ?? signal)));
    child.once("error", (error) => resolve(error.message));
  });
  const died = exit.then((why): never => {
    throw new MillraceError("BACKEND_UNAVAILABLE", `The ${name}'s process ended (${why}).`, {
      process: name,
    });
  });
  died.catch(() => {});
  return {
    child,
    during: (promise) => Promise.race([promise, died]),
    async end() {
      child.kill("SIGTERM");
      await exit;
    },
    [Symbol.dispose]: () => {
      child.kill("SIGKILL");
    },
  };
}

/** The address that a server says it listens on. */
function listening({ stdout }: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    createInterface({ input: stdout! }).on("line", (line) => {
      const [, url] = /listening on (http:\S+)/.exec(line) ?? [];
      if (url !== undefined) resolve(url);
    });
  });
}
