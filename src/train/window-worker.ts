/** Entry of the thread that makes windows: see window-thread.ts. */
import { parentPort, workerData } from "node:worker_threads";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import type { Window, WindowSource } from "./data.js";
import type { TrainingData } from "./training-data.js";
import type { SourceName, WindowAnswer, WindowRequest, WindowThreadData } from "./window-thread.js";

const { recipe, tokenizer: tokenizerSource } = workerData as WindowThreadData;
const made = import(recipe.module).then((module: Record<string, (options: unknown) => TrainingData>) =>
  module[recipe.make]!(recipe.options),
);
const tokenizer = resolveTokenizer(tokenizerSource)!;
const sources = new Map<string, Promise<WindowSource>>();

function sourceOf({ length, split }: SourceName): Promise<WindowSource> {
  const key = `${split} ${length}`;
  const known =
    sources.get(key) ?? made.then(async (data) => (await data.windows(tokenizer, length))[split]!);
  sources.set(key, known);
  return known;
}

const buffersOf = ({ tokens, targets, weights }: Window): ArrayBuffer[] =>
  [tokens, targets, ...(weights ? [weights] : [])].map(({ buffer }) => buffer as ArrayBuffer);

parentPort!.on("message", async ({ id, source, index }: WindowRequest) => {
  // Who asked makes it then, and meets the error there.
  const window = await sourceOf(source)
    .then((found) => found.window(index))
    .catch(() => null);
  parentPort!.postMessage({ id, window } satisfies WindowAnswer, window ? buffersOf(window) : []);
});
