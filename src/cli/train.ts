/** `millrace train`: from text to a model. */
import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import type { BackendName } from "../backends/contract.js";
import { MillraceError } from "../errors.js";
import type { TensorType } from "../formats/checkpoint.js";
import type { Curve } from "../train/checkpoints.js";
import { type LengthShare, parseLengths } from "../train/lengths.js";
import { lossCurve } from "../train/loss-curve.js";
import type { MemoryMode } from "../train/network.js";
import type { OptimiserName } from "../train/optimisers/contract.js";
import { OPTIMISER_NAMES } from "../train/optimisers/resolve.js";
import { DECAYS, type Decay } from "../train/rate.js";
import { type FreshModel, type TrainResult, type TrainStart, train } from "../train/train.js";
import type { TrainEvent } from "../train/trainer.js";
import { type TrainingData, textFiles } from "../train/training-data.js";
import { worldData } from "../train/world-data.js";
import { onInterrupt } from "./interrupt.js";
import { backendOption, count, decimal, jsonOption, threadsOption } from "./options.js";
import { say, write, writeJson } from "./terminal.js";
import { trainingProgress } from "./train/progress.js";

interface TrainFlags {
  readonly data: readonly string[];
  readonly heldOut: number;
  readonly answerWeight?: number;
  readonly out: string;
  readonly type: TensorType;
  readonly init?: string;
  readonly tokenizer?: string;
  readonly vocabulary: number;
  readonly width: number;
  readonly layers: number;
  readonly heads?: number;
  readonly kvHeads?: number;
  readonly feedForward?: number;
  readonly context?: number;
  readonly ropeBase?: number;
  readonly name?: string;
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

const EXAMPLES = `
Examples:
  millrace train --data book.txt --out book.gguf --width 256 --layers 4 --steps 2000
  millrace train --data *.txt --out model.gguf --tokens 50000000 --length 256:0.7,1024:0.3
  millrace train --data *.txt --out model.gguf --tokens 50000000 --resume
  millrace train --data letters.txt --init model.gguf --out mine.gguf --steps 200 --rate 1e-4

Ctrl-C saves and stops; the same command with --resume goes on from there, to the very
same bits. A second Ctrl-C quits at once.`;

export function trainCommand(): Command {
  const option = (flags: string, description: string) => new Option(flags, description);
  return new Command("train")
    .summary("train a model on text")
    .description(
      "Trains a decoder of the llama architecture on text files, from random weights or from those of a model, " +
        "and writes it as GGUF. Without --init or --tokenizer, a byte-level BPE tokenizer is trained on the text first.",
    )
    .optionsGroup("Data:")
    .addOption(
      option(
        "--data <files...>",
        "text files (UTF-8), each a document; or world, the endless log of a harbour town",
      ).makeOptionMandatory(),
    )
    .addOption(
      option("--held-out <share>", "share of the text, at its end, kept for --evaluate")
        .argParser(decimal)
        .default(0.02),
    )
    .addOption(
      option("--answer-weight <x>", "with world: factor on the loss of answers")
        .argParser(decimal)
        .default(1),
    )
    .optionsGroup("Model:")
    .addOption(option("--out <path>", "the GGUF file to write").makeOptionMandatory())
    .addOption(
      option("--type <type>", "how its matrices are stored")
        .choices(["F32", "F16", "BF16", "Q8_0"])
        .default("F32"),
    )
    .addOption(option("--init <model>", "continue from this GGUF model's weights"))
    .addOption(option("--tokenizer <model>", "take the tokenizer of this GGUF model").conflicts("init"))
    .addOption(
      option("--vocabulary <n>", "tokens of a tokenizer that is trained here").argParser(count).default(4096),
    )
    .addOption(option("--width <n>", "model width").argParser(count).default(256))
    .addOption(option("--layers <n>", "layers").argParser(count).default(4))
    .addOption(option("--heads <n>", "query heads (default: width / 32)").argParser(count))
    .addOption(option("--kv-heads <n>", "key-value heads (default: half the query heads)").argParser(count))
    .addOption(
      option("--feed-forward <n>", "feed-forward width (default: 8/3 of the width, whole 32s)").argParser(
        count,
      ),
    )
    .addOption(
      option("--context <tokens>", "context that the file states (default: longest window)").argParser(count),
    )
    .addOption(
      option("--rope-base <x>", "base of the rotary frequencies (default: 10000)").argParser(decimal),
    )
    .addOption(option("--name <text>", "general.name of the file"))
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
      option("--optimiser <name>", "what updates the weights").choices(OPTIMISER_NAMES).default("muon"),
    )
    .addOption(option("--rate <x>", "highest learning rate (default: the optimiser's)").argParser(decimal))
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
    .addOption(option("--checkpoint <folder>", "where checkpoints go (default: OUT.training)"))
    .addOption(option("--every <n>", "steps between checkpoints").argParser(count).default(100))
    .addOption(option("--resume", "go on from the checkpoint, if there is one"))
    .addOption(
      option(
        "--memory <mode>",
        '"keep" activations, "recompute" them, or "chunk=N" for windows too long for either',
      )
        .argParser(memoryMode)
        .default("keep" as MemoryMode),
    )
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(option("--log <file>", "append every event to this file, one JSON object a line"))
    .addOption(option("--curve <file>", "loss curve, SVG (default: OUT.svg)"))
    .addOption(jsonOption())
    .addHelpText("after", EXAMPLES)
    .action(runTraining);
}

