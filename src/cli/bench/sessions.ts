/** `millrace bench sessions`: what endless sessions that append and answer at once reach together. */
import { setMaxListeners } from "node:events";
import { basename } from "node:path";
import { Argument, Command, Option } from "commander";
import type { BackendName } from "../../backends/contract.js";
import { type Speed, speed } from "../../bench/contestant.js";
import { median } from "../../evaluate/median.js";
import { type Model, type SessionOptions, sinks, window } from "../../index.js";
import { openModel } from "../open-model.js";
import { backendOption, count, threadsOption } from "../options.js";
import { addResultOptions, deliver, type ResultOptions } from "../results.js";
import { bold, say, table } from "../terminal.js";
import { addShapeOptions, madeModel, type ShapeOptions } from "./made-model.js";
import { stoppable, unlessStopped } from "./stoppable.js";

interface Options extends ShapeOptions, ResultOptions {
  readonly sessions: readonly number[];
  readonly append: number;
  readonly generate: number;
  readonly window: number;
  readonly alike?: boolean;
  readonly runs: number;
  readonly backend: BackendName | "auto";
  readonly threads?: number;
}

/** Tokens per second of all sessions together, medians of runs. */
interface Row {
  readonly sessions: number;
  readonly appended: number;
  readonly answered: number;
}

const DEFAULT_SESSIONS: readonly number[] = [1, 4, 16];

export function sessionsCommand(): Command {
  const number = (flags: string, description: string, fallback: number) =>
    new Option(flags, description).argParser(count).default(fallback);
  const command = new Command("sessions")
    .summary("measure endless sessions that append and answer at once")
    .description(
      "Opens sessions, appends to all of them at once, then lets all answer at once, and prints tokens per second of all\n" +
        "together. They share every step although their policies and codecs differ. Without MODEL, a random-weight file\n" +
        "of the given shape is made once and kept in the cache folder.",
    )
    .addArgument(new Argument("[model]", "GGUF file, safetensors folder or hf:owner/repo/file"));
  addShapeOptions(command)
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(
      new Option("--sessions <n...>", "how many at once")
        .argParser(counts)
        .default(DEFAULT_SESSIONS, "1 4 16"),
    )
    .addOption(number("--append <tokens>", "appended to each session", 128))
    .addOption(number("--generate <tokens>", "answered by each session", 64))
    .addOption(number("--window <tokens>", "kept by each session", 512))
    .addOption(new Option("--alike", "all keep sinks in f16 (default: policies and codecs take turns)"))
    .addOption(
      number("--runs <n>", "counted runs of each, in turn, after a short one that is not counted", 3),
    );
  return addResultOptions(command, false).action(async (named: string | undefined, options: Options) => {
    await bench(named, options);
  });
}

/** Those that are given take the place of the default ones. */
const counts = (text: string, earlier: readonly number[]): number[] =>
  earlier === DEFAULT_SESSIONS ? [count(text)] : [...earlier, count(text)];

async function bench(named: string | undefined, options: Options): Promise<void> {
  const { backend, threads, runs } = options;
  using stop = stoppable();
  // Every append and every answer listens to it.
  setMaxListeners(0, stop.signal);
  await using model = await openModel(named ?? (await madeModel(options)), {
    backend,
    // Sessions take no places of requests.
    sequences: 1,
    ...(threads === undefined ? {} : { threads }),
  });
  const measured = new Map<number, Speed[]>(options.sessions.map((sessions) => [sessions, []]));
  const most = Math.max(...measured.keys());
  await unlessStopped(stop.signal, async () => {
    await play(model, most, { ...options, generate: Math.min(4, options.generate) }, stop.signal);
  });
  for (let run = 0; run < runs; run++) {
    for (const [sessions, speeds] of measured) {
      await unlessStopped(stop.signal, async () => {
        const reached = await play(model, sessions, options, stop.signal);
        speeds.push(reached);
        say(`run ${run + 1} of ${runs}, ${sessions} at once: ${reached.decode.toFixed(1)} tokens/s`);
      });
    }
  }
  const rows = [...measured].map(([sessions, speeds]): Row => {
    const of = (pick: (speed: Speed) => number) => median(speeds.map(pick));
    return { sessions, appended: of(({ prefill }) => prefill), answered: of(({ decode }) => decode) };
  });
  const { path, backend: ran } = model.info;
  const { append, generate, alike = false } = options;
  const report = {
    model: path,
    backend: ran.description,
    append,
    generate,
    window: options.window,
    alike,
    complete: [...measured.values()].every((speeds) => speeds.length === runs),
    rows,
  };
  await deliver(options, report, print(report));
}

/** One run: all append, and when the last is in, all answer. */
async function play(
  model: Model,
  numSessions: number,
  options: Options,
  signal: AbortSignal,
): Promise<Speed> {
  const sessions = Array.from({ length: numSessions }, (_, i) => model.session(optionsOf(i, options)));
  try {
    await Promise.all(sessions.map(({ opened }) => opened));
    const prompts = sessions.map((_, i) => promptOf(i, options.append, model.info.vocabularySize));
    const start = performance.now();
    await Promise.all(sessions.map((session, i) => session.append(prompts[i]!, { signal })));
    const answer = { maxTokens: options.generate, temperature: 0, ignoreEos: true, signal } as const;
    const times = await Promise.all(
      sessions.map(async (session) => {
        const arrived: number[] = [];
        for await (const { tokens } of session.generate(answer)) {
          const now = performance.now() - start;
          for (const _ of tokens) arrived.push(now);
        }
        return arrived;
      }),
    );
    return speed({ prompts, generate: options.generate }, { times });
  } finally {
    await Promise.all(sessions.map((session) => session.close()));
  }
}

function optionsOf(index: number, { window: tokens, alike }: Options): SessionOptions {
  const kinds: readonly SessionOptions[] = [
    { cache: { policy: sinks({ window: tokens }), codec: "f16" } },
    { cache: { policy: window({ tokens }), codec: "int8" } },
    { cache: { policy: sinks({ window: tokens, sinks: 16 }), codec: "f32" } },
  ];
  return kinds[alike ? 0 : index % kinds.length]!;
}

const promptOf = (session: number, tokens: number, vocabularySize: number): number[] =>
  Array.from({ length: tokens }, (_, at) => (at * 7919 + session * 104729) % vocabularySize);

interface Report {
  readonly model: string;
  readonly backend: string;
  readonly append: number;
  readonly generate: number;
  readonly alike: boolean;
  readonly complete: boolean;
  readonly rows: readonly Row[];
}

function print({ model, backend, append, generate, alike, complete, rows }: Report): string {
  const [first] = rows;
  const head = ["sessions", "tokens/s appended", "answered", "by each", `against ${first?.sessions}`];
  const cells = rows.map(({ sessions, appended, answered }) => [
    String(sessions),
    appended.toFixed(1),
    answered.toFixed(1),
    (answered / sessions).toFixed(1),
    `${(answered / first!.answered).toFixed(2)}x`,
  ]);
  const kinds = alike ? "alike" : "of three policies and codecs in turn";
  return [
    bold(`Sessions ${kinds}, ${append} tokens appended and ${generate} answered by each: ${basename(model)}`),
    backend,
    "",
    table(
      [head, ...cells],
      head.map(() => "right"),
    ),
    ...(complete ? [] : ["", "Stopped before the end."]),
  ].join("\n");
}
