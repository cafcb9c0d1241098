/** How models are opened: what `open` may be told, checked, and a worker that has loaded one. */
import type { BackendName } from "../backends/contract.js";
import { MillraceError } from "../errors.js";
import { DEFAULT_MODEL } from "../formats/boxed.js";
import { resolveModelPath } from "../formats/hub.js";
import { parseBytes } from "./bytes.js";
import { Connection, type EngineThread, startWorker } from "./connection.js";
import { parseDuration } from "./duration.js";
import { Model } from "./model.js";
import { invalid, oneOf, refuseUnknown, wholeNumber } from "./options.js";
import { type CacheSpec, cacheSpec } from "./policies.js";
import type { PrefixStore } from "./prefix-file.js";
import type { ModelInfo, OpenParameters, OpenProgress } from "./protocol.js";
import { checkSignal } from "./questions.js";
import { SharedMemory } from "./shared-memory.js";

/** How a model is loaded: what `open` may be told. */
export interface OpenOptions {
  /** Where the arithmetic runs. "auto" (the default) takes "native", else "wasm". */
  readonly backend?: BackendName | "auto";
  /** Threads that compute. Default: the machine's cores. */
  readonly threads?: number;
  /** Tokens, prompt and answer, of one request. Default: what the model was trained for, at most 8192. */
  readonly context?: number;
  /** Requests that run at once; further ones wait their turn. Default 4. */
  readonly sequences?: number;
  /**
   * Hard limit on weights, cache and scratch together: bytes, or "2 GiB", "512MB". The cache then takes what the
   * weights leave, up to what `context` and `sequences` can fill. Default: no limit but the machine's memory, and a
   * cache for `sequences` requests of `context` tokens, which the system backs as it fills. Several models may have one
   * limit together: see `SharedMemory`.
   */
  readonly memory?: number | string | SharedMemory;
  /**
   * Longest that an answer under way may wait for its next token because of other requests' prompts: milliseconds, or
   * "200ms". Prompts then run beside it in chunks of what length this allows, by a cost of steps that is measured all the
   * time; `usage` tells how well it is kept, and whether this machine can. Default: no bound, and chunks of fixed length.
   */
  readonly maxStall?: number | string;
  /** How keys and values are kept. Default: `full()` as "f16". */
  readonly cache?: Partial<CacheSpec>;
  /**
   * Whether prompts that begin as earlier ones did (a system prompt, a conversation so far) take over what is still in
   * the cache, instead of being run from the start again. It holds on to nothing that a request needs, but in time all
   * of the cache's memory is in use. Only where the cache keeps every token (`full()`) in every layer; else it has no
   * effect. With a folder, what is in the cache when the model is closed is written there, and taken in again by the next
   * to open the same model with the same cache: what was used last first, up to `bytes` (a number, or "2 GiB"; default 256
   * MiB). With `disk` (bytes likewise), what memory has no room for goes there too, in whole blocks, and comes back when a
   * prompt wants it, also after a restart; only one model may then have the folder open. It holds the prompts themselves.
   * What is damaged there is passed over and replaced. Default true.
   */
  readonly prefixCache?:
    | boolean
    | { readonly folder: string; readonly bytes?: number | string; readonly disk?: number | string };
  /**
   * Adapters (LoRA, PaCA) by a name of your choice: folders in the layout of the PEFT library. Requests name the one
   * that they want; requests with different ones, and without any, run together.
   */
  readonly adapters?: Readonly<Record<string, string>>;
  /** Told as bytes arrive: downloaded, then loaded. */
  readonly onProgress?: (progress: OpenProgress) => void;
  /** Ends the opening with ABORTED; of no effect afterwards. */
  readonly signal?: AbortSignal;
}

const OPEN_OPTIONS: readonly (keyof OpenOptions)[] = [
  "backend",
  "threads",
  "context",
  "sequences",
  "memory",
  "maxStall",
  "cache",
  "prefixCache",
  "adapters",
  "onProgress",
  "signal",
];
const BACKENDS: readonly (BackendName | "auto")[] = ["auto", "native", "wasm", "reference", "null"];
const DEFAULT_SEQUENCES = 4;
const PREFIX_BYTES = 256 * 2 ** 20;

/** How the model that `openAs` gives is made of a worker that has loaded it. */
export type MakeModel<M> = (connection: Connection, info: ModelInfo) => M;

/**
 * Opens a model: a GGUF file, a folder (or `model.safetensors`, or an index) of safetensors, or "hf:owner/repo/file".
 * Where none is named, the one that comes in the box, which needs no download. Its worker is started, and ends where
 * opening fails.
 *
 * Throws INVALID_ARGUMENT for unknown or wrong options; FILE_NOT_FOUND, BAD_FORMAT, UNSUPPORTED_* and MISSING_* for
 * the file; OUT_OF_BUDGET, with what is needed and what there is, before anything is allocated; BACKEND_UNAVAILABLE,
 * SELF_CHECK_FAILED; DOWNLOAD_FAILED; ABORTED; WORKER_CRASHED.
 */
