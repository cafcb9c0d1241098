/** `millrace bench`: speed, beside a peer and beside what the machine can do at all, in one run. */
import { Command, Option } from "commander";
import { type Contestant, type Speed, speed, type Work } from "../bench/contestant.js";
import { type ModelSize, measureModel } from "../bench/model-size.js";
import { ours } from "../bench/ours.js";
import { PEERS, type PeerName, startPeer } from "../bench/peer.js";
import { MachineProbe, type MachineSpeed } from "../bench/probe.js";
import { formatBytes } from "../engine/bytes.js";
import { MillraceError } from "../errors.js";
import { median } from "../evaluate/median.js";
import { benchBatchCommand } from "./bench/batch.js";
import { cacheCommand } from "./bench/cache.js";
import { clientsCommand } from "./bench/clients.js";
import { addShapeOptions, madeModel, type ShapeOptions } from "./bench/made-model.js";
import { optimisersCommand } from "./bench/optimisers.js";
import { sessionsCommand } from "./bench/sessions.js";
import { stallCommand } from "./bench/stall.js";
import { stoppable, unlessStopped } from "./bench/stoppable.js";
import { traceCommand } from "./bench/trace.js";
import { benchTrainCommand } from "./bench/train.js";
import { trainingMemoryCommand } from "./bench/training-memory.js";
import { backendOption, count, jsonOption, threadsOption } from "./options.js";
import { progressBar } from "./progress.js";

interface BenchOptions extends ShapeOptions {
  readonly backend: "auto" | "native" | "wasm" | "reference";
  readonly threads?: number;
  readonly context?: number;
  readonly prompt: number;
  readonly generate: number;
  readonly sequences: number;
  readonly runs: number;
  readonly against?: PeerName;
  readonly codec: "f32" | "f16" | "int8";
  readonly json?: boolean;
}

/** One pair of runs and the machine's speed measured between them. */
interface Round {
  readonly ours: Speed;
  readonly peer: Speed | null;
  readonly machine: MachineSpeed;
}

export function benchCommand(): Command {
  const command = new Command("bench")
    .summary("measure prefill and decode speed, alone or against a peer")
    .description(
      "Measures prefill and decode in tokens per second (medians), the machine's memory bandwidth and multiply\n" +
        "rate between the runs, and the share of them that was reached. Without MODEL, a random-weight file of\n" +
        "the given shape is made once and kept in the cache folder.",
    )
    .argument("[model]", "GGUF file, safetensors folder or hf:owner/repo/file");
  return addShapeOptions(command)
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(
      new Option("--context <tokens>", "tokens in the cache while decoding (the prompt's length)").argParser(
        count,
      ),
    )
    .addOption(new Option("--prompt <tokens>", "length of the prompt").argParser(count).default(512))
    .addOption(
      new Option("--generate <tokens>", "tokens decoded per run and sequence").argParser(count).default(64),
    )
    .addOption(new Option("--sequences <n>", "sequences at once").argParser(count).default(1))
    .addOption(
      new Option("--runs <n>", "counted runs, after one that is not counted").argParser(count).default(5),
    )
    .addOption(
      new Option("--codec <name>", "how keys and values are kept")
        .choices(["f32", "f16", "int8"])
        .default("f16"),
    )
    .addOption(new Option("--against <peer>", "also run this peer, in turn").choices(PEERS))
    .addOption(jsonOption())
    .enablePositionalOptions()
    .addCommand(cacheCommand())
    .addCommand(sessionsCommand())
    .addCommand(stallCommand())
    .addCommand(traceCommand())
    .addCommand(benchBatchCommand())
    .addCommand(clientsCommand())
    .addCommand(benchTrainCommand())
    .addCommand(trainingMemoryCommand())
    .addCommand(optimisersCommand())
    .action(async (model: string | undefined, options: BenchOptions) => {
      await bench(model, options);
    });
}

