/** Lines that a person types, or that come through a pipe. */

import { createInterface } from "node:readline/promises";
import type { Readable, Writable } from "node:stream";

/** What came from standard input: a text, Ctrl-C, or the end. */
export type Entry =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "interrupt" }
  | { readonly kind: "end" };

export interface Lines extends Disposable {
  readonly interactive: boolean;
  next(): Promise<Entry>;
}

/** Lines of a paste come within this time of each other, in milliseconds; nobody types that fast. */
const PASTE_MS = 25;

/** Lines with editing and history. A paste of several lines is one text, and so is a line that ends with a backslash. */
export function terminalLines(input: Readable, output: Writable, prompt: string): Lines {
  let history: string[] = [];

  /**
   * One interface per text, closed while an answer runs: so the terminal is in its usual mode then, in which Ctrl-C
   * is a signal.
   */
  function next(): Promise<Entry> {
    const reader = createInterface({
      input,
      output,
      terminal: true,
      prompt,
      history: [...history],
      historySize: 200,
    });
    reader.on("history", (lines: string[]) => {
      history = lines;
    });
    return new Promise<Entry>((resolve) => {
      const lines: string[] = [];
      let timer: NodeJS.Timeout | undefined;
      const finish = (entry: Entry) => {
        clearTimeout(timer);
        resolve(entry);
        reader.close();
      };
      const settle = () => {
        // What stands behind a paste's last line break is still being written.
        if (reader.line !== "") return;
        if (lines.at(-1)?.endsWith("\\")) {
          reader.setPrompt("  ");
          reader.prompt();
          return;
        }
        finish({ kind: "text", text: lines.map((line) => line.replace(/\\$/, "")).join("\n") });
      };
      reader.on("line", (line) => {
        lines.push(line);
        clearTimeout(timer);
        timer = setTimeout(settle, PASTE_MS);
      });
      reader.on("SIGINT", () => {
        output.write("\n");
        finish({ kind: "interrupt" });
      });
      reader.on("close", () => finish({ kind: "end" }));
      reader.prompt();
    });
  }

  return { interactive: true, next, [Symbol.dispose]() {} };
}

/** Lines as they come; each is one text. */
export function pipedLines(input: Readable): Lines {
  const reader = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
  const lines = reader[Symbol.asyncIterator]();
  return {
    interactive: false,
    async next() {
      const { done, value } = await lines.next();
      return done ? { kind: "end" } : { kind: "text", text: value };
    },
    [Symbol.dispose]() {
      reader.close();
    },
  };
}
