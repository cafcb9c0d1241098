/** `millrace bench optimisers`: each optimiser on the same small task, from the same first weights. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command, Option } from "commander";
import type { BackendName } from "../../backends/contract.js";
import { formatBytes } from "../../engine/bytes.js";
import { median } from "../../evaluate/median.js";
import { exportGguf } from "../../train/export.js";
import { initialiseModel } from "../../train/initialise.js";
import type { OptimiserName } from "../../train/optimisers/contract.js";
import { DEFAULT_RATES, OPTIMISER_NAMES } from "../../train/optimisers/resolve.js";
import { trainTokenizer } from "../../train/tokenizer.js";
import { train } from "../../train/train.js";
import { type TrainingData, textFiles } from "../../train/training-data.js";
import { worldData } from "../../train/world-data.js";
import { onInterrupt } from "../interrupt.js";
import { backendOption, count, decimal, jsonOption, threadsOption } from "../options.js";
import { say, table, write, writeJson } from "../terminal.js";
import { trainingProgress } from "../train/progress.js";

interface Flags {
  readonly data: readonly string[];
  readonly optimiser: readonly OptimiserName[];
  readonly rate?: readonly number[];
  readonly steps: number;
  readonly width: number;
  readonly layers: number;
  readonly length: number;
  readonly batch: number;
  readonly vocabulary: number;
  readonly seed: number;
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly json?: boolean;
}

interface Row {
  readonly optimiser: OptimiserName;
  readonly rate: number;
  /** Mean of the last twentieth of the steps, in nats per token. */
  readonly loss: number;
  readonly heldOutLoss: number | null;
  readonly stateBytes: number;
  readonly tokensPerSecond: number;
  readonly parameters: number;
}

export function optimisersCommand(): Command {
  const option = (flags: string, description: string) => new Option(flags, description);
  return new Command("optimisers")
    .summary("train the same small model with each optimiser")
    .description(
      "Trains the same small model on the same windows with each optimiser and prints the loss " +
        "that it reached, the bytes of its state and its speed (median over the steps).",
    )
    .addOption(option("--data <files...>", "text files, or world").default(["world"], "world"))
    .addOption(
      option("--optimiser <names...>", "which of them")
        .choices(OPTIMISER_NAMES)
        .default([...OPTIMISER_NAMES], "all"),
    )
    .addOption(
      option("--rate <x...>", "try these learning rates in turn (default: each one's own)").argParser(rates),
    )
    .addOption(option("--steps <n>", "updates of the weights").argParser(count).default(200))
    .addOption(option("--width <n>", "model width").argParser(count).default(128))
    .addOption(option("--layers <n>", "layers").argParser(count).default(2))
    .addOption(option("--length <tokens>", "tokens of a window").argParser(count).default(128))
    .addOption(option("--batch <tokens>", "tokens of a step").argParser(count).default(2048))
    .addOption(option("--vocabulary <n>", "tokens of the tokenizer").argParser(count).default(1024))
    .addOption(option("--seed <n>", "of data and first weights").argParser(count).default(1))
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(benchOptimisers);
}

const rates = (text: string, earlier: readonly number[] = []): number[] => [...earlier, decimal(text)];

async function benchOptimisers(flags: Flags): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "millrace-bench-"));
  const stop = new AbortController();
  using _interrupt = onInterrupt(() => stop.abort());
  try {
    const data = dataOf(flags);
    const init = join(folder, "first.gguf");
    await writeFirstModel(init, data, flags);
    const rows: Row[] = [];
    for (const optimiser of flags.optimiser) {
      for (const rate of flags.rate ?? [DEFAULT_RATES[optimiser]]) {
        say(`-- ${optimiser} at ${rate}`);
        rows.push(await measure(optimiser, rate, init, data, flags, stop.signal));
      }
    }
    if (flags.json) await writeJson({ ...flags, rows });
    else await write(print(rows, flags));
  } finally {
    await rm(folder, { recursive: true });
  }
}

const dataOf = ({ data, seed }: Flags): TrainingData =>
  data.length === 1 && data[0] === "world" ? worldData({ seed }) : textFiles(data, { seed, heldOut: 0.05 });

async function writeFirstModel(path: string, data: TrainingData, flags: Flags): Promise<void> {
  const { width, layers, vocabulary, length, seed } = flags;
  const keys = await trainTokenizer(data.sample(), { ...data.tokenizer, vocabularySize: vocabulary });
  const heads = Math.max(1, Math.round(width / 32));
  const shape = { width, layers, heads, feedForward: width * 3, context: length };
  await exportGguf(path, initialiseModel(shape, keys, { seed }));
}

async function measure(
  optimiser: OptimiserName,
  rate: number,
  init: string,
  data: TrainingData,
  { steps, length, batch, seed, backend, threads }: Flags,
  signal: AbortSignal,
): Promise<Row> {
  using progress = trainingProgress();
  const seconds: number[] = [];
  let since = performance.now();
  const { loss, curve, heldOutLoss, stateBytes, parameters } = await train({
    model: { init },
    data,
    out: `${init}.${optimiser}`,
    optimiser,
    rate,
    steps,
    length,
    batchTokens: batch,
    microTokens: batch,
    seed,
    backend,
    ...(threads === undefined ? {} : { threads }),
    evaluation: { every: steps, windows: Math.max(1, Math.round(32768 / length)) },
    signal,
    onEvent(event) {
      progress.tell(event);
      if (event.kind === "step") seconds.push((performance.now() - since) / 1000);
      since = performance.now();
    },
  });
  const last = curve.train.slice(-Math.max(1, Math.floor(steps / 20)));
  return {
    optimiser,
    rate,
    loss: last.reduce((sum, each) => sum + each, 0) / last.length || loss,
    heldOutLoss,
    stateBytes,
    tokensPerSecond: batch / median(seconds),
    parameters,
  };
}

function print(rows: readonly Row[], { steps, batch, length, data }: Flags): string {
  const { parameters } = rows[0]!;
  const number = (value: number, digits = 0) =>
    value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const cells = rows.map((row) => [
    row.optimiser,
    String(row.rate),
    number(row.loss, 3),
    row.heldOutLoss === null ? "" : number(row.heldOutLoss, 3),
    formatBytes(row.stateBytes),
    number(row.stateBytes / row.parameters, 2),
    number(row.tokensPerSecond),
  ]);
  const head = ["optimiser", "rate", "loss", "held out", "state", "bytes/weight", "tokens/s"];
  return (
    `${number(parameters)} weights, ${number(steps)} steps of ${number(batch)} tokens in windows of ${length}, ` +
    `${data.join(", ")}\n\n` +
    `${table([head, ...cells], ["left", "right", "right", "right", "right", "right", "right"])}\n`
  );
}
