/**
 * What was found out about a model's kv heads, in a file beside it: scores that were measured (`measureHeads`) and gates
 * that were trained (`trainGates` of the trainer), so that either is done once.
 */
import { createHash } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { HeadGates, HeadScores, ModelHeads } from "../cache/policies/split.js";
import { cacheFolder, makeFolder } from "../formats/cache-folder.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape } from "../tape/tape.js";
import { identify } from "./identity.js";

const FORMAT = "millrace-heads-2";

/** What the file holds: either part may be missing. */
interface Stored {
  readonly format: typeof FORMAT;
  /** Of the model that they are of: `identify`. */
  readonly model: string;
  readonly scores?: HeadScores;
  readonly gates?: HeadGates;
}

/** What is stored for this checkpoint; null where there is nothing of its shape, or only that of another model. */
export async function readHeads(checkpoint: Checkpoint, { kv }: Pick<Tape, "kv">): Promise<ModelHeads> {
  let [scores, gates]: [HeadScores | null, HeadGates | null] = [null, null];
  for (const stored of await readAll(checkpoint)) {
    const { echo, induction } = stored.scores ?? {};
    if (hasShape(echo, kv) && hasShape(induction, kv)) scores ??= { echo, induction };
    if (hasShape(stored.gates, kv)) gates ??= stored.gates;
  }
  return { scores, gates };
}

/**
 * Stores what was found beside the model or, where that cannot be written, in the user's cache folder, together with
 * what of the other kind was stored before. Returns the file.
 */
export async function storeHeads(checkpoint: Checkpoint, found: Partial<ModelHeads>): Promise<string> {
  const { model } = await identify(checkpoint);
  const before = Object.assign({}, ...(await readAll(checkpoint)).toReversed()) as Partial<Stored>;
  const { scores = before.scores, gates = before.gates } = found;
  const stored: Stored = { format: FORMAT, model, ...(scores && { scores }), ...(gates && { gates }) };
  const [beside, fallback] = placesOf(checkpoint);
  try {
    await writeWhole(beside, JSON.stringify(stored));
    return beside;
  } catch {
    await makeFolder(dirname(fallback));
    await writeWhole(fallback, JSON.stringify(stored));
    return fallback;
  }
}

/** Files that are there for this very model. */
async function readAll(checkpoint: Checkpoint): Promise<Partial<Stored>[]> {
  const { model } = await identify(checkpoint);
  const found: Partial<Stored>[] = [];
  for (const path of placesOf(checkpoint)) {
    try {
      const stored = JSON.parse(await readFile(path, "utf8")) as Partial<Stored> | null;
      if (stored?.format === FORMAT && stored.model === model) found.push(stored);
    } catch {
      // Not there, or not ours: it can be found out again.
    }
  }
  return found;
}

async function writeWhole(path: string, text: string): Promise<void> {
  const draft = `${path}.${process.pid}.tmp`;
  await writeFile(draft, text);
  await rename(draft, path);
}

function placesOf({ path, fileBytes }: Checkpoint): [beside: string, fallback: string] {
  const name = createHash("sha256").update(`${fileBytes} ${path}`).digest("hex").slice(0, 32);
  return [`${path.replace(/[/\\]+$/, "")}.heads.json`, join(cacheFolder(), "heads", `${name}.json`)];
}

function hasShape(scores: unknown, kv: Tape["kv"]): scores is number[][] {
  return (
    Array.isArray(scores) &&
    scores.length === kv.length &&
    scores.every(
      (heads: unknown, layer) =>
        Array.isArray(heads) &&
        heads.length === kv[layer]!.numKvHeads &&
        heads.every((score: unknown) => typeof score === "number" && Number.isFinite(score)),
    )
  );
}
