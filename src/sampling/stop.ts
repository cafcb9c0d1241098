import { MillraceError } from "../errors.js";

/**
 * Watches streamed text for stop strings. The answer ends with the first stop string to be complete, however the text
 * is cut into pieces; nothing of it is ever let through, and text that may be its beginning is held back.
 */
export interface StopMatcher {
  /** Text that may be shown now; `stopped`: it is the last, since a stop string follows it. */
  push(text: string): { readonly text: string; readonly stopped: boolean };
  /** The end came without a stop string: the text that was held back. */
  flush(): string;
  /** The text that is held back: pushed to a fresh matcher of the same strings, it makes that one go on as this. */
  readonly held: string;
}

/** Throws INVALID_ARGUMENT for anything but a list of non-empty texts. */
export function createStopMatcher(stops: readonly string[]): StopMatcher {
  if (!Array.isArray(stops) || stops.some((stop) => typeof stop !== "string" || stop === "")) {
    const got = JSON.stringify(stops) ?? String(stops);
    const expected = "a list of texts of at least one character";
    throw new MillraceError("INVALID_ARGUMENT", `stop is ${got}; expected ${expected}.`, {
      name: "stop",
      got,
      expected,
    });
  }
  const longest = Math.max(0, ...stops.map((stop) => stop.length));
  let held = "";
  let stopped = false;

  return {
    push(text) {
      if (stopped) return { text: "", stopped };
      const all = held + text;
      let end = Infinity;
      let start = -1;
      for (const stop of stops) {
        const at = all.indexOf(stop);
        if (at < 0) continue;
        const behind = at + stop.length;
        if (behind < end || (behind === end && at < start)) {
          end = behind;
          start = at;
        }
      }
      if (start >= 0) {
        held = "";
        stopped = true;
        return { text: all.slice(0, start), stopped };
      }
      const from = firstPossibleStart(all, stops, longest);
      held = all.slice(from);
      return { text: all.slice(0, from), stopped };
    },
    get held() {
      return held;
    },
    flush() {
      const text = held;
      held = "";
      return text;
    },
  };
}

/** Where the longest end of `text` that a stop string begins with starts. */
function firstPossibleStart(text: string, stops: readonly string[], longest: number): number {
  for (let at = Math.max(0, text.length - longest + 1); at < text.length; at++) {
    const rest = text.slice(at);
    if (stops.some((stop) => stop.startsWith(rest))) return at;
  }
  return text.length;
}