async function runTraining(flags: TrainFlags): Promise<void> {
  const base = flags.out.replace(/\.gguf$/i, "");
  const folder = flags.checkpoint ?? `${base}.training`;
  const curvePath = flags.curve ?? `${base}.svg`;
  const stop = new AbortController();
  using _interrupt = onInterrupt(() => {
    say("millrace: stopping after this step; Ctrl-C again to quit at once");
    stop.abort();
  });
  const curve: Curve = { train: [], heldOut: [] };
  using progress = trainingProgress();
  const log = flags.log === undefined ? null : openLog(flags.log);
  const onEvent = (event: TrainEvent | TrainStart): void => {
    log?.(event);
    progress.tell(event);
    if (event.kind === "resumed") {
      curve.train.push(...event.curve.train);
      curve.heldOut.push(...event.curve.heldOut);
    }
    if (event.kind === "step") curve.train.push(event.loss);
    if (event.kind === "evaluated") curve.heldOut.push(event);
    if (event.kind === "saved") writeFileSync(curvePath, lossCurve(curve, flags.out));
  };
  const result = await train({
    model: modelOf(flags),
    data: dataOf(flags),
    out: flags.out,
    type: flags.type,
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
    checkpoint: { folder, every: flags.every, resume: flags.resume ?? false },
    memory: flags.memory,
    backend: flags.backend,
    onEvent,
    signal: stop.signal,
    ...given("rate", flags.rate),
    ...given("warmup", flags.warmup),
    ...given("finalRate", flags.finalRate),
    ...given("threads", flags.threads),
  });
  progress[Symbol.dispose]();
  writeFileSync(curvePath, lossCurve(result.curve, flags.out));
  if (flags.json) {
    const { curve: _, ...rest } = result;
    await writeJson({ ...rest, curve: curvePath, checkpoint: folder });
  } else await write(summary(result, curvePath));
}

function summary(
  { out, steps, tokens, loss, heldOutLoss, parameters }: TrainResult,
  curvePath: string,
): string {
  const heldOut = heldOutLoss === null ? "" : `, held out ${heldOutLoss.toFixed(4)}`;
  return (
    `${out}: ${parameters.toLocaleString("en-US")} parameters, ${steps.toLocaleString("en-US")} steps, ` +
    `${tokens.toLocaleString("en-US")} tokens\nloss ${loss.toFixed(4)}${heldOut} nats per token; curve in ${curvePath}\n`
  );
}

function modelOf(flags: TrainFlags): FreshModel | { init: string } {
  if (flags.init !== undefined) return { init: flags.init };
  const { width, layers } = flags;
  const heads = flags.heads ?? Math.max(1, Math.round(width / 32));
  const kvHeads = flags.kvHeads ?? (heads % 2 === 0 ? heads / 2 : heads);
  const feedForward = flags.feedForward ?? Math.ceil((width * 8) / 3 / 32) * 32;
  return {
    shape: {
      width,
      layers,
      heads,
      kvHeads,
      feedForward,
      ...given("context", flags.context),
      ...given("ropeBase", flags.ropeBase),
    },
    tokenizer:
      flags.tokenizer === undefined ? { vocabularySize: flags.vocabulary } : { from: flags.tokenizer },
    ...given("name", flags.name),
  };
}

function dataOf({ data, seed, heldOut, answerWeight }: TrainFlags): TrainingData {
  if (data.length === 1 && data[0] === "world")
    return worldData({ seed, ...given("answerWeight", answerWeight) });
  return textFiles(data, { seed, heldOut });
}

function stepsOf({ steps, tokens, batch }: TrainFlags): number {
  if (steps !== undefined) return steps;
  if (tokens !== undefined) return Math.ceil(tokens / batch);
  throw new MillraceError("INVALID_ARGUMENT", "How long shall it train? Give --steps or --tokens.", {
    name: "steps",
  });
}

/** A writer of events as JSON lines. Throws WRITE_FAILED. */
function openLog(path: string): (event: object) => void {
  const attempt = (action: () => void): void => {
    try {
      action();
    } catch (error) {
      throw new MillraceError(
        "WRITE_FAILED",
        `Cannot write the log ${path}: ${(error as Error).message}.`,
        { path },
        { cause: error },
      );
    }
  };
  attempt(() => mkdirSync(dirname(path), { recursive: true }));
  // Earlier losses stand in the log's own earlier lines.
  const text = (event: object) =>
    JSON.stringify(event, (key, value) => (key === "curve" ? undefined : value));
  return (event) => attempt(() => appendFileSync(path, `${text(event)}\n`));
}

/** An object with the property, or without it where there is no value. */
function given<Name extends string, T>(name: Name, value: T | undefined): { [K in Name]?: T } {
  return (value === undefined ? {} : { [name]: value }) as { [K in Name]?: T };
}

function lengths(text: string): readonly LengthShare[] {
  try {
    return parseLengths(text);
  } catch (error) {
    if (error instanceof MillraceError) throw new InvalidArgumentError(error.message);
    throw error;
  }
}

function memoryMode(text: string): MemoryMode {
  if (text === "keep" || text === "recompute") return text;
  const chunk = Number(/^chunk=(\d+)$/.exec(text)?.[1]);
  if (!(chunk >= 1)) throw new InvalidArgumentError('expected "keep", "recompute" or "chunk=N".');
  return { chunk };
}

/** A whole number from 0 on. */
function whole(text: string): number {
  return text.trim() === "0" ? 0 : count(text);
}
