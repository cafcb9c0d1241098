/** `millrace chat`: a conversation, turn by turn. */
import { basename } from "node:path";
import { Command, Option } from "commander";
import { formatPolicy } from "../cache/policies/resolve.js";
import { formatBytes } from "../engine/bytes.js";
import type { GenerationResult } from "../engine/generation.js";
import { window } from "../engine/policies.js";
import type { ModelInfo } from "../engine/protocol.js";
import { type ErrorCode, MillraceError } from "../errors.js";
import { type SamplingOptions, validateSamplingOptions } from "../sampling/options.js";
import type { Model } from "../session/model.js";
import { answerJson, answerLine } from "./answer.js";
import { onInterrupt } from "./interrupt.js";
import { type Lines, pipedLines, terminalLines } from "./lines.js";
import { openModel } from "./open-model.js";
import {
  adapterOption,
  addModelOptions,
  addSamplingOptions,
  another,
  countOrEndless,
  type ModelOptions,
  modelArgument,
  modelSource,
  openOptions,
  samplingOptions,
} from "./options.js";
import { SessionTalk, type Talk, WholeTalk } from "./talk.js";
import { dim, plural, printable, say, write, writeJson } from "./terminal.js";

interface ChatOptions extends ModelOptions, SamplingOptions {
  readonly system?: string;
  readonly maxTokens?: number;
  readonly stop?: readonly string[];
  readonly json?: boolean;
  readonly session?: string;
}

const COMMANDS = `  /system TEXT  set the instructions before the conversation; alone, show them
  /stats        tokens, speeds and memory
  /reset        forget the conversation (instructions stay)
  /help         this list
  /exit         leave, as Ctrl-D does, or Ctrl-C twice
Ctrl-C stops an answer. A line that ends with \\ goes on in the next one; a paste
of several lines is one message.`;

const EXAMPLES = `
In the conversation:
${COMMANDS}

Where standard input is no terminal, each of its lines is a turn and only the
answers are printed.

With --session the conversation lives on in a file, of any length in bounded
memory: old tokens go as --cache says (default: what fits the model). The
file is whole at any moment, and holds all turns but the one under way.

Examples:
  millrace chat model.gguf --system "You are a pirate."
  millrace chat model.gguf --session harbour.mill
  printf 'Hello\\nAnd in French?\\n' | millrace chat hf:owner/repo --seed 1`;

export function chatCommand(): Command {
  const command = new Command("chat")
    .summary("talk with a model")
    .description("A conversation in the terminal, in the model's own chat template.")
    .addArgument(modelArgument())
    .optionsGroup("Conversation:")
    .addOption(new Option("--system <text>", "instructions that stand before the conversation"))
    .addOption(
      new Option(
        "--max-tokens <n>",
        'most tokens of one answer, or "inf" (default: what the context holds)',
      ).argParser(countOrEndless),
    )
    .addOption(new Option("--stop <text>", "end an answer before this text (repeatable)").argParser(another))
    .addOption(
      new Option(
        "--session <file>",
        "go on with the conversation in this file, and save it there after every turn",
      ),
    )
    .addOption(new Option("--json", "print each answer as one JSON object on a line"));
  addModelOptions(addSamplingOptions(command)).addHelpText("after", EXAMPLES);
  return command.action(async (named: string | undefined, options: ChatOptions) => {
    const chosen = command.getOptionValueSource("cache") !== "default";
    await chat(modelSource(named), options, chosen);
  });
}

/** `chosen`: the person named a cache policy. */
async function chat(source: string, options: ChatOptions, chosen: boolean): Promise<void> {
  const { session: path, cache, codec, system = null } = options;
  const sampling = samplingOptions(options);
  validateSamplingOptions(sampling, Number.MAX_SAFE_INTEGER);
  const opening = openOptions(options);
  // A session has pages of its own: the model's cache for requests stays as small as can be.
  const unused = { policy: window({ tokens: 16 }), codec };
  await using model = await openModel(source, path === undefined ? opening : { ...opening, cache: unused });
  if (model.info.tokenizer.kind === "none") {
    throw new MillraceError(
      "UNSUPPORTED_TOKENIZER",
      `${model.info.path} has no tokenizer, so there is no text to talk in; \`millrace run --tokens\` takes ids.`,
      { path: model.info.path },
    );
  }
  const interactive = process.stdin.isTTY === true && process.stdout.isTTY === true && !options.json;
  using lines = interactive ? terminalLines(process.stdin, process.stdout, "> ") : pipedLines(process.stdin);
  const talk =
    path === undefined
      ? new WholeTalk(model, system, adapterOption(options))
      : await SessionTalk.open(
          model,
          path,
          { cache: { ...(chosen ? { policy: cache } : {}), codec }, ...adapterOption(options) },
          system,
        );
  if (interactive) say(banner(model.info, path === undefined ? null : talk.describe()));
  try {
    await new Conversation(model, talk, sampling, options, lines).run();
  } finally {
    await talk.end();
  }
}

const FORMATS = {
  model: "the model's own",
  chatml: "ChatML, since the file has none",
  plain: 'plain "User:" and "Assistant:" lines, since the file has none',
};

/** `session`: what it holds, where the conversation is one. */
function banner(
  { path, architecture, backend, context, cache, tokenizer }: ModelInfo,
  session: string | null,
): string {
  const policy = formatPolicy(cache.policy);
  const room = policy === "full" ? plural(context, "token") : `${plural(context, "token")}, cache ${policy}`;
  return [
    `${basename(path)} (${architecture}; ${backend.description}; ${session ?? `context ${room}`})`,
    ...(cache.why === undefined || session !== null ? [] : [dim(cache.why)]),
    dim(`Chat template: ${FORMATS[tokenizer.chatFormat ?? "plain"]}`),
    dim("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves."),
    "",
  ].join("\n");
}

