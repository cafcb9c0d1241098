/** `millrace run`: one prompt in, its continuation out. */
import { readFile } from "node:fs/promises";
import { buffer } from "node:stream/consumers";
import { Command, Option } from "commander";
import type { Generation } from "../engine/generation.js";
import type { GenerateOptions, Model } from "../engine/model.js";
import { MillraceError } from "../errors.js";
import { fileError } from "../formats/file.js";
import { type AnswerFormat, checkedFormat } from "../sampling/grammar/format.js";
import { type SamplingOptions, validateSamplingOptions } from "../sampling/options.js";
import type { ChatMessage } from "../tokenizer/chat.js";
import { answerJson, answerLine } from "./answer.js";
import { INTERRUPTED, onInterrupt } from "./interrupt.js";
import { openModel } from "./open-model.js";
import {
  adapterOption,
  addModelOptions,
  addSamplingOptions,
  another,
  countOrEndless,
  decimal,
  jsonOption,
  type ModelOptions,
  modelArgument,
  modelSource,
  openOptions,
  samplingOptions,
  tokenIds,
} from "./options.js";
import { dim, printable, say, write, writeJson } from "./terminal.js";

interface RunOptions extends ModelOptions, SamplingOptions {
  readonly prompt?: string;
  readonly tokens?: readonly number[];
  readonly file?: string;
  readonly chat?: boolean;
  readonly system?: string;
  readonly maxTokens?: number;
  readonly stop?: readonly string[];
  readonly ignoreEos?: boolean;
  readonly jsonSchema?: string;
  readonly grammar?: string;
  readonly json?: boolean;
}

type Prompt = string | readonly number[] | readonly ChatMessage[];

const EXAMPLES = `
Examples:
  millrace run model.gguf --prompt "Once upon a time" --max-tokens 200
  millrace run model.gguf --chat --prompt "Why is the sky blue?"
  git diff | millrace run hf:owner/repo --system "Summarise this change."
  millrace run model.gguf --tokens 1,15043 --json
  millrace run model.gguf --chat --file letter.txt --json-schema invoice.json
  millrace run model.gguf --prompt "The sea" --cache window:1024 \\
    --max-tokens inf --ignore-eos

Exit codes: 0 done, 2 wrong usage, 3 no such file, 4 unusable file, 5 download,
6 backend, 7 does not fit, 130 Ctrl-C, 8 to 10 the engine failed.`;

export function runCommand(): Command {
  const command = new Command("run")
    .summary("continue a prompt")
    .description(
      "Continues a prompt: --prompt, --tokens, --file, or what comes on standard input (less one line break at its " +
        "end). Text streams to standard output until the model ends it, --max-tokens are generated, the context is " +
        "full, or Ctrl-C.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Prompt and answer:")
    .addOption(new Option("--prompt <text>", "text to continue").conflicts(["tokens", "file"]))
    .addOption(
      new Option("--tokens <ids>", "token ids to continue, run as they are: 1,15043,29892")
        .argParser(tokenIds)
        .conflicts(["file"]),
    )
    .addOption(new Option("--file <path>", "read the prompt from a file; - is standard input"))
    .addOption(new Option("--chat", "the prompt is a question: put it into the model's chat template"))
    .addOption(
      new Option("--system <text>", "instructions for the model; implies --chat").implies({ chat: true }),
    )
    .addOption(
      new Option(
        "--max-tokens <n>",
        'most tokens to generate, or "inf" (default: what the context holds)',
      ).argParser(countOrEndless),
    )
    .addOption(new Option("--stop <text>", "end before this text (repeatable)").argParser(another))
    .addOption(new Option("--ignore-eos", "go on past the model's end tokens"))
    .addOption(
      new Option(
        "--json-schema <path>",
        "hold the answer to JSON that fits the schema in this file",
      ).conflicts(["grammar", "ignoreEos"]),
    )
    .addOption(
      new Option(
        "--grammar <path>",
        "hold the answer to the grammar in this file, in EBNF from root on",
      ).conflicts(["ignoreEos"]),
    )
    .addOption(
      new Option("--logprobs <n>", "with --json: log-probabilities of each token and of n others").argParser(
        decimal,
      ),
    )
    .addOption(jsonOption());
  addModelOptions(addSamplingOptions(command)).addHelpText("after", EXAMPLES);
  return command.action(async (named: string | undefined, options: RunOptions) => {
    await run(modelSource(named), options);
  });
}

