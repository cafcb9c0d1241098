/** `millrace serve`: models behind an OpenAI-compatible API. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Argument, Command, InvalidArgumentError, Option } from "commander";
import type { Level } from "pino";
import type { OpenOptions } from "../engine/open.js";
import { cacheFolder } from "../formats/cache-folder.js";
import { formatBytes, MillraceError, open, parseBytes, SharedMemory } from "../index.js";
import { createServer } from "../server/create.js";
import { parseKeys } from "../server/keys.js";
import { DEFAULT_NAME, type ModelToServe, nameOfSource } from "../server/models.js";
import { DEFAULT_LIMITS, type ServerLimits } from "../server/options.js";
import type { SharePrefixes } from "../server/prefix-scope.js";
import { listen } from "../server/serve.js";
import { INTERRUPTED, onInterrupt } from "./interrupt.js";
import { openLog } from "./log.js";
import { openModel } from "./open-model.js";
import {
  addModelOptions,
  another,
  count,
  decimal,
  type ModelOptions,
  modelSource,
  openOptions,
} from "./options.js";
import { plural, say, write } from "./terminal.js";

interface ServeOptions extends ModelOptions {
  readonly port: number;
  readonly host: string;
  readonly apiKey?: readonly string[];
  readonly apiKeyFile?: string;
  readonly cors?: readonly string[];
  readonly allowHost?: readonly string[];
  readonly maxSequences: number;
  readonly maxStall?: string;
  readonly prefixCache: boolean;
  readonly sharePrefixes?: SharePrefixes;
  readonly prefixDisk?: number;
  readonly prefixFolder?: string;
  readonly maxRequests: number;
  readonly maxBody: number;
  readonly timeout: number;
  readonly rateLimit?: number;
  readonly tokenLimit?: number;
  readonly sessions?: string;
  readonly maxSessions: number;
  readonly sessionIdle: number;
  readonly sessionMemory?: number;
  readonly sessionDisk: number;
  readonly batches?: string;
  readonly maxFile: number;
  readonly maxStorage: number;
  readonly keepFiles: number;
  readonly drain: number;
  readonly logLevel: Level | "silent";
  readonly logPrompts?: boolean;
}

/** In seconds. */
const DAY = 24 * 3600;

const EXAMPLES = `
Examples:
  millrace serve                                the model in the box
  millrace serve model.gguf --port 9000 --max-sequences 16
  millrace serve small=a.gguf large=hf:owner/repo --memory 12GiB
  MILLRACE_API_KEY=secret millrace serve model.gguf --host 0.0.0.0
  millrace serve model.gguf --sessions ./sessions --session-memory 64MiB
  millrace serve model.gguf --batches ./batches

  curl http://127.0.0.1:8080/v1/chat/completions \\
    -H 'Content-Type: application/json' \\
    -d '{"model": "default", "messages": [{"role": "user", "content": "Hi"}]}'

Requests are logged to standard error, one JSON object each, without prompts.
Ctrl-C lets what is under way come to its end; a second one ends at once.`;

