/** Calls without marks: the whole answer is JSON, objects or lists of them one after another. */
import { callsIn, jsonEnd } from "./call.js";
import type { Parsed, ToolCall, ToolParser } from "./contract.js";

/**
 * `marks`: texts that may stand before the first call and say no more than that one follows; `close`: one that may stand
 * behind the last.
 */
export function bareParser(names: ReadonlySet<string>, marks: readonly string[], close = ""): ToolParser {
  let held = "";
  /** The answer is text from here on. */
  let isText = false;
  let called = false;
  const parse = (end: boolean): Parsed => {
    const calls: ToolCall[] = [];
    while (!isText) {
      const begin = called ? next(held, close) : first(held, marks);
      if (begin === "unknown" && !end) break;
      if (begin === "unknown" || begin === "text") isText = !(called && ["", close].includes(held.trim()));
      if (typeof begin === "string") break;
      const length = jsonEnd(held.slice(begin));
      if (length < 0) {
        isText = end;
        break;
      }
      const found = callsIn(held.slice(begin, begin + length), names);
      if (!found) {
        isText = true;
        break;
      }
      calls.push(...found);
      called = true;
      held = held.slice(begin + length);
    }
    if (!isText) return { text: "", calls };
    const text = held;
    held = "";
    return { text, calls };
  };
  return {
    push(text) {
      held += text;
      return parse(false);
    },
    flush: () => parse(true),
  };
}

type Start = number | "text" | "unknown";

/** Where JSON begins in an answer: its place; "text": nowhere, whatever follows; "unknown" yet. */
function first(text: string, marks: readonly string[]): Start {
  const rest = text.trimStart();
  if (marks.some((mark) => mark.length > rest.length && mark.startsWith(rest))) return "unknown";
  const mark = marks.find((each) => rest.startsWith(each)) ?? "";
  return at(text, text.length - rest.slice(mark.length).trimStart().length);
}

/** Likewise behind a call. */
function next(text: string, close: string): Start {
  const rest = text.replace(/^[\s;,]+/, "");
  return close.startsWith(rest.trimEnd()) ? "unknown" : at(text, text.length - rest.length);
}

function at(text: string, place: number): Start {
  if (place === text.length) return "unknown";
  return text[place] === "{" || text[place] === "[" ? place : "text";
}
