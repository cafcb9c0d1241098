/** Standard output and error as commands use them. */
import { once } from "node:events";

/**
 * Ends the program quietly when whoever reads standard output has had enough (`| head`); a closed standard error
 * matters to nobody. Where standard output cannot be written otherwise, say a full disk, it says so and ends with 1.
 */
export function endWithReader(): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    say(`millrace: standard output cannot be written: ${error.message}`);
    process.exit(1);
  });
  process.stderr.on("error", () => {});
}

/** Writes `text` to standard output; resolves when there is room for more. */
export async function write(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, "drain");
}

/** One JSON value, on one line. */
export function writeJson(value: unknown): Promise<void> {
  return write(`${JSON.stringify(value)}\n`);
}

/** A line for people, on standard error. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/**
 * `text` without control characters other than line breaks and tabs, which could make a terminal do anything: models
 * and files are not to be trusted with that.
 */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, (c) => (c === "\n" || c === "\t" ? c : "\ufffd"));
}

/** As `printable`, on one line. */
export function oneLine(text: string): string {
  return printable(text).replace(/[\n\t]/g, " ");
}

/** Faint on a terminal that has colours. */
export function dim(text: string, stream: NodeJS.WriteStream = process.stderr): string {
  return stream.isTTY && stream.hasColors() ? `\u001b[2m${text}\u001b[22m` : text;
}

export function bold(text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return stream.isTTY && stream.hasColors() ? `\u001b[1m${text}\u001b[22m` : text;
}

/** Rows with their columns aligned, each to the left or right, two spaces between and `indent` before. */
export function table(
  rows: readonly (readonly string[])[],
  align: readonly ("left" | "right")[],
  indent = "  ",
): string {
  const widths = align.map((_, c) => Math.max(0, ...rows.map((row) => row[c]?.length ?? 0)));
  const line = (row: readonly string[]) =>
    row.map((cell, c) => (align[c] === "right" ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)));
  return rows.map((row) => (indent + line(row).join("  ")).trimEnd()).join("\n");
}

/** Lines no wider than the terminal, the rest of each cut off; as they are where standard output is no terminal. */
export function cut(lines: string): string {
  const { isTTY, columns } = process.stdout;
  if (!isTTY || !columns) return lines;
  const fit = (line: string) => (line.length > columns ? `${line.slice(0, columns - 1)}…` : line);
  return lines.split("\n").map(fit).join("\n");
}

/** `count` things in words: "1 thread", "2 threads". */
export function plural(count: number, thing: string): string {
  return `${count.toLocaleString("en-US")} ${thing}${count === 1 ? "" : "s"}`;
}
