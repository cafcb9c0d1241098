import { homedir } from "node:os";
import { join } from "node:path";

/**
 * The user's folder for what can be fetched or made again: downloads, the compiled addon, bench models.
 * $MILLRACE_CACHE, else millrace in $XDG_CACHE_HOME, else in ~/.cache.
 */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  return (
    environment.MILLRACE_CACHE ?? join(environment.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "millrace")
  );
}
