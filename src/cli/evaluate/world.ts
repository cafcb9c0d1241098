/** `millrace evaluate world`: the log of the harbour town, with how far back each question reaches. */

import { Command, InvalidArgumentError, Option } from "commander";
import { MillraceError } from "../../errors.js";
import { tokenPieces } from "../../evaluate/world-stream.js";
import { writeAtomically } from "../../formats/file.js";
import { resolveModelPath } from "../../formats/hub.js";
import { openCheckpoint } from "../../formats/open.js";
import type { Tokenizer } from "../../tokenizer/contract.js";
import { resolveTokenizer } from "../../tokenizer/resolve.js";
import { BOS } from "../../world/control.js";
import { count, modelArgument, modelSource } from "../options.js";
import { say, table, write } from "../terminal.js";

interface EvaluateWorldOptions {
  readonly tokens: number;
  readonly seed: number;
  readonly every: number;
  readonly from: number;
  readonly to: number;
  readonly spread: "even" | "far" | "logarithmic";
  readonly format: "text" | "jsonl";
  readonly out?: string;
}

const EXAMPLES = `
Examples:
  millrace evaluate world --tokens 2000
  millrace evaluate world --tokens 1000000 --seed 7 --to 200000 \\
    --spread logarithmic --format jsonl --out world.jsonl

Each JSON line is a piece: its kind (log, question, answer), its text, the index
of its first token and how many it has; on questions and answers also what is
asked, the decisive words of a right answer, and the distance in tokens since
the fact was last stated (null where nothing had to be).`;

/** A whole number of at least 0. */
export function seed(text: string): number {
  const value = /^\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError("expected a whole number from 0 on.");
  return value;
}

export function worldCommand(): Command {
  return new Command("world")
    .summary("write a stream of the harbour town's log, with questions")
    .description(
      "Writes the endless log of a small harbour town, with questions and answers in it, up to a number of tokens of " +
        "MODEL's tokenizer. The same seed gives the same stream. How many questions reach how far back is said on " +
        "standard error.",
    )
    .addArgument(modelArgument())
    .addOption(new Option("--tokens <n>", "length of the stream").argParser(count).default(10_000))
    .addOption(new Option("--seed <n>", "which stream").argParser(seed).default(1))
    .addOption(new Option("--every <n>", "words of log between questions").argParser(count).default(60))
    .addOption(
      new Option("--from <n>", "nearest that a question reaches, in words").argParser(count).default(10),
    )
    .addOption(
      new Option("--to <n>", "farthest that a question reaches, in words").argParser(count).default(900),
    )
    .addOption(
      new Option("--spread <name>", "how distances are spread between the two")
        .choices(["even", "far", "logarithmic"])
        .default("even"),
    )
    .addOption(
      new Option("--format <name>", "the text alone, or a JSON object per piece")
        .choices(["text", "jsonl"])
        .default("text"),
    )
    .addOption(new Option("--out <file>", "write there (default: standard output)"))
    .addHelpText("after", EXAMPLES)
    .action(async (named: string | undefined, options: EvaluateWorldOptions) => {
      await writeWorld(await openTokenizer(modelSource(named)), options);
    });
}

/** The tokenizer of a model file; no weights are read. Throws UNSUPPORTED_TOKENIZER where it has none. */
export async function openTokenizer(source: string): Promise<Tokenizer> {
  await using checkpoint = await openCheckpoint(await resolveModelPath(source));
  const tokenizer = resolveTokenizer(checkpoint.tokenizer);
  if (tokenizer) return tokenizer;
  throw new MillraceError(
    "UNSUPPORTED_TOKENIZER",
    `${source} carries no tokenizer. Name a model that does.`,
    {
      source,
    },
  );
}

async function writeWorld(tokenizer: Tokenizer, options: EvaluateWorldOptions): Promise<void> {
  const { out } = options;
  if (out === undefined) await writeStream(tokenizer, options, write);
  else
    await writeAtomically(out, async (file) => {
      await writeStream(tokenizer, options, (text) => file.write(Buffer.from(text)));
    });
}

async function writeStream(
  tokenizer: Tokenizer,
  { tokens, seed, every, from, to, spread, format }: EvaluateWorldOptions,
  put: (text: string) => Promise<void>,
): Promise<void> {
  const distances: number[] = [];
  let end = 1;
  if (format === "text") await put(BOS);
  for (const piece of tokenPieces(tokenizer, { seed, questions: { every, from, to, spread } })) {
    const { kind, text, at, tokens: ids, question, distance } = piece;
    // A question is not cut off from its answer.
    if (end >= tokens && kind !== "answer") break;
    end = at + ids.length;
    if (kind === "question" && distance !== null) distances.push(distance);
    const row = { kind, text, at, tokens: ids.length, ...(question ? { ...about(question), distance } : {}) };
    await put(format === "text" ? text : `${JSON.stringify(row)}\n`);
  }
  say(`${end} tokens, ${distances.length} questions about the log:`);
  say(histogram(distances));
}

function about({ kind, subject, answer }: { kind: string; subject: string; answer: string }) {
  return { question: { kind, subject, answer } };
}

/** Bands of distance, each ten times as far as the last beyond 1,000. */
const BANDS = [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 10_000, 100_000, 1_000_000];

function histogram(distances: readonly number[]): string {
  const rows = BANDS.slice(0, -1).flatMap((from, i) => {
    const to = BANDS[i + 1]!;
    const number = distances.filter((distance) => distance >= from && distance < to).length;
    return number === 0 ? [] : [[`${from} to ${to - 1} tokens back`, String(number)]];
  });
  return table(rows, ["left", "right"]);
}
