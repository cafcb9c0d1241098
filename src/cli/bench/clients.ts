/** `millrace bench clients`: a server with many clients, its memory and its event loop over time. */
import { basename } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import type { BackendName } from "../../backends/contract.js";
import { type ClientsMeasured, type ClientsSample, measureClients } from "../../bench/clients.js";
import { quantiles } from "../../bench/quantiles.js";
import { formatBytes } from "../../engine/bytes.js";
import { parseDuration } from "../../engine/duration.js";
import { median } from "../../evaluate/median.js";
import type { Panel } from "../../plot/plot.js";
import { backendOption, count, modelArgument, modelSource, threadsOption } from "../options.js";
import { addResultOptions, deliver, type ResultOptions } from "../results.js";
import { bold, plural, table } from "../terminal.js";
import { seldom, stoppable } from "./stoppable.js";

interface ClientsFlags extends ResultOptions {
  readonly clients: number;
  readonly active: number;
  readonly time: number;
  readonly answer: number;
  readonly maxSequences: number;
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly maxStall?: string;
  readonly profile?: string;
}

/** Memory is said to be flat by what it is between this share of the time and its end. */
const SETTLED = 0.25;

export function clientsCommand(): Command {
  const number = (flags: string, description: string, fallback: number) =>
    new Option(flags, description).argParser(count).default(fallback);
  const command = new Command("clients")
    .summary("measure a server with many clients: errors, memory, event loop")
    .description(
      "Starts millrace serve as a process of its own, and another with clients that all keep a connection open; some of " +
        "them at a time, in turn, ask for an answer and read it as it is streamed. Measures what goes wrong, the server's " +
        "memory over time, and how late its event loop is.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Clients:")
    .addOption(number("--clients <n>", "connected clients", 1000))
    .addOption(number("--active <n>", "of them that ask at a time", 100))
    .addOption(
      new Option("--time <time>", 'how long, such as "10min"').argParser(time).default(600_000, "10min"),
    )
    .addOption(number("--answer <tokens>", "length of an answer", 32))
    .optionsGroup("Server:")
    .addOption(number("--max-sequences <n>", "requests that run at once", 32))
    .addOption(new Option("--max-stall <time>", "as serve takes it"))
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(
      new Option("--profile <folder>", "write a profile of the server's processor time there (.cpuprofile)"),
    );
  return addResultOptions(command).action(async (named: string | undefined, flags: ClientsFlags) => {
    await bench(modelSource(named), flags);
  });
}

async function bench(source: string, flags: ClientsFlags): Promise<void> {
  const { clients, active, time, answer, maxSequences, maxStall, backend, threads, profile } = flags;
  using stop = stoppable();
  const tell = seldom(10_000);
  const measured = await measureClients({
    clients,
    active,
    answer,
    seconds: time / 1000,
    serve: [
      source,
      ...["--max-sequences", String(maxSequences), "--backend", backend],
      ...(threads === undefined ? [] : ["--threads", String(threads)]),
      ...(maxStall === undefined ? [] : ["--max-stall", maxStall]),
    ],
    ...(profile === undefined ? {} : { profile }),
    signal: stop.signal,
    onSample: ({ seconds, answered, errors, open, residentBytes, delay }) =>
      tell(
        () =>
          `${seconds.toFixed(0)} s: ${plural(answered, "answer")}, ${plural(sum(errors), "error")}, ` +
          `${plural(open, "connection")}, ${formatBytes(residentBytes)}, event loop p99 ${ms(delay.p99)}`,
      ),
  });
  const { result, delay, samples } = measured;
  const { firstMs, wholeMs, ...counted } = result;
  const report = {
    model: source,
    clients,
    active,
    answer,
    maxSequences,
    complete: result.seconds >= time / 1000,
    ...counted,
    requestsPerSecond: result.answered / result.seconds,
    tokensPerSecond: result.tokens / result.seconds,
    firstEventMs: quantiles(firstMs),
    answerMs: quantiles(wholeMs),
    eventLoopDelayMs: delay,
    memory: memoryOf(samples),
    samples,
  };
  await deliver(flags, report, print(report), panels(basename(source), measured));
}

interface Memory {
  /** Resident bytes, medians of the first and the last tenth of the settled time; and the most of all. */
  readonly first: number;
  readonly last: number;
  readonly most: number;
  /** Slope over the settled time, in bytes a minute, by least squares. */
  readonly growth: number;
}

