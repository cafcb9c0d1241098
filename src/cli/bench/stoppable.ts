/** Long measurements: they say how far they are, and what was measured until they were stopped is not lost. */
import { onInterrupt } from "../interrupt.js";
import { say } from "../terminal.js";

/** A signal that Ctrl-C, or the end of the terminal's or a supervisor's patience, aborts. */
export function stoppable(): Disposable & { readonly signal: AbortSignal } {
  const stop = new AbortController();
  const interrupt = onInterrupt(() => {
    say("millrace: stopping, with what was measured so far; again to quit at once");
    stop.abort();
  }, ["SIGINT", "SIGTERM", "SIGHUP"]);
  return { signal: stop.signal, [Symbol.dispose]: () => interrupt[Symbol.dispose]() };
}

/** Passes on a line at most every so many milliseconds. */
export function seldom(everyMs = 5000): (line: () => string) => void {
  let last = performance.now();
  return (line) => {
    const now = performance.now();
    if (now - last < everyMs) return;
    last = now;
    say(line());
  };
}

/** Runs `part`, unless the measurement was stopped; what it throws because of that is of no interest. */
export async function unlessStopped(signal: AbortSignal, part: () => Promise<void>): Promise<void> {
  if (signal.aborted) return;
  try {
    await part();
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
