/** The options that all commands share that train something. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { BackendName } from "../../backends/contract.js";
import { MillraceError } from "../../errors.js";
import { type LengthShare, parseLengths } from "../../train/lengths.js";
import type { LoopOptions } from "../../train/loop-options.js";
import type { MemoryMode } from "../../train/network.js";
import type { OptimiserName } from "../../train/optimisers/contract.js";
import { OPTIMISER_NAMES } from "../../train/optimisers/resolve.js";
import { DECAYS, type Decay } from "../../train/rate.js";
import { backendOption, count, decimal, jsonOption, threadsOption } from "../options.js";

/** What `addLoopOptions` yields. */
export interface LoopFlags {
  readonly steps?: number;
  readonly tokens?: number;
  readonly length: readonly LengthShare[];
  readonly batch: number;
  readonly micro: number;
  readonly optimiser: OptimiserName;
  readonly weightDecay?: number;
  readonly rate?: number;
  readonly warmup?: number;
  readonly decay: Decay;
  readonly finalRate?: number;
  readonly clip: number;
  readonly seed: number;
  readonly evaluate: number;
  readonly evaluateWindows: number;
  readonly checkpoint?: string;
  readonly every: number;
  readonly resume?: boolean;
  readonly memory: MemoryMode;
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly log?: string;
  readonly curve?: string;
  readonly json?: boolean;
}

/** Adds them to a command; `defaults` as they are told to people, save the optimiser. */
export function addLoopOptions(
  command: Command,
  defaults: { readonly optimiser: OptimiserName; readonly rate: string; readonly base: string },
): Command {
  const option = (flags: string, description: string) => new Option(flags, description);
  return command
    .optionsGroup("Training:")
    .addOption(option("--steps <n>", "updates of the weights").argParser(count).conflicts("tokens"))
    .addOption(option("--tokens <n>", "tokens to train on, whole steps of --batch").argParser(count))
    .addOption(
      option("--length <tokens>", "tokens of a window, or several with their shares: 256:0.7,1024:0.3")
        .argParser(lengths)
        .default([{ length: 256, share: 1 }], "256"),
    )
    .addOption(option("--batch <tokens>", "tokens of a step").argParser(count).default(8192))
    .addOption(option("--micro <tokens>", "tokens that are computed at once").argParser(count).default(4096))
    .addOption(
      option("--optimiser <name>", "what updates the weights")
        .choices(OPTIMISER_NAMES)
        .default(defaults.optimiser),
    )
    .addOption(option("--rate <x>", `highest learning rate (default: ${defaults.rate})`).argParser(decimal))
    .addOption(
      option("--weight-decay <x>", "decoupled weight decay (default: the optimiser's)").argParser(decimal),
    )
    .addOption(option("--warmup <steps>", "steps in which the rate rises (default: 2 %)").argParser(whole))
    .addOption(option("--decay <name>", "how the rate falls").choices(DECAYS).default("cosine"))
    .addOption(
      option("--final-rate <share>", "last rate, as a share of the highest (default: 0.05)").argParser(
        decimal,
      ),
    )
    .addOption(option("--clip <x>", "longest gradient; 0 for any").argParser(decimal).default(1))
    .addOption(
      option("--seed <n>", "of first weights, order of the data and noise").argParser(whole).default(0),
    )
    .addOption(
      option("--evaluate <n>", "measure the held-out loss every n steps").argParser(count).default(100),
    )
    .addOption(option("--evaluate-windows <n>", "on so many windows").argParser(count).default(64))
    .optionsGroup("Running:")
    .addOption(option("--checkpoint <folder>", `where checkpoints go (default: ${defaults.base}.training)`))
    .addOption(option("--every <n>", "steps between checkpoints").argParser(count).default(100))
    .addOption(option("--resume", "go on from the checkpoint, if there is one"))
    .addOption(
      option(
        "--memory <mode>",
        '"keep" activations, "recompute" them, or "chunk=N" for windows too long for either; "chunk=N,every=M" takes ' +
          "less still in models of many layers",
      )
        .argParser(memoryMode)
        .default("keep" as MemoryMode),
    )
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(option("--log <file>", "append every event to this file, one JSON object a line"))
    .addOption(option("--curve <file>", `loss curve, SVG (default: ${defaults.base}.svg)`))
    .addOption(jsonOption());
}

/** The API's words for them. Throws INVALID_ARGUMENT where nothing says how long to train. */
export function loopOptions(flags: LoopFlags) {
  return {
    steps: stepsOf(flags),
    length: flags.length,
    batchTokens: flags.batch,
    microTokens: flags.micro,
    optimiser:
      flags.weightDecay === undefined ? flags.optimiser : { name: flags.optimiser, decay: flags.weightDecay },
    decay: flags.decay,
    clip: flags.clip === 0 ? null : flags.clip,
    seed: flags.seed,
    evaluation: { every: flags.evaluate, windows: flags.evaluateWindows },
    memory: flags.memory,
    backend: flags.backend,
    ...given("rate", flags.rate),
    ...given("warmup", flags.warmup),
    ...given("finalRate", flags.finalRate),
    ...given("threads", flags.threads),
  } satisfies LoopOptions;
}

function stepsOf({ steps, tokens, batch }: LoopFlags): number {
  if (steps !== undefined) return steps;
  if (tokens !== undefined) return Math.ceil(tokens / batch);
  throw new MillraceError("INVALID_ARGUMENT", "How long shall it train? Give --steps or --tokens.", {
    name: "steps",
  });
}

/** An object with the property, or without it where there is no value. */
export function given<Name extends string, T>(name: Name, value: T | undefined): { [K in Name]?: T } {
  return (value === undefined ? {} : { [name]: value }) as { [K in Name]?: T };
}

/** Tokens of windows, one number or several with shares. */
export function lengths(text: string): readonly LengthShare[] {
  try {
    return parseLengths(text);
  } catch (error) {
    if (error instanceof MillraceError) throw new InvalidArgumentError(error.message);
    throw error;
  }
}

/** How activations are kept. */
export function memoryMode(text: string): MemoryMode {
  if (text === "keep" || text === "recompute") return text;
  const [, chunk, every = "1"] = /^chunk=(\d+)(?:,every=(\d+))?$/.exec(text) ?? [];
  if (!(Number(chunk) >= 1 && Number(every) >= 1)) {
    throw new InvalidArgumentError('expected "keep", "recompute", "chunk=N" or "chunk=N,every=M".');
  }
  return { chunk: Number(chunk), every: Number(every) };
}

/** A whole number from 0 on. */
export function whole(text: string): number {
  return text.trim() === "0" ? 0 : count(text);
}