function memoryOf(samples: readonly ClientsSample[]): Memory {
  const end = samples.at(-1)?.seconds ?? 0;
  const settled = samples.filter(({ seconds }) => seconds >= SETTLED * end);
  const tenth = Math.max(1, Math.floor(settled.length / 10));
  const bytes = (part: readonly ClientsSample[]) => median(part.map(({ residentBytes }) => residentBytes));
  const mean = (pick: (sample: ClientsSample) => number) =>
    settled.reduce((total, each) => total + pick(each), 0) / settled.length;
  const [x, y] = [mean(({ seconds }) => seconds), mean(({ residentBytes }) => residentBytes)];
  const over = mean((each) => (each.seconds - x) * (each.residentBytes - y));
  const under = mean((each) => (each.seconds - x) ** 2);
  return {
    first: bytes(settled.slice(0, tenth)),
    last: bytes(settled.slice(-tenth)),
    most: Math.max(...samples.map(({ residentBytes }) => residentBytes)),
    growth: (60 * over) / under,
  };
}

interface Report extends Omit<ClientsMeasured["result"], "firstMs" | "wholeMs"> {
  readonly model: string;
  readonly clients: number;
  readonly active: number;
  readonly complete: boolean;
  readonly requestsPerSecond: number;
  readonly tokensPerSecond: number;
  readonly firstEventMs: ReturnType<typeof quantiles>;
  readonly answerMs: ReturnType<typeof quantiles>;
  readonly eventLoopDelayMs: ClientsMeasured["delay"];
  readonly memory: Memory;
}

function print(report: Report): string {
  const { memory, eventLoopDelayMs: delay, firstEventMs: first, answerMs: answer, errors } = report;
  const perMinute = `${memory.growth < 0 ? "-" : "+"}${formatBytes(Math.abs(memory.growth))} a minute`;
  const rows = [
    [
      "answers",
      `${report.answered} (${report.requestsPerSecond.toFixed(1)} a second, ${report.tokensPerSecond.toFixed(0)} tokens/s)`,
    ],
    [
      "errors",
      sum(errors) === 0
        ? "none"
        : Object.entries(errors)
            .map(([name, n]) => `${n} x ${name}`)
            .join(", "),
    ],
    ["connections", `${report.open} open at the end, ${report.reconnected} opened again`],
    ["first event", `p50 ${ms(first.p50)}, p90 ${ms(first.p90)}, p99 ${ms(first.p99)}`],
    ["whole answer", `p50 ${ms(answer.p50)}, p90 ${ms(answer.p90)}, p99 ${ms(answer.p99)}`],
    ["event loop delay", `p50 ${ms(delay.p50)}, p99 ${ms(delay.p99)}, most ${ms(delay.max)}`],
    [
      "resident memory",
      `${formatBytes(memory.first)} at first, ${formatBytes(memory.last)} at last (${perMinute}), most ${formatBytes(memory.most)}`,
    ],
  ];
  return [
    bold(
      `${plural(report.clients, "client")}, ${report.active} at a time, ${report.seconds.toFixed(0)} s: ${basename(report.model)}`,
    ),
    "",
    table(rows, ["left", "left"]),
    "",
    `Memory at first and at last: once it has settled, after ${100 * SETTLED} % of the time.`,
    ...(report.complete ? [] : ["Stopped before the end."]),
  ].join("\n");
}

function panels(title: string, { samples }: ClientsMeasured): Panel[] {
  const x = { label: "seconds", from: 0 };
  const line = (name: string, of: (sample: ClientsSample) => number) => ({
    name,
    points: samples.map((sample) => [sample.seconds, of(sample)] as const),
  });
  const mebibytes = (bytes: number) => bytes / 2 ** 20;
  return [
    {
      title: `Memory of the server: ${title}`,
      x,
      y: { label: "MiB", from: 0 },
      series: [
        line("resident", ({ residentBytes }) => mebibytes(residentBytes)),
        line("JavaScript heap", ({ heapBytes }) => mebibytes(heapBytes)),
      ],
    },
    {
      title: "Event loop delay, of each second",
      x,
      y: { label: "milliseconds", from: 0 },
      series: [line("p99", ({ delay }) => delay.p99), line("p50", ({ delay }) => delay.p50)],
    },
  ];
}

function time(text: string): number {
  try {
    return parseDuration(text, "--time");
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

const sum = (errors: Readonly<Record<string, number>>): number =>
  Object.values(errors).reduce((total, each) => total + each, 0);
const ms = (value: number): string => `${value.toFixed(value < 100 ? 1 : 0)} ms`;
