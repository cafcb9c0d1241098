/** Arguments and options that several commands share, the parsing of their values, and what they mean to the API. */
import { Argument, type Command, InvalidArgumentError, Option } from "commander";
import type { BackendName } from "../backends/contract.js";
import type { CodecName } from "../cache/codecs/contract.js";
import { type PolicySpec, parsePolicy } from "../cache/policies/resolve.js";
import type { OpenOptions } from "../engine/open.js";
import { full } from "../engine/policies.js";
import { MillraceError } from "../errors.js";
import { DEFAULT_MODEL } from "../formats/boxed.js";
import { SAMPLING_OPTION_NAMES, type SamplingOptions } from "../sampling/options.js";

/** A whole number of at least 1. */
export function count(text: string): number {
  const value = wholeOrNaN(text);
  if (!(value >= 1)) throw new InvalidArgumentError("expected a whole number of at least 1.");
  return value;
}

/** Any number; its range is checked where it is used. */
export function decimal(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (Number.isNaN(value)) throw new InvalidArgumentError("expected a number.");
  return value;
}

/** A whole number of at least 1, or "inf". */
export function countOrEndless(text: string): number {
  if (/^inf(inity)?$/i.test(text)) return Number.POSITIVE_INFINITY;
  const value = wholeOrNaN(text);
  if (!(value >= 1)) throw new InvalidArgumentError('expected a whole number of at least 1, or "inf".');
  return value;
}

/** Token ids with commas or spaces between them, in brackets or not. */
export function tokenIds(text: string): number[] {
  const parts = text.replace(/^\s*\[|\]\s*$/g, "").split(/[\s,]+/);
  const ids = parts.filter((part) => part !== "").map(wholeOrNaN);
  if (ids.length === 0 || ids.some(Number.isNaN)) {
    throw new InvalidArgumentError("expected token ids with commas between them, such as 1,15043,29892.");
  }
  return ids;
}

/** "ID=BIAS" pairs with commas between them, added to those of earlier uses of the option. */
export function logitBias(text: string, earlier: Record<number, number> = {}): Record<number, number> {
  const biases = { ...earlier };
  for (const pair of text.split(",")) {
    const [, id, bias] = /^\s*(\d+)\s*=\s*(\S+)\s*$/.exec(pair) ?? [];
    const value = /^-inf(inity)?$/i.test(bias ?? "") ? Number.NEGATIVE_INFINITY : Number(bias ?? Number.NaN);
    if (id === undefined || Number.isNaN(value)) {
      throw new InvalidArgumentError("expected ID=BIAS, such as 29871=-2.5; a bias of -inf bans the token.");
    }
    biases[Number(id)] = value;
  }
  return biases;
}

/** A cache policy as `parsePolicy` reads it. */
export function policySpec(text: string): PolicySpec {
  try {
    return parsePolicy(text);
  } catch (error) {
    if (!(error instanceof MillraceError)) throw error;
    throw new InvalidArgumentError(error.message);
  }
}

/** One more text of an option that may be given several times. */
export const another = (text: string, earlier: readonly string[] = []): string[] => [...earlier, text];

function wholeOrNaN(text: string): number {
  const value = /^\s*\d+\s*$/.test(text) ? Number(text) : Number.NaN;
  return Number.isSafeInteger(value) ? value : Number.NaN;
}

/** The model; optional, since one comes in the box: see `modelSource`. */
export const modelArgument = (): Argument =>
  new Argument(
    "[model]",
    "GGUF file, safetensors file or folder, or hf:owner/repo[/file] (default: $MILLRACE_MODEL, else boxed:harbour)",
  );

export const backendOption = (): Option =>
  new Option("--backend <name>", "where the arithmetic runs")
    .choices(["auto", "native", "wasm", "reference"])
    .default("auto");

export const threadsOption = (): Option =>
  new Option("--threads <n>", "threads that compute (default: all cores)").argParser(count);

export const jsonOption = (): Option => new Option("--json", "print one JSON object on standard output");