export function serveCommand(): Command {
  const command = new Command("serve")
    .summary("serve models over HTTP")
    .description(
      "Serves models with an API that OpenAI's clients speak: chat and completions, streamed or whole, structured answers " +
        "and tools; and sessions, streams without end in a fixed amount of memory. GET /openapi.json describes all of it.",
    )
    .addArgument(
      new Argument(
        "[models...]",
        'sources as of "millrace run", or name=source; the first is the default (default: $MILLRACE_MODEL, else the model in the box)',
      ),
    )
    .optionsGroup("Where, and for whom:")
    .addOption(new Option("--port <n>", "0 is any that is free").argParser(port).default(8080))
    .addOption(
      new Option("--host <address>", "0.0.0.0 is all of this machine's addresses").default("127.0.0.1"),
    )
    .addOption(
      new Option(
        "--api-key <key>",
        "a key that clients must give (repeatable); others see it among the processes: better use $MILLRACE_API_KEY or a file",
      ).argParser(another),
    )
    .addOption(new Option("--api-key-file <path>", "keys, one a line"))
    .addOption(
      new Option(
        "--cors <origin>",
        "let pages of this origin ask, * for all (repeatable; default: none)",
      ).argParser(another),
    )
    .addOption(
      new Option(
        "--allow-host <name>",
        "a name that a server on this machine alone may be asked by, beside localhost (repeatable)",
      ).argParser(another),
    )
    .optionsGroup("Limits:")
    .addOption(
      new Option("--max-sequences <n>", "requests that run at once, per model; others wait")
        .argParser(count)
        .default(8),
    )
    .addOption(
      new Option(
        "--max-stall <time>",
        'longest that a stream waits for its next token because of others\' prompts, such as "200ms" (default: no bound)',
      ),
    )
    .addOption(
      new Option("--no-prefix-cache", "run every prompt from its start, also where others began alike"),
    )
    .addOption(
      new Option(
        "--share-prefixes <whose>",
        "prompts that begin alike share that within one key, or all of them, which lets users find out by the time of an answer what others asked (default: key where there are several keys, else all)",
      ).choices(["key", "all"]),
    )
    .addOption(
      bytesOption(
        "--prefix-disk <size>",
        "keep prefixes that memory has no room for on disk, so much per model, also between runs (default: they are gone)",
        undefined,
      ),
    )
    .addOption(
      new Option(
        "--prefix-folder <folder>",
        "where; it holds prompts (default: prefixes in the cache folder)",
      ),
    )
    .addOption(
      new Option("--max-requests <n>", "requests under way, those that wait included")
        .argParser(count)
        .default(DEFAULT_LIMITS.requests),
    )
    .addOption(bytesOption("--max-body <size>", "largest body of a request", DEFAULT_LIMITS.bodyBytes))
    .addOption(
      secondsOption("--timeout <seconds>", "longest that one request may take", DEFAULT_LIMITS.requestMs),
    )
    .addOption(new Option("--rate-limit <n>", "requests per minute of one key or address").argParser(count))
    .addOption(new Option("--token-limit <n>", "tokens per minute of one key or address").argParser(count))
    .optionsGroup("Sessions:")
    .addOption(new Option("--sessions <folder>", "where they are saved (default: they cannot be)"))
    .addOption(
      new Option("--max-sessions <n>", "sessions at once").argParser(count).default(DEFAULT_LIMITS.sessions),
    )
    .addOption(
      secondsOption(
        "--session-idle <seconds>",
        "close one that nobody used for so long",
        DEFAULT_LIMITS.sessionIdleMs,
      ),
    )
    .addOption(
      bytesOption(
        "--session-memory <size>",
        "most memory of one (default: what its cache policy needs)",
        undefined,
      ),
    )
    .addOption(
      bytesOption("--session-disk <size>", "most that one puts on disk", DEFAULT_LIMITS.sessionDiskBytes),
    )
    .optionsGroup("Files and batches:")
    .addOption(new Option("--batches <folder>", "where files and batches are kept (default: there are none)"))
    .addOption(bytesOption("--max-file <size>", "largest file", DEFAULT_LIMITS.fileBytes))
    .addOption(
      bytesOption(
        "--max-storage <size>",
        "most that all files of one key may have",
        DEFAULT_LIMITS.storageBytes,
      ),
    )
    .addOption(
      new Option("--keep-files <days>", "how long files, and what is known of batches, are kept")
        .argParser(count)
        .default(DEFAULT_LIMITS.fileSeconds / DAY),
    );
  return addModelOptions(command)
    .optionsGroup("Log and end:")
    .addOption(
      new Option("--log-level <level>", "what is logged")
        .choices(["error", "warn", "info", "debug", "silent"])
        .default("info"),
    )
    .addOption(new Option("--log-prompts", "put prompts into the log too"))
    .addOption(secondsOption("--drain <seconds>", "how long the end waits for what is under way", 30_000))
    .addHelpText("after", EXAMPLES)
    .action(serve);
}

