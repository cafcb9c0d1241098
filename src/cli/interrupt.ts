/** Ctrl-C. */

export const INTERRUPTED = 130;

/**
 * Until disposed of, the first Ctrl-C calls `stop`, and a second one ends the program at once. So do other signals, where
 * they are named.
 */
export function onInterrupt(stop: () => void, signals: readonly NodeJS.Signals[] = ["SIGINT"]): Disposable {
  let asked = false;
  const listener = () => {
    if (asked) process.exit(INTERRUPTED);
    asked = true;
    stop();
  };
  for (const signal of signals) process.on(signal, listener);
  return {
    [Symbol.dispose]() {
      for (const signal of signals) process.off(signal, listener);
    },
  };
}