async function bench(model: string | undefined, options: BenchOptions): Promise<void> {
  const log = (line: string) => process.stderr.write(`${line}\n`);
  const path = model ?? (await madeModel(options));
  const promptTokens = options.context ?? options.prompt;
  const context = promptTokens + options.generate + 16;
  using probe = new MachineProbe({ threads: options.threads ?? 2, mebibytes: 512 });
  await probe.measure();
  const bar = progressBar("loading");
  await using us = await ours(path, {
    backend: options.backend,
    context,
    sequences: options.sequences,
    cache: { codec: options.codec },
    // Every round shall run all of its prompts.
    prefixCache: false,
    onProgress: ({ loadedBytes, totalBytes }) => bar.update(loadedBytes, totalBytes),
    ...(options.threads === undefined ? {} : { threads: options.threads }),
  });
  bar.stop();
  const size = await measureModel(us.info.path, options.codec);
  await using peer = options.against
    ? await startPeer(options.against, {
        path: us.info.path,
        threads: us.info.backend.threads,
        contextSize: context,
        sequences: options.sequences,
      })
    : null;
  log(`${us.name}: ${us.description}`);
  if (peer) log(`${peer.name}: ${peer.description}`);
  const work = makeWork(promptTokens, options, us.info.vocabularySize);
  const rounds: Round[] = [];
  using stop = stoppable();
  for (let round = 0; round < options.runs; round++) {
    await unlessStopped(stop.signal, async () => {
      // In turn, and in turn who begins: whatever drifts hits both alike.
      const first = round % 2 === 0;
      const before = first ? await timed(us, work) : null;
      const theirs = peer ? await timed(peer, work) : null;
      const mine = before ?? (await timed(us, work));
      await probe.measure();
      rounds.push({ ours: mine, peer: theirs, machine: await probe.measure() });
      log(`run ${round + 1} of ${options.runs}: ${describe(rounds.at(-1)!)}`);
    });
  }
  if (rounds.length === 0) throw new MillraceError("ABORTED", "Stopped before the first run was through.");
  const report = summarise(rounds, size, work, us, peer, options);
  process.stdout.write(options.json ? `${JSON.stringify(report, null, 2)}\n` : `${print(report)}\n`);
}

function makeWork(promptTokens: number, options: BenchOptions, vocabularySize: number): Work {
  // Sequences of one batch must differ, or a peer could share their prefix.
  const prompts = Array.from({ length: options.sequences }, (_, sequence) =>
    Array.from(
      { length: promptTokens },
      (_, at) => 300 + ((at * 7919 + sequence * 104729) % (vocabularySize - 300)),
    ),
  );
  return { prompts, generate: options.generate };
}

/** A short run that is not counted, since memory that lay idle during the other's turn comes back slowly; then the run. */
async function timed(contestant: Contestant, work: Work): Promise<Speed> {
  await contestant.run(shortened(work));
  return speed(work, await contestant.run(work));
}

function shortened({ prompts, generate }: Work): Work {
  return { prompts: prompts.map((ids) => ids.slice(0, 64)), generate: Math.min(8, generate) };
}

function describe({ ours, peer, machine }: Round): string {
  const both = (name: "prefill" | "decode") =>
    `${name} ${ours[name].toFixed(1)}${peer ? ` against ${peer[name].toFixed(1)}` : ""}`;
  return `${both("prefill")}, ${both("decode")} tokens/s; memory ${(machine.bandwidth / 1e9).toFixed(1)} GB/s`;
}