async function serve(named: readonly string[], options: ServeOptions): Promise<void> {
  const keys = await apiKeys(options);
  const sources = namedSources(named);
  const served: ModelToServe[] = [];
  const memory = sharedMemory(options, sources.length);
  try {
    for (const { name, source } of sources) {
      const shared = optionsOf(name, options, memory);
      const model = await openModel(source, shared);
      served.push({ name, model, reopen: (signal) => open(source, { ...shared, signal }) });
    }
    await answerUntilStopped(served, keys, options);
  } finally {
    await Promise.all(served.map(({ model }) => model.close()));
  }
}

/** Several models have one budget, and lend each other what they do not use. */
function sharedMemory({ memory }: ServeOptions, numModels: number): OpenOptions["memory"] {
  return memory === undefined || numModels === 1 ? memory : new SharedMemory(memory, numModels);
}

/** How a model is opened. */
function optionsOf(name: string, options: ServeOptions, memory: OpenOptions["memory"]): OpenOptions {
  const { maxSequences, maxStall } = options;
  return {
    ...openOptions(options),
    sequences: maxSequences,
    prefixCache: prefixesOf(name, options),
    ...(maxStall === undefined ? {} : { maxStall }),
    ...(memory === undefined ? {} : { memory }),
  };
}

/** Each model has a folder of its own. Throws INVALID_ARGUMENT for a place without prefixes. */
function prefixesOf(name: string, options: ServeOptions): NonNullable<OpenOptions["prefixCache"]> {
  const { prefixCache, prefixDisk: disk, prefixFolder } = options;
  if (disk === undefined && prefixFolder === undefined) return prefixCache;
  if (!prefixCache) {
    throw wrong(
      "--no-prefix-cache",
      "Prefixes that are not kept need no --prefix-disk and no --prefix-folder.",
    );
  }
  const folder = join(prefixFolder ?? join(cacheFolder(), "prefixes"), name);
  return { folder, ...(disk === undefined ? {} : { disk }) };
}

async function answerUntilStopped(
  served: readonly ModelToServe[],
  keys: readonly string[],
  options: ServeOptions,
): Promise<void> {
  const { host, port, cors: origins = [], allowHost = [], sessions, logLevel, logPrompts = false } = options;
  const onlyHere = isLocal(host) && keys.length === 0;
  const server = createServer(served, {
    keys,
    ...(options.sharePrefixes === undefined ? {} : { sharePrefixes: options.sharePrefixes }),
    origins,
    logPrompts,
    limits: limitsOf(options),
    logger: openLog(logLevel),
    ...(onlyHere ? { hosts: [...LOCAL_NAMES, host, ...allowHost] } : {}),
    ...(sessions === undefined ? {} : { sessionFolder: sessions }),
    ...(options.batches === undefined ? {} : { batchFolder: options.batches }),
  });
  server.context.metrics.watchProcess();
  const listening = await listen(server, { host, port }).catch(async (error: unknown) => {
    await server.context.batches?.close();
    throw error;
  });
  await write(banner(listening.url, served, keys.length));
  if (!isLocal(host) && keys.length === 0) {
    say(
      "millrace: anybody who can reach this machine may ask; give keys with --api-key-file or $MILLRACE_API_KEY",
    );
  }
  await stopped();
  const { size } = server.context.works;
  if (size > 0) say(`millrace: waiting for ${plural(size, "request")}; Ctrl-C again ends at once`);
  using _interrupt = onInterrupt(() => process.exit(INTERRUPTED));
  const cut = await listening.close(options.drain);
  if (cut > 0) say(`millrace: ${plural(cut, "request")} cut short`);
}

/** Names of this machine to itself. */
const LOCAL_NAMES: readonly string[] = ["localhost", "127.0.0.1", "[::1]"];
const isLocal = (host: string): boolean => host === "::1" || host === "localhost" || host.startsWith("127.");

/** Resolves with the first Ctrl-C, or when the process is asked to end. */
function stopped(): Promise<void> {
  return new Promise((resolve) => {
    const stop = () => {
      for (const signal of STOPS) process.off(signal, stop);
      resolve();
    };
    for (const signal of STOPS) process.on(signal, stop);
  });
}

const STOPS = ["SIGINT", "SIGTERM"] as const;

