/**
 * Calls between marks, in or behind text: `<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>`. Hermes 2 Pro and
 * later, Qwen 2.5 and 3.
 */
import { callsIn, callTags, oneOrSeveral } from "./call.js";
import type { Parsed, ToolCall, ToolFormat, ToolParser } from "./contract.js";

const OPEN = "<tool_call>";
const CLOSE = "</tool_call>";

export const hermes: ToolFormat = {
  parser: createParser,
  calls: (tools, several) =>
    oneOrSeveral(callTags(tools, "arguments", `${OPEN}\n`, `\n${CLOSE}`), "\n", several),
  among: (tools, several) => ({
    type: "triggered_tags",
    triggers: [OPEN],
    tags: callTags(tools, "arguments", `${OPEN}\n`, `\n${CLOSE}`),
    at_least_one: false,
    stop_after_first: !several,
  }),
};

function createParser(names: ReadonlySet<string>): ToolParser {
  /** Text that may belong to a call, or the white space before one. */
  let held = "";
  const parse = (end: boolean): Parsed => {
    let text = "";
    const calls: ToolCall[] = [];
    for (;;) {
      const open = held.indexOf(OPEN);
      if (open < 0) {
        const safe = end ? held.length : firstPossible(held);
        text += held.slice(0, safe);
        held = held.slice(safe);
        return { text: calls.length > 0 && text.trim() === "" ? "" : text, calls };
      }
      const close = held.indexOf(CLOSE, open);
      if (close < 0 && !end) {
        text += held.slice(0, open).trimEnd();
        held = held.slice(open);
        return { text, calls };
      }
      const inner = held.slice(open + OPEN.length, close < 0 ? held.length : close);
      const behind = close < 0 ? held.length : close + CLOSE.length;
      const found = callsIn(inner, names);
      if (found) {
        calls.push(...found);
        text += held.slice(0, open).trimEnd();
      } else text += held.slice(0, behind);
      held = held.slice(behind);
    }
  };
  return {
    push(text) {
      held += text;
      return parse(false);
    },
    flush: () => parse(true),
  };
}

/** Where white space and the beginning of a mark at the end of `text` start. */
function firstPossible(text: string): number {
  let at = text.length;
  for (let length = Math.min(OPEN.length - 1, text.length); length > 0; length--) {
    if (OPEN.startsWith(text.slice(-length))) {
      at = text.length - length;
      break;
    }
  }
  return text.slice(0, at).trimEnd().length;
}
