/** How to reach the hub, and where to keep what comes from it. */
import { join } from "node:path";
import { cacheFolder } from "./cache-folder.js";

export interface HubProgress {
  /** Path in the repository of the file that is arriving. */
  readonly file: string;
  /** Bytes here, of all files of the model; what was cached counts. */
  readonly received: number;
  readonly total: number;
}

export interface HubOptions {
  /** Folder of the cache. Default: $MILLRACE_CACHE/hub, else $XDG_CACHE_HOME/millrace/hub, else ~/.cache/millrace/hub. */
  readonly cache?: string;
  /** Default: $HF_ENDPOINT, else the public hub. */
  readonly endpoint?: string;
  /** Default: $HF_TOKEN. Sent to the endpoint only, never to the storage it redirects to. */
  readonly token?: string;
  /** Ask the hub also for what is cached, and fetch what has changed. Default false: the cache answers alone. */
  readonly refresh?: boolean;
  readonly onProgress?: (progress: HubProgress) => void;
  readonly signal?: AbortSignal;
  /** Attempts after one that brought nothing new. Default 4. */
  readonly retries?: number;
  /** Pause before the first of them, doubled for each next. Default 500. */
  readonly retryDelayMs?: number;
}

/** The cache folder that the environment names. */
export function defaultCache(environment: NodeJS.ProcessEnv = process.env): string {
  return join(cacheFolder(environment), "hub");
}