export async function openAs<M>(
  make: MakeModel<M>,
  named?: string | OpenOptions,
  given?: OpenOptions,
): Promise<M> {
  const isNamed = typeof named === "string";
  const source = isNamed ? named : DEFAULT_MODEL;
  const options = (isNamed ? given : named) ?? {};
  const parameters = openParameters(source, options);
  const { onProgress, signal } = options;
  const path = await resolveModelPath(source, {
    ...(signal ? { signal } : {}),
    onProgress: ({ received, total }) => {
      onProgress?.({ phase: "download", loadedBytes: received, totalBytes: total });
    },
  });
  return openOn(startWorker(), { ...parameters, path }, options, make);
}

/** `open` on a thread that is there already; it ends with the model, or when opening fails. */
export function openOn(
  thread: EngineThread,
  parameters: OpenParameters,
  options?: Pick<OpenOptions, "memory" | "onProgress" | "signal">,
): Promise<Model>;
export function openOn<M>(
  thread: EngineThread,
  parameters: OpenParameters,
  options: Pick<OpenOptions, "memory" | "onProgress" | "signal">,
  make: MakeModel<M>,
): Promise<M>;
export async function openOn(
  thread: EngineThread,
  parameters: OpenParameters,
  { memory, onProgress, signal }: Pick<OpenOptions, "memory" | "onProgress" | "signal"> = {},
  make: MakeModel<unknown> = (opened, info) => new Model(opened, info),
): Promise<unknown> {
  const startedAt = performance.now();
  const connection = new Connection(thread, memory instanceof SharedMemory ? memory : undefined);
  let onAbort = () => {};
  try {
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () =>
        reject(new MillraceError("ABORTED", "The caller's signal ended the opening of the model."));
      if (signal?.aborted) onAbort();
      signal?.addEventListener("abort", onAbort);
    });
    const { result } = connection.call("open", parameters, onProgress ? { onProgress } : {});
    const info = await connection.hold(Promise.race([result, aborted]));
    return make(connection, { ...info, loadMs: performance.now() - startedAt });
  } catch (error) {
    await connection.close(0);
    throw error;
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

/** What `open` was given, checked and with defaults. Throws INVALID_ARGUMENT. */
export function openParameters(source: string, options: OpenOptions): OpenParameters {
  refuseUnknown("open", options, OPEN_OPTIONS);
  if (typeof source !== "string" || source === "")
    throw invalid("source", source, "a path or hf:owner/repo/file");
  const threads = wholeNumber("threads", options.threads, 1, 1024);
  const context = wholeNumber("context", options.context, 1);
  if (options.onProgress !== undefined && typeof options.onProgress !== "function") {
    throw invalid("onProgress", options.onProgress, "a function");
  }
  checkSignal(options.signal);
  return {
    path: source,
    backend: oneOf("backend", options.backend, BACKENDS) ?? "auto",
    sequences: wholeNumber("sequences", options.sequences, 1, 256) ?? DEFAULT_SEQUENCES,
    cache: cacheSpec(options.cache),
    prefixCache: prefixCacheOf(options.prefixCache),
    ...(options.adapters === undefined ? {} : { adapters: adapterPaths(options.adapters) }),
    ...(threads === undefined ? {} : { threads }),
    ...(context === undefined ? {} : { context }),
    ...memoryOf(options.memory),
    ...(options.maxStall === undefined ? {} : { maxStallMs: parseDuration(options.maxStall, "maxStall") }),
  };
}

function memoryOf(memory: OpenOptions["memory"]): Pick<OpenParameters, "memoryBytes" | "sharedBytes"> {
  if (memory === undefined) return {};
  if (!(memory instanceof SharedMemory)) return { memoryBytes: parseBytes(memory) };
  return { memoryBytes: memory.partBytes, sharedBytes: memory.totalBytes };
}

function prefixCacheOf(given: OpenOptions["prefixCache"] = true): boolean | PrefixStore {
  if (typeof given === "boolean") return given;
  refuseUnknown("prefixCache", given, ["folder", "bytes", "disk"]);
  const { folder, bytes = PREFIX_BYTES, disk } = given;
  if (typeof folder !== "string" || folder === "") {
    throw invalid("prefixCache.folder", folder, "a folder to keep prefixes in");
  }
  return {
    folder,
    bytes: parseBytes(bytes, "prefixCache.bytes"),
    ...(disk === undefined ? {} : { diskBytes: parseBytes(disk, "prefixCache.disk") }),
  };
}

function adapterPaths(adapters: unknown): Readonly<Record<string, string>> {
  const isRecord = typeof adapters === "object" && adapters !== null && !Array.isArray(adapters);
  if (isRecord && Object.values(adapters).every((path) => typeof path === "string" && path !== "")) {
    return { ...(adapters as Record<string, string>) };
  }
  throw invalid("adapters", adapters, "folders of adapters by name");
}
