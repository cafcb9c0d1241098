/** `millrace train`: from text to a model. */
import { Command, Option } from "commander";
import type { TensorType } from "../formats/checkpoint.js";
import { type FreshModel, type TrainResult, train } from "../train/train.js";
import { type TrainingData, textFiles } from "../train/training-data.js";
import type { WorldCourse } from "../train/world-course.js";
import { worldData } from "../train/world-data.js";
import { count, decimal } from "./options.js";
import { worldCourse } from "./train/course.js";
import { addLoopOptions, given, type LoopFlags, loopOptions } from "./train/flags.js";
import { watchTraining } from "./train/watch.js";

interface TrainFlags extends LoopFlags {
  readonly data: readonly string[];
  readonly heldOut: number;
  readonly answerWeight?: number;
  readonly course?: WorldCourse;
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
  readonly lookBack?: boolean;
  readonly name?: string;
}

const EXAMPLES = `
Examples:
  millrace train --data book.txt --out book.gguf --width 256 --steps 2000
  millrace train --data *.txt --out m.gguf --steps 5000 \\
    --length 256:0.7,1024:0.3
  millrace train --data *.txt --out m.gguf --steps 5000 --resume
  millrace train --data letters.txt --init m.gguf --out mine.gguf --rate 1e-4 \\
    --steps 200

Ctrl-C saves and stops; the same command with --resume goes on from there, to
the very same bits. A second Ctrl-C quits at once.`;

export function trainCommand(): Command {
  const option = (flags: string, description: string) => new Option(flags, description);
  const command = new Command("train")
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
      option(
        "--answer-weight <x>",
        "with world: factor on the loss of what answers say (default: 4)",
      ).argParser(decimal),
    )
    .addOption(
      option(
        "--course <pairs>",
        "with world: what windows ask, such as every=8-50,exams=0,person=12 (default: docs/training.md)",
      ).argParser(worldCourse),
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
    .addOption(option("--look-back", "begin with heads that look back: copying is learned at once"))
    .addOption(option("--name <text>", "general.name of the file"));
  return addLoopOptions(command, { optimiser: "muon", rate: "the optimiser's", base: "OUT" })
    .addHelpText("after", EXAMPLES)
    .action(runTraining);
}

async function runTraining(flags: TrainFlags): Promise<void> {
  using watch = watchTraining(flags, flags.out, flags.out.replace(/\.gguf$/i, ""));
  const result = await train({
    model: modelOf(flags),
    data: dataOf(flags),
    out: flags.out,
    type: flags.type,
    ...loopOptions(flags),
    ...watch.options,
  });
  await watch.finish(result, summary(result, watch.curvePath));
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
    ...given("lookBack", flags.lookBack),
  };
}

function dataOf({ data, seed, heldOut, answerWeight, course }: TrainFlags): TrainingData {
  if (data.length === 1 && data[0] === "world")
    return worldData({ seed, ...given("answerWeight", answerWeight), ...given("course", course) });
  return textFiles(data, { seed, heldOut });
}
