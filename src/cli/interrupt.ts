/** Ctrl-C. */

export const INTERRUPTED = 130;

/** Until disposed of, the first Ctrl-C calls `stop`, and a second one ends the program at once. */
export function onInterrupt(stop: () => void): Disposable {
  let asked = false;
  const listener = () => {
    if (asked) process.exit(INTERRUPTED);
    asked = true;
    stop();
  };
  process.on("SIGINT", listener);
  return {
    [Symbol.dispose]() {
      process.off("SIGINT", listener);
    },
  };
}
