/** `millrace finetune`: a small change of a model, from text. */
import { Command, Option } from "commander";
import type { TensorType } from "../formats/checkpoint.js";
import type { AdapterKind } from "../train/adapters/contract.js";
import { ADAPTER_KINDS } from "../train/adapters/resolve.js";
import { type FinetuneResult, finetune } from "../train/finetune.js";
import { textFiles } from "../train/training-data.js";
import { count, decimal, modelArgument, modelSource } from "./options.js";
import { addLoopOptions, given, type LoopFlags, loopOptions } from "./train/flags.js";
import { localModel } from "./train/local-model.js";
import { watchTraining } from "./train/watch.js";

interface FinetuneFlags extends LoopFlags {
  readonly data: readonly string[];
  readonly heldOut: number;
  readonly special?: boolean;
  readonly out: string;
  readonly adapter: AdapterKind;
  readonly rank: number;
  readonly alpha?: number;
  readonly targets?: readonly string[];
  readonly merge?: string;
  readonly type?: TensorType;
}

const EXAMPLES = `
Examples:
  millrace finetune model.gguf --data letters.txt --out letters --steps 300
  millrace run model.gguf --adapter letters --prompt "Dear"
  millrace finetune model.gguf --data letters.txt --out letters --steps 300 \\
    --adapter paca --rank 32 --merge letters.gguf --type Q8_0

The adapter is a folder that the PEFT library reads too. The model stays as it
is stored, quantised or not. Ctrl-C saves and stops; the same command with
--resume goes on from there.`;

export function finetuneCommand(): Command {
  const option = (flags: string, description: string) => new Option(flags, description);
  const command = new Command("finetune")
    .summary("train an adapter for a model on text")
    .description(
      "Trains a small change of a model on text files (LoRA or PaCA), beside weights that stay frozen, and writes it " +
        "as a folder; --merge also writes the changed model.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Data:")
    .addOption(option("--data <files...>", "text files (UTF-8), each a document").makeOptionMandatory())
    .addOption(
      option("--held-out <share>", "share of the text, at its end, kept for --evaluate")
        .argParser(decimal)
        .default(0.02),
    )
    .addOption(
      option("--special", "take names of control tokens in the text, such as <|im_end|>, for those tokens"),
    )
    .optionsGroup("Adapter:")
    .addOption(option("--out <folder>", "the folder to write").makeOptionMandatory())
    .addOption(
      option("--adapter <kind>", '"lora" trains low-rank products, "paca" some columns of every matrix')
        .choices(ADAPTER_KINDS)
        .default("lora"),
    )
    .addOption(option("--rank <n>", "directions, or columns, of every matrix").argParser(count).default(16))
    .addOption(
      option("--alpha <x>", "lora: the change counts alpha / rank times (default: 2 x rank)").argParser(
        decimal,
      ),
    )
    .addOption(option("--targets <layers...>", "such as q_proj v_proj (default: all but the output)"))
    .addOption(
      option("--merge <path>", "also write the model with the adapter merged: a GGUF file, or a folder"),
    )
    .addOption(
      option("--type <type>", "how the merged matrices are stored (default: as the model's)").choices([
        ...["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0"],
      ]),
    );
  return addLoopOptions(command, { optimiser: "adamw", rate: "0.001 with adamw", base: "OUT" })
    .addHelpText("after", EXAMPLES)
    .action(runFinetuning);
}

async function runFinetuning(named: string | undefined, flags: FinetuneFlags): Promise<void> {
  const { out, seed, heldOut, adapter: kind, rank, merge } = flags;
  const model = await localModel(modelSource(named));
  using watch = watchTraining(flags, out, out.replace(/[/\\]+$/, ""));
  const result = await finetune({
    model,
    data: textFiles(flags.data, { seed, heldOut, parseSpecial: flags.special ?? false }),
    out,
    adapter: { kind, rank, ...given("alpha", flags.alpha), ...given("targets", flags.targets) },
    ...(merge === undefined ? {} : { merge: { path: merge, ...given("type", flags.type) } }),
    ...loopOptions(flags),
    ...watch.options,
  });
  await watch.finish(result, summary(result, watch.curvePath));
}

function summary(
  { out, merged, steps, tokens, loss, heldOutLoss, parameters }: FinetuneResult,
  curvePath: string,
): string {
  const heldOut = heldOutLoss === null ? "" : `, held out ${heldOutLoss.toFixed(4)}`;
  return (
    `${out}: ${parameters.toLocaleString("en-US")} parameters, ${steps.toLocaleString("en-US")} steps, ` +
    `${tokens.toLocaleString("en-US")} tokens\nloss ${loss.toFixed(4)}${heldOut} nats per token; curve in ${curvePath}\n` +
    (merged === null ? "" : `merged into ${merged}\n`)
  );
}
