/** `millrace bench optimisers`: each optimiser on the same small task, from the same first weights. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command, Option } from "commander";
import type { BackendName } from "../../backends/contract.js";
import { formatBytes } from "../../engine/bytes.js";
import { median } from "../../evaluate/median.js";
import type { Window, WindowSource } from "../../train/data.js";
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
import { localModel } from "../train/local-model.js";
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
  readonly init?: string;
  readonly seed: number;
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly json?: boolean;
}

/** Tokens of the held-out windows. */
const HELD_OUT = 32768;

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
      "Trains the same small model on the same windows with each optimiser, one after another, and prints the loss " +
        "that it reached, the bytes of its state and its speed (median over the steps; the windows are made before). " +
        "With --init all weights of a trained model train on, which is what mezo is for.",
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
    .addOption(option("--init <model>", "begin with this model, not with random weights"))
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
    const data = madeBefore(dataOf(flags), (flags.steps * flags.batch) / flags.length);
    const init = flags.init === undefined ? join(folder, "first.gguf") : await localModel(flags.init);
    if (flags.init === undefined) await writeFirstModel(init, data, flags);
    const run = { init, folder, data, signal: stop.signal, flags };
    // One step that is too small to change a weight.
    const { heldOutLoss } = await measure("adamw", 1e-30, { ...run, flags: { ...flags, steps: 1 } });
    const rows: Row[] = [];
    for (const optimiser of flags.optimiser) {
      for (const rate of flags.rate ?? [DEFAULT_RATES[optimiser]]) {
        say(`-- ${optimiser} at ${rate}`);
        rows.push(await measure(optimiser, rate, run));
      }
    }
    if (flags.json) await writeJson({ ...flags, firstHeldOutLoss: heldOutLoss, rows });
    else await write(print(rows, heldOutLoss, flags));
  } finally {
    await rm(folder, { recursive: true });
  }
}

const dataOf = ({ data, seed }: Flags): TrainingData =>
  data.length === 1 && data[0] === "world" ? worldData({ seed }) : textFiles(data, { seed, heldOut: 0.05 });

/** Data whose windows are made when it is opened, the first `count` of them, so that no step waits for one. */
function madeBefore(data: TrainingData, count: number): TrainingData {
  const known = new Map<string, readonly Window[]>();
  const made = async (key: string, source: WindowSource, count: number): Promise<WindowSource> => {
    const windows =
      known.get(key) ?? (await Promise.all(Array.from({ length: count }, (_, i) => source.window(i))));
    known.set(key, windows);
    return { ...source, window: (index) => windows[index] ?? source.window(index) };
  };
  return {
    name: data.name,
    tokenizer: data.tokenizer,
    sample: () => data.sample(),
    async windows(tokenizer, length) {
      const { train, heldOut } = await data.windows(tokenizer, length);
      return {
        train: await made("train", train, count),
        heldOut: heldOut && (await made("heldOut", heldOut, Math.min(heldOut.numWindows, HELD_OUT / length))),
      };
    },
  };
}

async function writeFirstModel(path: string, data: TrainingData, flags: Flags): Promise<void> {
  const { width, layers, vocabulary, length, seed } = flags;
  const keys = await trainTokenizer(data.sample(), { ...data.tokenizer, vocabularySize: vocabulary });
  const heads = Math.max(1, Math.round(width / 32));
  const shape = { width, layers, heads, feedForward: width * 3, context: length };
  await exportGguf(path, initialiseModel(shape, keys, { seed }));
}

/** What all rows have in common. */
interface BenchRun {
  readonly init: string;
  readonly folder: string;
  readonly data: TrainingData;
  readonly signal: AbortSignal;
  readonly flags: Flags;
}

async function measure(optimiser: OptimiserName, rate: number, run: BenchRun): Promise<Row> {
  const { init, folder, data, signal } = run;
  const { steps, length, batch, seed, backend, threads } = run.flags;
  using progress = trainingProgress();
  const seconds: number[] = [];
  let since = performance.now();
  const { loss, curve, heldOutLoss, stateBytes, parameters } = await train({
    model: { init },
    data,
    out: join(folder, `${optimiser}.gguf`),
    optimiser,
    rate,
    steps,
    length,
    batchTokens: batch,
    microTokens: batch,
    seed,
    backend,
    ...(threads === undefined ? {} : { threads }),
    evaluation: { every: steps, windows: Math.max(1, Math.floor(HELD_OUT / length)) },
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

function print(
  rows: readonly Row[],
  firstLoss: number | null,
  { steps, batch, length, data, init = "random weights" }: Flags,
): string {
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
    `${data.join(", ")}; from ${init}${firstLoss === null ? "" : `, held out ${number(firstLoss, 3)}`}\n\n` +
    `${table([head, ...cells], ["left", "right", "right", "right", "right", "right", "right"])}\n`
  );
}