async function run(source: string, options: RunOptions): Promise<void> {
  const sampling = samplingOptions(options);
  validateSamplingOptions(sampling, Number.MAX_SAFE_INTEGER);
  const prompt = await readPrompt(options);
  const format = await readFormat(options);
  const { maxTokens, stop = [], ignoreEos = false, json = false } = options;
  await using model = await openModel(source, openOptions(options));
  const generation = model.generate(prompt, {
    ...sampling,
    stop,
    ignoreEos,
    ...adapterOption(options),
    ...(maxTokens === undefined ? {} : { maxTokens }),
    ...(format && { format }),
  } satisfies GenerateOptions);
  using _interrupt = onInterrupt(() => {
    process.exitCode = INTERRUPTED;
    void generation.return();
  });
  if (json) await writeJson(answerJson(await generation.result, model.info));
  else await stream(generation, model);
}

async function stream(generation: Generation, model: Model): Promise<void> {
  const terminal = process.stdout.isTTY === true;
  const hasText = model.info.tokenizer.kind !== "none";
  let last = "\n";
  for await (const piece of generation) {
    // Without a tokenizer, ids are all there is to show.
    const text = hasText ? piece.text : `${piece.tokens.join(" ")} `;
    last = text.at(-1) ?? last;
    await write(terminal ? printable(text) : text);
  }
  if (last !== "\n") await write("\n");
  const result = await generation.result;
  if (process.stderr.isTTY) say(dim(answerLine(result)));
}

/** Throws INVALID_ARGUMENT where there is no prompt or one that is no text, FILE_NOT_FOUND. */
async function readPrompt({ prompt, tokens, file, chat, system }: RunOptions): Promise<Prompt> {
  if (tokens !== undefined) {
    if (!chat) return tokens;
    throw new MillraceError(
      "INVALID_ARGUMENT",
      "--chat and --system need a text; --tokens are run as they are.",
    );
  }
  const text = prompt ?? (await readText(file));
  if (!chat) return text;
  const question = { role: "user", content: text };
  return system === undefined ? [question] : [{ role: "system", content: system }, question];
}

/** Throws FILE_NOT_FOUND, INVALID_ARGUMENT for a schema that is no JSON. */
async function readFormat({ jsonSchema, grammar }: RunOptions): Promise<AnswerFormat | null> {
  const path = jsonSchema ?? grammar;
  if (path === undefined) return null;
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    throw fileError(path, error);
  });
  if (jsonSchema === undefined) return checkedFormat({ type: "grammar", ebnf: text });
  let schema: unknown;
  try {
    schema = JSON.parse(text);
  } catch (cause) {
    const reason = (cause as Error).message;
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `${path} is no JSON (${reason}); expected a JSON Schema.`,
      { name: "json-schema", reason },
      { cause },
    );
  }
  return checkedFormat({ type: "json-schema", schema });
}

async function readText(file: string | undefined): Promise<string> {
  if (file === undefined && process.stdin.isTTY) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      "There is no prompt. Give --prompt TEXT, --tokens IDS or --file PATH, or pipe text in.",
      { name: "prompt" },
    );
  }
  const bytes =
    file === undefined || file === "-"
      ? await buffer(process.stdin)
      : await readFile(file).catch((error: unknown) => {
          throw fileError(file, error);
        });
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.replace(/\r?\n$/, "");
  } catch (cause) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `The prompt (${file === undefined || file === "-" ? "standard input" : file}) is not UTF-8 text.`,
      { name: "prompt" },
      { cause },
    );
  }
}
