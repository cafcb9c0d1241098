/** What to chat with where nobody said: the models that are at hand, and the question which. */
import { readdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join, sep } from "node:path";
import { MillraceError } from "../errors.js";
import { defaultCache } from "../formats/hub-options.js";
import { isModelFile } from "../formats/hub-source.js";
import { type Lines, terminalLines } from "./lines.js";
import { modelSource, namedModel } from "./options.js";
import { dim, oneLine, say } from "./terminal.js";

/**
 * The model that was named; where none was and a person sits at the terminal, the one that they choose. Throws
 * INVALID_ARGUMENT where there is nobody to ask, ABORTED where they leave (Ctrl-C, Ctrl-D).
 */
export async function modelSourceOrChoice(named: string | undefined, command: string): Promise<string> {
  const source = namedModel(named);
  if (source !== null) return source;
  if (!process.stdin.isTTY || !process.stderr.isTTY) return modelSource(named, command);
  const found = await findModels(".", defaultCache());
  say(listing(found));
  using lines = terminalLines(process.stdin, process.stderr, "Model: ");
  return askForModel(found, lines);
}

/**
 * Sources of the models at hand: GGUF files in `folder`, then in its `models`, then what has been downloaded into the
 * cache `hub` (completely, by the names to download it by). What cannot be read is passed over.
 */
export async function findModels(folder: string, hub: string): Promise<string[]> {
  const here = await names(folder);
  const models = await names(join(folder, "models"));
  return [
    ...here.filter(isModelFile).map((name) => join(folder, name)),
    ...models.filter(isModelFile).map((name) => join(folder, "models", name)),
    ...downloads(await names(hub, { recursive: true })),
  ];
}

/** Paths in the cache are owner/repo/revision/file; a listing beside the files vouches for what is complete. */
function downloads(paths: readonly string[]): string[] {
  const split = paths.map((path) => path.split(sep));
  const complete = new Set(
    split
      .filter((parts) => parts.length === 4 && parts[3] === ".listing.json")
      .map(([o, r, v]) => `${o}/${r}/${v}`),
  );
  return split.flatMap(([owner, repo, revision, ...inside]) => {
    if (!complete.has(`${owner}/${repo}/${revision}`) || inside.some((name) => name.startsWith(".")))
      return [];
    const isFolder = /^model\.safetensors(\.index\.json)?$/.test(inside.at(-1) ?? "");
    if (!isFolder && !isModelFile(inside.join("/"))) return [];
    const model = isFolder ? inside.slice(0, -1) : inside;
    return [[`hf:${owner}/${repo}${revision === "main" ? "" : `@${revision}`}`, ...model].join("/")];
  });
}

/** Sorted; none where there is no such folder. */
async function names(folder: string, options: { recursive?: boolean } = {}): Promise<string[]> {
  return (await readdir(folder, options).catch(() => [])).sort();
}

function listing(found: readonly string[]): string {
  const width = String(found.length).length;
  const rows = found.map((source, i) => `  ${String(i + 1).padStart(width)}  ${oneLine(source)}`);
  return found.length === 0
    ? `No model was named, and there is none here, in ./models or among the downloads.\n${dim(`Give ${HOW}`)}`
    : ["No model was named. At hand are:", ...rows, dim(`Give a number, ${HOW}`)].join("\n");
}

const HOW = "the path of a GGUF or safetensors model, or hf:owner/repo, which downloads it.";

/** Asks until the answer can be one. Throws ABORTED at Ctrl-C and at the end of input. */
export async function askForModel(found: readonly string[], lines: Lines): Promise<string> {
  for (;;) {
    const entry = await lines.next();
    if (entry.kind !== "text") throw new MillraceError("ABORTED", "No model was chosen.");
    const source = chosenModel(entry.text, found);
    if (source !== null) return source;
    if (entry.text.trim() !== "") say(`There is no number ${entry.text.trim()}.`);
  }
}

/** What `answer` means: a number of the list, else a source as it stands, with "~/" for the home folder. */
export function chosenModel(answer: string, found: readonly string[]): string | null {
  const text = answer.trim();
  if (/^\d+$/.test(text)) return found[Number(text) - 1] ?? null;
  if (text.startsWith("~/")) return join(homedir(), text.slice(2));
  return text === "" ? null : text;
}
