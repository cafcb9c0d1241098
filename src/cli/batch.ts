/** `millrace batch`: a file of requests in, a file of answers out. */
import { readFile, realpath } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { Argument, Command, Option } from "commander";
import { Journal } from "../batch/journal.js";
import { readLines } from "../batch/lines.js";
import { AHEAD, type BatchResult, PAGE, runBatch } from "../batch/run.js";
import { MillraceError } from "../errors.js";
import { fileError } from "../formats/file.js";
import { Lock } from "../formats/lock.js";
import { batchAnswerer } from "../server/batch-answerer.js";
import { createServer } from "../server/create.js";
import { nameOfSource } from "../server/models.js";
import { onInterrupt } from "./interrupt.js";
import { openModel } from "./open-model.js";
import {
  addModelOptions,
  count,
  jsonOption,
  type ModelOptions,
  modelArgument,
  modelSource,
  openOptions,
} from "./options.js";
import { progressBar } from "./progress.js";
import { plural, say, writeJson } from "./terminal.js";

interface BatchCommandOptions extends ModelOptions {
  readonly output: string;
  readonly sequences: number;
  readonly json?: boolean;
}

const EXAMPLES = `
Each line of the input is a request in the format of OpenAI's batches:
  {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
   "body": {"model": "default",
            "messages": [{"role": "user", "content": "Hello"}]}}

Examples:
  millrace batch in.jsonl -o out.jsonl
  millrace batch in.jsonl model.gguf -o out.jsonl --sequences 32 --memory 8GiB

Answers come in the order in which they are ready; custom_id says whose each is.
A batch that was ended goes on where it stopped: give the same command again.
While it runs, OUTPUT.lock keeps other runs away from its file.
A line that cannot be answered gets a line that says why; the exit code is 0.`;

export function batchCommand(): Command {
  const command = new Command("batch")
    .summary("answer a file of requests")
    .description(
      "Answers every line of a file once: requests whose prompts begin alike run together, so that what they share is run " +
        "once, and those that generate most begin first.",
    )
    .addArgument(new Argument("<input>", "file of requests, one JSON object a line"))
    .addArgument(modelArgument())
    .addOption(
      new Option(
        "-o, --output <path>",
        "file of the answers; those that are in it already stay",
      ).makeOptionMandatory(),
    )
    .addOption(new Option("--sequences <n>", "requests that run at once").argParser(count).default(16))
    .addOption(jsonOption());
  return addModelOptions(command)
    .addHelpText("after", EXAMPLES)
    .action(async (input: string, named: string | undefined, options: BatchCommandOptions) => {
      await batch(input, modelSource(named), options);
    });
}

async function batch(input: string, source: string, options: BatchCommandOptions): Promise<void> {
  const { sequences, json = false } = options;
  const output = await truePath(options.output);
  if ((await truePath(input)) === output) {
    throw new MillraceError("INVALID_ARGUMENT", `${output} is the input; name another file for the answers.`);
  }
  const lines = readLines(await text(input));
  await using _lock = await Lock.take(output);
  await using journal = await Journal.open(output, lines);
  if (journal.answered.size > 0)
    say(`millrace: ${output} has ${journal.answered.size} of ${plural(lines.length, "answer")} already`);
  await using model = await openModel(source, { ...openOptions(options), sequences });
  const server = createServer([{ name: nameOfSource(source), model }]);
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  const bar = progressBar("answering", (total) => plural(total, "request"));
  const startedAt = performance.now();
  try {
    const result = await runBatch({
      lines,
      journal,
      answerer: batchAnswerer(server),
      concurrency: AHEAD * sequences,
      page: PAGE,
      signal: abort.signal,
      onProgress: (done, total) => bar.update(done, total),
    });
    const told = { ...result, seconds: (performance.now() - startedAt) / 1000 };
    bar.stop();
    if (json) await writeJson(told);
    else say(summary(told));
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    const message = `Interrupted. ${output} has what was answered until now; the same command goes on from there.`;
    throw new MillraceError("ABORTED", message, { output });
  } finally {
    bar.stop();
  }
}

/** The one path of what may be named in several ways; also of a file that is not there yet. */
async function truePath(path: string): Promise<string> {
  const real = async (one: string) => realpath(one).catch(() => resolve(one));
  return realpath(path).catch(async () => join(await real(dirname(path)), basename(path)));
}

async function text(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw fileError(path, error);
  }
}

function summary({
  lines,
  answered,
  failed,
  promptTokens,
  plannedSavedTokens,
  seconds,
}: BatchResult & { readonly seconds: number }): string {
  const saved = promptTokens === 0 ? 0 : (100 * plannedSavedTokens) / promptTokens;
  return (
    `${answered} of ${plural(lines, "line")} answered now, ${failed} with an error, in ${seconds.toFixed(1)} s; ` +
    `${saved.toFixed(0)} % of ${plural(promptTokens, "prompt token")} are shared prefixes that run once`
  );
}
