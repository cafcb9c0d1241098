import os from "node:os";
import { MillraceError } from "../../errors.js";

const MAX_THREADS = 256;
/** Smaller allocations are left to the system. */
const LARGE = 2 ** 26;

/** Throws INVALID_ARGUMENT for a number of threads that cannot be meant. */
export function checkThreads(threads: number): void {
  if (Number.isInteger(threads) && threads >= 1 && threads <= MAX_THREADS) return;
  throw new MillraceError("INVALID_ARGUMENT", `Got ${threads} threads; expected 1 to ${MAX_THREADS}.`, {
    threads,
  });
}

/**
 * Systems grant memory that they do not have and end the process when it is used. So a large request is held
 * against what is free, and against the limit of the container. Throws OUT_OF_BUDGET with both numbers, and
 * INVALID_ARGUMENT for a length that is none.
 */
export function refuseBeyondFree(byteLength: number): void {
  if (!Number.isSafeInteger(byteLength) || byteLength < 0) {
    throw new MillraceError("INVALID_ARGUMENT", `Cannot allocate ${byteLength} bytes; a length is wanted.`);
  }
  if (byteLength < LARGE) return;
  const constrained = process.constrainedMemory();
  const limit = constrained > 0 ? Math.min(os.freemem(), constrained) : os.freemem();
  if (byteLength <= limit) return;
  throw new MillraceError(
    "OUT_OF_BUDGET",
    `${byteLength} bytes were asked for and ${limit} are free; use a smaller model or a smaller cache.`,
    { byteLength, freeBytes: limit },
  );
}