function summarise(
  rounds: readonly Round[],
  size: ModelSize,
  work: Work,
  us: Awaited<ReturnType<typeof ours>>,
  peer: Contestant | null,
  options: BenchOptions,
) {
  const of = (pick: (round: Round) => number) => median(rounds.map(pick));
  const promptTokens = work.prompts[0]!.length;
  const contextTokens = promptTokens + work.generate / 2;
  const stepBytes = size.bytesPerStep + options.sequences * contextTokens * size.cacheBytesPerToken;
  const parameters = size.multipliedParameters;
  const resident = process.memoryUsage().rss;
  const pick = (get: (speed: Speed) => number) => ({
    ours: of((round) => get(round.ours)),
    peer: peer ? of((round) => get(round.peer!)) : null,
  });
  const prefill = pick(({ prefill }) => prefill);
  const decode = pick(({ decode }) => decode);
  return {
    model: us.info.path,
    backend: us.info.backend,
    context: promptTokens,
    sequences: options.sequences,
    generate: work.generate,
    runs: rounds.length,
    complete: rounds.length === options.runs,
    prefill: {
      tokensPerSecond: prefill.ours,
      gops: (2 * parameters * prefill.ours) / 1e9,
      shareOfMultiplyPeak: of(
        (round) => (2 * size.promptParameters * round.ours.prefill) / round.machine.operations,
      ),
    },
    decode: {
      tokensPerSecond: decode.ours,
      bytesPerStep: stepBytes,
      gigabytesPerSecond: (of((round) => round.ours.steps) * stepBytes) / 1e9,
      shareOfBandwidth: of((round) => (round.ours.steps * stepBytes) / round.machine.bandwidth),
    },
    machine: {
      gigabytesPerSecond: of((round) => round.machine.bandwidth) / 1e9,
      gops: of((round) => round.machine.operations) / 1e9,
    },
    memory: {
      residentBytes: resident,
      fileBytes: us.info.fileBytes,
      ...us.info.memory,
      // What is resident beyond the cache's budget, over the file's size.
      residentOverFile: (resident - us.info.memory.cacheBytes) / us.info.fileBytes,
    },
    peer: peer
      ? {
          name: peer.name,
          description: peer.description,
          prefillTokensPerSecond: prefill.peer,
          decodeTokensPerSecond: decode.peer,
        }
      : null,
    // Pair by pair, so that a machine that slows down for a minute slows both sides of a ratio.
    ratio: peer
      ? {
          decode: of((round) => round.ours.decode / round.peer!.decode),
          prefill: of((round) => round.ours.prefill / round.peer!.prefill),
        }
      : null,
    rounds,
  };
}

function print(report: ReturnType<typeof summarise>): string {
  const { prefill, decode, machine, memory, peer, ratio } = report;
  const number = (value: number | null, digits = 1) =>
    (value === null ? "" : value.toFixed(digits)).padStart(10);
  const percent = (share: number) => `${(share * 100).toFixed(0)} %`;
  const lines = [
    `${report.model}`,
    `${report.backend.description}; ${report.sequences} at once, prompt ${report.context}, ${report.runs} runs, medians`,
    "",
    `tokens/s         millrace${peer ? `${peer.name.padStart(17)}     ratio` : ""}`,
    `prefill        ${number(prefill.tokensPerSecond)}${peer ? `       ${number(peer.prefillTokensPerSecond)}${number(ratio!.prefill, 2)}` : ""}`,
    `decode         ${number(decode.tokensPerSecond)}${peer ? `       ${number(peer.decodeTokensPerSecond)}${number(ratio!.decode, 2)}` : ""}`,
    "",
    `prefill: ${prefill.gops.toFixed(0)} GOP/s, ${percent(prefill.shareOfMultiplyPeak)} of the machine's ${machine.gops.toFixed(0)}`,
    `decode: ${decode.gigabytesPerSecond.toFixed(1)} GB/s, ${percent(decode.shareOfBandwidth)} of the machine's ${machine.gigabytesPerSecond.toFixed(1)}`,
    `memory: ${formatBytes(memory.residentBytes)} resident; file ${formatBytes(memory.fileBytes)}, cache ${formatBytes(memory.cacheBytes)}, scratch ${formatBytes(memory.scratchBytes)}; ${memory.residentOverFile.toFixed(2)} x file size without the cache`,
  ];
  return lines.join("\n");
}
