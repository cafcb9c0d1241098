/** `millrace evaluate answers`: how many questions about the harbour town a model answers right. */
import { Command, Option } from "commander";
import { type AnswerReport, askAll, type Graded, type Share, tally } from "../../evaluate/answers.js";
import { heldOutQuestions } from "../../evaluate/world-stream.js";
import { onInterrupt } from "../interrupt.js";
import { openModel } from "../open-model.js";
import {
  adapterOption,
  addModelOptions,
  count,
  jsonOption,
  type ModelOptions,
  modelArgument,
  modelSource,
  openOptions,
} from "../options.js";
import { oneLine, table, write, writeJson } from "../terminal.js";
import { openTokenizer, seed } from "./world.js";

interface AnswersOptions extends ModelOptions {
  readonly questions: number;
  readonly within: number;
  readonly seed: number;
  readonly sequences: number;
  readonly wrong: number;
  readonly json?: boolean;
}

/** Room for a prompt and its answer, where the model allows as much. */
const CONTEXT = 1024;
const ANSWER_ROOM = 48;

export function answersCommand(): Command {
  const command = new Command("answers")
    .summary("ask about the harbour town what the log has said")
    .description(
      "Asks MODEL questions about logs of the harbour town that it was never trained on, and grades its greedy " +
        "answers: the share that is right, by what is asked and by how many tokens ago the log said it. As many " +
        "questions from every tenth of the range.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Questions:")
    .addOption(new Option("--questions <n>", "how many").argParser(count).default(500))
    .addOption(
      new Option("--within <tokens>", "farthest back that the fact was last stated")
        .argParser(count)
        .default(900),
    )
    .addOption(new Option("--seed <n>", "which questions").argParser(seed).default(1))
    .addOption(new Option("--wrong <n>", "show so many wrong answers").argParser(count).default(5))
    .addOption(jsonOption());
  addModelOptions(command).addOption(
    new Option("--sequences <n>", "questions that run at once").argParser(count).default(8),
  );
  return command.action(async (named: string | undefined, options: AnswersOptions) => {
    await evaluate(modelSource(named), options);
  });
}

async function evaluate(source: string, options: AnswersOptions): Promise<void> {
  const { questions: number, within, seed, sequences } = options;
  const context = options.context ?? CONTEXT;
  const tokenizer = await openTokenizer(source);
  const promptTokens = context - ANSWER_ROOM;
  const questions = heldOutQuestions(tokenizer, { seed, count: number, within, promptTokens });
  await using model = await openModel(source, { ...openOptions(options), context, sequences });
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  const graded = await askAll(model, questions, {
    sequences,
    signal: abort.signal,
    ...adapterOption(options),
  });
  const report = tally(graded);
  const wrong = graded.filter(({ right }) => !right);
  if (options.json) await writeJson({ model: model.info.path, seed, within, ...report, wrong });
  else await write(`${print(report, wrong.slice(0, options.wrong))}\n`);
}

function print({ all, byKind, byDistance }: AnswerReport, wrong: readonly Graded[]): string {
  const row = ({ name, questions, right }: Share) => [
    name,
    `${((100 * right) / questions).toFixed(1)} %`,
    `${right} of ${questions}`,
  ];
  const rows = (shares: readonly Share[]) => table(shares.map(row), ["left", "right", "right"]);
  const mistakes = wrong.map(
    ({ answer, expected, distance }) => `  ${oneLine(answer)}  (${distance} tokens back: ${expected})`,
  );
  return [
    rows([all]),
    "by kind",
    rows(byKind),
    "by tokens since the fact was stated",
    rows(byDistance),
    ...(mistakes.length > 0 ? ["some wrong answers", ...mistakes] : []),
  ].join("\n");
}