/** What `addModelOptions` yields. */
export interface ModelOptions {
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly context?: number;
  readonly memory?: string;
  readonly cache: PolicySpec;
  readonly codec: CodecName;
  readonly adapter?: string;
}

/** Adds the options of opening a model. */
export function addModelOptions(command: Command): Command {
  return command
    .optionsGroup("Machine and memory:")
    .addOption(
      new Option(
        "--adapter <folder>",
        "a LoRA or PaCA adapter of the model, as finetune and PEFT write them",
      ),
    )
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(
      new Option(
        "--context <tokens>",
        "most tokens, prompt and answer (default: the model's own, at most 8192)",
      ).argParser(count),
    )
    .addOption(
      new Option("--memory <size>", 'hard limit on all that is allocated, such as "4 GiB" (default: none)'),
    )
    .addOption(
      new Option(
        "--cache <policy>",
        '"full" keeps all tokens; for endless streams "window:N" the last N, "sinks:window=N,sinks=4" the first 4 too',
      )
        .argParser(policySpec)
        .default(full(), "full"),
    )
    .addOption(
      new Option("--codec <name>", "how keys and values are kept")
        .choices(["f32", "f16", "int8"])
        .default("f16"),
    );
}

/** The API's words for them, for one request at a time. */
export function openOptions(options: ModelOptions): OpenOptions & { readonly sequences: number } {
  const { backend, threads, context, memory, cache, codec, adapter } = options;
  return {
    backend,
    sequences: 1,
    cache: { policy: cache, codec },
    ...(threads === undefined ? {} : { threads }),
    ...(context === undefined ? {} : { context }),
    ...(memory === undefined ? {} : { memory }),
    ...(adapter === undefined ? {} : { adapters: { [adapter]: adapter } }),
  };
}

/** The part of a request that names the adapter that `openOptions` opens. */
export function adapterOption({ adapter }: ModelOptions): { readonly adapter?: string } {
  return adapter === undefined ? {} : { adapter };
}

/**
 * Adds the options of sampling. Unlike the API, whose default is greedy, a person who runs a model wants it lively:
 * temperature 0.8, among tokens at least a twentieth as probable as the best.
 */
export function addSamplingOptions(command: Command): Command {
  const number = (flags: string, description: string) => new Option(flags, description).argParser(decimal);
  return command
    .optionsGroup("Sampling:")
    .addOption(
      number("--temperature <t>", "0: always the most probable token; higher: more surprising").default(0.8),
    )
    .addOption(number("--seed <n>", "start of the random sequence, for an answer that can be repeated"))
    .addOption(number("--top-k <k>", "draw among the k most probable tokens"))
    .addOption(number("--top-p <p>", "draw among the fewest tokens whose probabilities reach p"))
    .addOption(
      number("--min-p <p>", "draw among tokens at least p times as probable as the best").default(0.05),
    )
    .addOption(number("--typical-p <p>", "draw among the most typical tokens, up to probability p"))
    .addOption(
      number("--repetition-penalty <x>", "above 1: make tokens of the last --penalty-window less likely"),
    )
    .addOption(number("--presence-penalty <x>", "subtract x from the logits of tokens that stand there"))
    .addOption(number("--frequency-penalty <x>", "subtract x for each time that they stand there"))
    .addOption(number("--penalty-window <n>", "tokens that the penalties look at (default: 64)"))
    .addOption(
      new Option("--logit-bias <id=bias>", "add to a token's logit; -inf bans it (repeatable)").argParser(
        logitBias,
      ),
    );
}

/** Those of `flags` that are sampling options, under the API's names. */
export function samplingOptions(flags: SamplingOptions): SamplingOptions {
  const given = SAMPLING_OPTION_NAMES.filter((name) => flags[name] !== undefined);
  return Object.fromEntries(given.map((name) => [name, flags[name]]));
}

/** The model that was named, on the command line or in the environment; else the one that comes in the box. */
export function modelSource(named: string | undefined): string {
  return named || process.env.MILLRACE_MODEL || DEFAULT_MODEL;
}