/** Keys of the options and of the environment. Throws INVALID_ARGUMENT for a file that holds none, FILE_NOT_FOUND. */
async function apiKeys({ apiKey = [], apiKeyFile }: ServeOptions): Promise<string[]> {
  const environment = process.env.MILLRACE_API_KEY;
  const keys = [...apiKey, ...(environment ? [environment] : [])];
  if (apiKeyFile !== undefined) {
    const text = await readFile(apiKeyFile, "utf8").catch((cause: unknown) => {
      throw new MillraceError(
        "FILE_NOT_FOUND",
        `The file of keys ${apiKeyFile} cannot be read.`,
        {},
        { cause },
      );
    });
    const found = parseKeys(text);
    if (found.length === 0)
      throw wrong("--api-key-file", `${apiKeyFile} holds no keys; put one on each line.`);
    keys.push(...found);
  }
  // Spaces would never match what a header holds.
  if (keys.some((key) => !/^\S+$/.test(key))) throw wrong("--api-key", "A key is empty or has spaces in it.");
  return keys;
}

/** Sources and the names that they are served under. Throws INVALID_ARGUMENT for two of one name. */
function namedSources(given: readonly string[]): { name: string; source: string }[] {
  const sources = given.length === 0 ? [modelSource(undefined)] : given;
  const named = sources.map((text) => {
    const [, name, source] = /^([\w.-]+)=(.+)$/.exec(text) ?? [];
    return name === undefined ? { name: nameOfSource(text), source: text } : { name, source: source! };
  });
  const names = named.map(({ name }) => name);
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) {
    throw wrong("models", `Two models would be named "${twice}"; give each a name of its own: name=source.`);
  }
  if (names.includes(DEFAULT_NAME)) {
    throw wrong("models", `"${DEFAULT_NAME}" always means the first model; give it another name.`);
  }
  return named;
}

function limitsOf(options: ServeOptions): ServerLimits {
  return {
    ...DEFAULT_LIMITS,
    requests: options.maxRequests,
    bodyBytes: options.maxBody,
    requestMs: options.timeout,
    requestsPerMinute: options.rateLimit ?? null,
    tokensPerMinute: options.tokenLimit ?? null,
    sessions: options.maxSessions,
    sessionIdleMs: options.sessionIdle,
    sessionBytes: options.sessionMemory ?? null,
    sessionDiskBytes: options.sessionDisk,
    fileBytes: options.maxFile,
    storageBytes: options.maxStorage,
    fileSeconds: options.keepFiles * DAY,
  };
}

function banner(url: string, served: readonly ModelToServe[], numKeys: number): string {
  const lines = served.map(({ name, model: { info } }, i) => {
    const { backend, memory, sequences, context } = info;
    const total = formatBytes(memory.weightBytes + memory.cacheBytes + memory.scratchBytes);
    const parts = [info.architecture, backend.name, `${sequences} x ${context} tokens`, `at most ${total}`];
    return `  ${name}${i === 0 ? " (default)" : ""}: ${parts.join(", ")}`;
  });
  const keys = numKeys === 0 ? "no key needed" : plural(numKeys, "key");
  return [`Millrace is listening on ${url} (API: ${url}/v1, ${keys})`, ...lines, ""].join("\n");
}

function port(text: string): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value <= 65_535)) throw new InvalidArgumentError("expected a port, from 0 to 65535.");
  return value;
}

function bytesOption(flags: string, description: string, fallback: number | undefined): Option {
  const option = new Option(flags, description).argParser((text) => {
    try {
      return parseBytes(text, flags.split(" ")[0]!);
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message);
    }
  });
  return fallback === undefined ? option : option.default(fallback, formatBytes(fallback));
}

/** Seconds, kept as milliseconds. */
function secondsOption(flags: string, description: string, fallbackMs: number): Option {
  const parse = (text: string) => {
    const seconds = decimal(text);
    if (!(seconds > 0 && seconds <= 1e6))
      throw new InvalidArgumentError("expected a number of seconds above 0.");
    return seconds * 1000;
  };
  return new Option(flags, description).argParser(parse).default(fallbackMs, String(fallbackMs / 1000));
}

const wrong = (name: string, message: string): MillraceError =>
  new MillraceError("INVALID_ARGUMENT", message, { name });