/** Failures of one turn, after which the conversation can go on. */
const TURN_ERRORS: readonly ErrorCode[] = [
  "PROMPT_TOO_LONG",
  "OUT_OF_BUDGET",
  "BAD_TEMPLATE",
  "BAD_LOGITS",
  "INVALID_ARGUMENT",
];

class Conversation {
  readonly #model: Model;
  readonly #sampling: SamplingOptions;
  readonly #options: ChatOptions;
  readonly #lines: Lines;
  readonly #talk: Talk;
  #last: GenerationResult | null = null;

  constructor(model: Model, talk: Talk, sampling: SamplingOptions, options: ChatOptions, lines: Lines) {
    this.#model = model;
    this.#talk = talk;
    this.#sampling = sampling;
    this.#options = options;
    this.#lines = lines;
  }

  /** Turn after turn, until the end of input, /exit, or Ctrl-C twice at the prompt. */
  async run(): Promise<void> {
    let interrupted = false;
    for (;;) {
      const entry = await this.#lines.next();
      if (entry.kind === "end") break;
      if (entry.kind === "interrupt") {
        if (interrupted) return;
        say(dim("Ctrl-C again, Ctrl-D or /exit leaves."));
        interrupted = true;
        continue;
      }
      interrupted = false;
      const text = entry.text.trim();
      if (text === "/exit" || text === "/quit") return;
      if (/^\/[a-z]+(\s|$)/.test(text)) await this.#command(text);
      else if (text !== "") await this.#turn(text);
    }
    if (this.#lines.interactive) await write("\n");
  }

  async #command(line: string): Promise<void> {
    const [, name, argument = ""] = /^\/([a-z]+)\s*(.*)$/s.exec(line)!;
    switch (name) {
      case "help":
        return say(COMMANDS);
      case "reset":
        await this.#talk.forget();
        return say(dim("The conversation is forgotten."));
      case "system":
        if (argument !== "") this.#talk.system = argument;
        return say(
          dim(
            this.#talk.system === null ? "There are no instructions." : `Instructions: ${this.#talk.system}`,
          ),
        );
      case "stats":
        return this.#stats();
      default:
        return say(`There is no command /${name}; /help lists them.`);
    }
  }

  async #stats(): Promise<void> {
    const { memory, backend } = this.#model.info;
    const last = this.#last;
    if (last) {
      say(`Last turn: ${answerLine(last)}`);
      say(`Conversation: ${this.#talk.describe(last)}`);
    } else say("No answer yet.");
    const { weightBytes, cacheBytes, scratchBytes } = memory;
    say(
      `Memory: weights ${formatBytes(weightBytes)}, cache ${formatBytes(cacheBytes)}, ` +
        `scratch ${formatBytes(scratchBytes)}; ${backend.description}`,
    );
  }

  async #turn(text: string): Promise<void> {
    try {
      const result = await this.#answer(text);
      this.#last = result;
      await this.#talk.heard(result);
    } catch (error) {
      const known = MillraceError.from(error);
      if (!TURN_ERRORS.includes(known.code)) throw error;
      await this.#refused(known);
    }
  }

  /** Streams the answer; Ctrl-C ends it, and what was said until then stays in the conversation. */
  async #answer(text: string): Promise<GenerationResult> {
    const { maxTokens, stop = [], json = false } = this.#options;
    const generation = await this.#talk.ask(text, {
      ...this.#sampling,
      stop,
      ...(maxTokens === undefined ? {} : { maxTokens }),
    });
    using _interrupt = onInterrupt(() => void generation.return());
    // Asked for before the iteration: an endless answer then keeps its text, which the conversation goes on from.
    const whole = generation.result;
    if (json) {
      const result = await whole;
      await writeJson(answerJson(result, this.#model.info));
      return result;
    }
    const terminal = process.stdout.isTTY === true;
    let first = true;
    for await (const piece of generation) {
      // Templates often leave the space after "Assistant:" to the model.
      const shown = first ? piece.text.trimStart() : piece.text;
      if (shown === "") continue;
      first = false;
      await write(terminal ? printable(shown) : shown);
    }
    await write("\n");
    const result = await whole;
    if (result.finishReason === "cache-full") say(`The answer ends here: ${this.#full()}`);
    else if (this.#lines.interactive) say(dim(`(${answerLine(result)})`));
    if (this.#lines.interactive) await write("\n");
    return result;
  }

  async #refused(error: MillraceError): Promise<void> {
    // Through a pipe nobody reads along: the exit code tells, too.
    if (!this.#lines.interactive) process.exitCode = error.exitCode;
    if (this.#options.json) await writeJson({ error: error.toJSON() });
    if (error.code === "PROMPT_TOO_LONG") {
      const { tokens } = error.details;
      say(`With this message the conversation has ${Number(tokens)} tokens: ${this.#full()}`);
    } else say(`millrace: ${error.code}: ${printable(error.message)}`);
    say("The message was not taken into the conversation.");
  }

  #full(): string {
    return (
      `the context of ${plural(this.#model.info.context, "token")} is full. /reset starts anew; --context N gives ` +
      "more room, and --cache window:N lets go of the oldest tokens instead."
    );
  }
}
