/** `millrace heads`: finds out which heads of a model retrieve, for the policies that keep everything in those alone. */
import { Command, Option } from "commander";
import { type DuoFlags, trainDuo } from "./heads/duo.js";
import { measureRazor } from "./heads/razor.js";
import {
  backendOption,
  count,
  decimal,
  jsonOption,
  modelArgument,
  modelSource,
  threadsOption,
} from "./options.js";
import { lengths, memoryMode, whole } from "./train/flags.js";

interface HeadsFlags extends DuoFlags {
  readonly method: "razor" | "duo";
}

const EXAMPLES = `
Examples:
  millrace heads model.gguf
  millrace run model.gguf --cache razor:window=256
  millrace heads model.gguf --method duo --steps 500 --length 2048
  millrace run model.gguf --cache duo:keep=0.5

What is found lies beside the model, in MODEL.heads.json, or in the cache folder
where that cannot be written; it holds for that very model.`;

export function headsCommand(): Command {
  const option = (flags: string, description: string) => new Option(flags, description);
  return new Command("heads")
    .summary("find out which heads of a model retrieve")
    .description(
      "razor runs a random text four times over and measures how much each head attends to earlier copies of its token " +
        "(echo) and to what followed them (induction), for --cache razor. duo hides passkeys in long texts and trains " +
        "a gate for each head, which says how much it must see of all tokens, for --cache duo.",
    )
    .addArgument(modelArgument())
    .addOption(option("--method <name>", "how").choices(["razor", "duo"]).default("razor"))
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .optionsGroup("With --method duo:")
    .addOption(option("--steps <n>", "updates of the gates (default: 500)").argParser(count))
    .addOption(
      option(
        "--length <tokens>",
        "tokens of a text, or several with their shares: 1024:0.7,4096:0.3 (default: the model's own, at most 1024)",
      ).argParser(lengths),
    )
    .addOption(option("--batch <tokens>", "tokens of a step (default: one text)").argParser(count))
    .addOption(option("--data <files...>", "text files to hide passkeys in (default: a harbour town's log)"))
    .addOption(option("--passkeys <n>", "passkeys of a text, at most 20 (default: 10)").argParser(count))
    .addOption(option("--words <n>", "most words of a passkey (default: 32)").argParser(count))
    .addOption(option("--sinks <n>", "first tokens that streaming heads see (default: 64)").argParser(whole))
    .addOption(option("--recent <n>", "newest tokens that they see (default: 256)").argParser(count))
    .addOption(option("--pressure <x>", "how strongly gates are shut (default: 0.05)").argParser(decimal))
    .addOption(option("--rate <x>", "highest learning rate (default: 0.02)").argParser(decimal))
    .addOption(option("--seed <n>", "of the texts (default: 0)").argParser(whole))
    .addOption(option("--memory <mode>", 'as train\'s: "keep", "recompute", "chunk=N"').argParser(memoryMode))
    .addOption(option("--checkpoint <folder>", "save there every 100 steps"))
    .addOption(option("--resume", "go on from that checkpoint, if there is one"))
    .addHelpText("after", EXAMPLES)
    .action(async (named: string | undefined, { method, ...flags }: HeadsFlags, command: Command) => {
      const source = modelSource(named);
      if (method === "duo") return trainDuo(source, flags);
      refuseOptions(command);
      return measureRazor(source, flags);
    });
}

/** What `--method razor` takes. */
const OF_RAZOR = ["method", "backend", "threads", "json"];

/** Options of duo mean nothing without it: said, not passed over. */
function refuseOptions(command: Command): void {
  const stray = command.options.find(
    (each) =>
      !OF_RAZOR.includes(each.attributeName()) && command.getOptionValue(each.attributeName()) !== undefined,
  );
  if (stray) command.error(`error: option '${stray.flags}' goes with --method duo`);
}
