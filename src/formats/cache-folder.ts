import { mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

/**
 * The user's folder for what can be fetched or made again: downloads, the compiled addon, bench models.
 * $MILLRACE_CACHE, else millrace in $XDG_CACHE_HOME, else in ~/.cache.
 */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  return (
    environment.MILLRACE_CACHE ?? join(environment.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "millrace")
  );
}

/**
 * Makes a folder and those above it that are missing; no error where it is there already. Node's own recursive
 * `mkdir` tries for ever in file systems that answer "no such entry" to every new name, such as /proc.
 */
export async function makeFolder(path: string, mode = 0o777): Promise<void> {
  const make = () =>
    mkdir(path, { mode }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  try {
    await make();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || dirname(path) === path) throw error;
    await makeFolder(dirname(path), mode);
    await make();
  }
}
