import { type HeadGates, ranked } from "../../cache/policies/split.js";
import { textHaystack } from "../../train/gates/haystack.js";
import { type TrainGatesOptions, trainGates } from "../../train/gates/train-gates.js";
import type { LengthShare } from "../../train/lengths.js";
import type { MemoryMode } from "../../train/network.js";
import { bold, printable, table, write, writeJson } from "../terminal.js";
import { given } from "../train/flags.js";
import { localModel } from "../train/local-model.js";
import { trainingProgress } from "../train/progress.js";
import { onTrainingStop } from "../train/stop.js";
import type { RazorFlags } from "./razor.js";

export interface DuoFlags extends RazorFlags {
  readonly steps?: number;
  readonly length?: readonly LengthShare[];
  readonly batch?: number;
  readonly data?: readonly string[];
  readonly passkeys?: number;
  readonly words?: number;
  readonly sinks?: number;
  readonly recent?: number;
  readonly pressure?: number;
  readonly rate?: number;
  readonly seed?: number;
  readonly memory?: MemoryMode;
  readonly checkpoint?: string;
  readonly resume?: boolean;
}

/** Trains the gates of a model, with progress, and prints them. */
export async function trainDuo(source: string, flags: DuoFlags): Promise<void> {
  const model = await localModel(source);
  const stop = new AbortController();
  using _interrupt = onTrainingStop(() => stop.abort());
  using progress = trainingProgress();
  const { checkpoint, resume = false, data, batch, threads } = flags;
  const options: TrainGatesOptions = {
    ...{ model, backend: flags.backend, signal: stop.signal },
    onEvent: (event) => progress.tell(event),
    ...given("steps", flags.steps),
    ...given("length", flags.length),
    ...given("batchTokens", batch),
    ...given("passkeys", flags.passkeys),
    ...given("words", flags.words),
    ...given("sinks", flags.sinks),
    ...given("recent", flags.recent),
    ...given("pressure", flags.pressure),
    ...given("rate", flags.rate),
    ...given("seed", flags.seed),
    ...given("memory", flags.memory),
    ...given("threads", threads),
    ...given("haystack", data && textHaystack(data)),
    ...(checkpoint !== undefined && { checkpoint: { folder: checkpoint, resume } }),
  };
  const { gates, path, loss, heldOutLoss, steps } = await trainGates(options);
  progress[Symbol.dispose]();
  if (flags.json) await writeJson({ path, gates, steps, loss, heldOutLoss });
  else await write(print(gates, path));
}

/** Heads that are listed. */
const LISTED = 12;

function print(gates: HeadGates, path: string): string {
  const heads = ranked(gates);
  const rows = [
    ["layer", "kv head", "gate"],
    ...heads
      .slice(0, LISTED)
      .map(({ layer, head, score }) => [String(layer), String(head), score.toFixed(3)]),
  ];
  const listed = table(rows, ["right", "right", "right"]);
  return `${bold("Heads that must see most")}\n${listed}\nAll ${heads.length} are in ${printable(path)}.\n`;
}
