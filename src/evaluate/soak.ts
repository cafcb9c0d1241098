/** A session that runs for as long as one likes: what it takes, in memory and in time, from its first token to its last. */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { SessionReport } from "../engine/protocol.js";
import { MillraceError } from "../errors.js";
import { makeFolder } from "../formats/cache-folder.js";
import { writeAtomically } from "../formats/file.js";
import { readJson } from "../formats/json.js";
import type { Model, SessionOptions } from "../session/model.js";
import type { Session } from "../session/session.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { PieceEncoder } from "../train/world-source.js";
import { BOS } from "../world/control.js";
import { world } from "../world/world.js";
import { MOST_ANSWER_TOKENS } from "./answers.js";
import { median } from "./median.js";
import { heldOutSeed, worldToken } from "./world-stream.js";

/**
 * "mixed": reads the harbour town's log and answers its questions, as a person at the keyboard would have it; "read":
 * only reads, questions and answers too; "generate": goes on with the log by itself, token by token.
 */
export type SoakMode = "mixed" | "read" | "generate";

/** A stretch of the run. */
export interface SoakSample {
  /** Tokens of the stream at its end. */
  readonly tokens: number;
  /** Of the whole process, at its end. */
  readonly residentBytes: number;
  /** Pages and tables of the session, at its end. */
  readonly sessionBytes: number;
  readonly kept: number;
  /** Milliseconds that passed, and that processors worked, per token. */
  readonly ms: number;
  readonly cpuMs: number;
  /** The medians of calls that read and of answers: milliseconds per token; NaN where there were none. */
  readonly readMs: number;
  readonly saidMs: number;
}

export interface SoakOptions {
  /** Length of the stream. */
  readonly tokens: number;
  readonly mode: SoakMode;
  readonly seed: number;
  /** Tokens of a sample. */
  readonly every: number;
  readonly session: SessionOptions;
  /** A folder in which the session is saved along the way, and from which an earlier run goes on. */
  readonly checkpoint?: { readonly folder: string; readonly every: number };
  readonly signal?: AbortSignal;
  readonly onProgress?: (tokens: number) => void;
}

export interface SoakResult {
  readonly samples: readonly SoakSample[];
  readonly report: SessionReport;
  /** The hard limit on the session. */
  readonly memoryBytes: number;
  /** Tokens of the stream that an earlier run had behind it; 0 where this one began. */
  readonly resumedAt: number;
}

/** What stands in a checkpoint beside the session. */
interface State {
  readonly format: "millrace-soak-1";
  readonly session: string;
  readonly mode: SoakMode;
  readonly seed: number;
  readonly tokens: number;
  /** Pieces of the world that have been read. */
  readonly pieces: number;
  /** Of these, tokens that the session has not got yet. */
  readonly waiting: readonly number[];
  readonly samples: readonly SoakSample[];
}

/** Tokens that are read, or said, at once where no question ends a stretch before. */
const STRETCH = 256;

/**
 * Runs until the stream has so many tokens, or the signal says stop: what has been measured so far is then returned. Throws
 * what sessions throw, BAD_FORMAT for a checkpoint that is none, INVALID_ARGUMENT for one of another run.
 */
export async function soak(model: Model, tokenizer: Tokenizer, options: SoakOptions): Promise<SoakResult> {
  const { checkpoint, signal } = options;
  const earlier = checkpoint ? await readState(checkpoint.folder, options) : null;
  await using session =
    earlier && checkpoint
      ? await model.restore(join(checkpoint.folder, earlier.session))
      : model.session(options.session);
  const run = new Run(session, options, earlier);
  const { memoryBytes } = await session.opened;
  const steps = STEPS[options.mode](session, tokenizer, options, run);
  let savedAt = run.tokens;
  if (!earlier) await run.read([worldToken(tokenizer, BOS)]);
  for await (const _ of steps) {
    if (checkpoint && run.tokens - savedAt >= checkpoint.every) {
      await saveState(checkpoint.folder, session, run.state());
      savedAt = run.tokens;
    }
    if (run.tokens >= options.tokens || signal?.aborted) break;
  }
  if (checkpoint && run.tokens > savedAt) await saveState(checkpoint.folder, session, run.state());
  return {
    samples: run.samples,
    report: session.report,
    memoryBytes,
    resumedAt: earlier?.tokens ?? 0,
  };
}

type Steps = (
  session: Session,
  tokenizer: Tokenizer,
  options: SoakOptions,
  run: Run,
) => AsyncGenerator<void, void>;

/** Each step reads or says a little; between steps the run may stop. */
const STEPS: Readonly<Record<SoakMode, Steps>> = {
  mixed: (_, tokenizer, options, run) => readWorld(tokenizer, options, run, true),
  read: (_, tokenizer, options, run) => readWorld(tokenizer, options, run, false),
  async *generate(_, tokenizer, _options, run) {
    if (run.pieces === 0) {
      await run.read(tokenizer.encode("\n", { addSpecial: false, continues: true }));
      run.pieces = 1;
    }
    for (;;) {
      await run.say(STRETCH, true);
      yield;
    }
  },
};

async function* readWorld(
  tokenizer: Tokenizer,
  { seed }: SoakOptions,
  run: Run,
  answers: boolean,
): AsyncGenerator<void, void> {
  const encoder = new PieceEncoder(tokenizer);
  const lineBreak = tokenizer.encode("\n", { addSpecial: false, continues: true });
  let index = 0;
  for (const piece of world({ seed: heldOutSeed(seed) })) {
    if (index++ < run.pieces) continue;
    const said = answers && piece.kind === "answer";
    if (!said) for (const id of encoder.encode(piece)[0]) run.waiting.push(id);
    const asks = answers && piece.kind === "question";
    if (!said && !asks && run.waiting.length < STRETCH) continue;
    if (run.waiting.length > 0) await run.read(run.waiting);
    run.waiting = [];
    if (said) {
      await run.say(MOST_ANSWER_TOKENS, false);
      run.waiting.push(...lineBreak);
    }
    run.pieces = index;
    yield;
  }
}

/** Counts and measures. */
class Run {
  readonly samples: SoakSample[];
  tokens: number;
  pieces: number;
  waiting: number[];
  readonly #session: Session;
  readonly #options: SoakOptions;
  #from: number;
  #startedAt = performance.now();
  #cpu = process.cpuUsage();
  #readMs: number[] = [];
  #saidMs: number[] = [];

  constructor(session: Session, options: SoakOptions, earlier: State | null) {
    this.#session = session;
    this.#options = options;
    this.samples = [...(earlier?.samples ?? [])];
    this.tokens = earlier?.tokens ?? 0;
    this.pieces = earlier?.pieces ?? 0;
    this.waiting = [...(earlier?.waiting ?? [])];
    this.#from = this.tokens;
  }

  async read(ids: readonly number[] | Int32Array): Promise<void> {
    const startedAt = performance.now();
    const count = await this.#session.append(ids);
    this.#readMs.push((performance.now() - startedAt) / count);
    this.#took(count);
  }

  async say(maxTokens: number, ignoreEos: boolean): Promise<void> {
    const answer = this.#session.generate({ maxTokens, ignoreEos, temperature: 0 });
    const { usage, timings } = await answer.result;
    if (usage.generatedTokens > 1) this.#saidMs.push(timings.decodeMs / (usage.generatedTokens - 1));
    this.#took(usage.generatedTokens);
  }

  state(): Omit<State, "session"> {
    const { mode, seed } = this.#options;
    const { tokens, pieces, waiting, samples } = this;
    return { format: "millrace-soak-1", mode, seed, tokens, pieces, waiting, samples };
  }

  #took(count: number): void {
    this.tokens += count;
    this.#options.onProgress?.(this.tokens);
    if (this.tokens - this.#from < this.#options.every) return;
    const stretch = this.tokens - this.#from;
    const now = performance.now();
    const { user, system } = process.cpuUsage(this.#cpu);
    const { bytes, kept } = this.#session.report;
    this.samples.push({
      tokens: this.tokens,
      residentBytes: process.memoryUsage.rss(),
      sessionBytes: bytes,
      kept,
      ms: (now - this.#startedAt) / stretch,
      cpuMs: (user + system) / 1000 / stretch,
      readMs: median(this.#readMs),
      saidMs: median(this.#saidMs),
    });
    this.#from = this.tokens;
    this.#startedAt = now;
    this.#cpu = process.cpuUsage();
    this.#readMs = [];
    this.#saidMs = [];
  }
}

/**
 * What the samples of the first tenth after the warm-up have in the middle, those of the last tenth, and the most of all
 * samples. The runtime compiles what runs often, and fills its heaps up to where it first collects them: that is no growth
 * of the session's, and the warm-up leaves it out. Tenths are of what follows the warm-up of `warmUp` tokens.
 */
export function soakTenths(
  samples: readonly SoakSample[],
  warmUp = 0,
): Readonly<Record<"first" | "last" | "most", SoakSample>> {
  const end = samples.at(-1)?.tokens ?? 0;
  const after = samples.filter(({ tokens }) => tokens > warmUp);
  const tenth = (end - warmUp) / 10;
  const firstEnd = Math.max(warmUp + tenth, after[0]?.tokens ?? 0);
  const first = after.filter(({ tokens }) => tokens <= firstEnd);
  const last = after.filter(({ tokens }) => tokens > end - tenth);
  const most = (values: readonly number[]) =>
    values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return { first: overall(first, median), last: overall(last, median), most: overall(samples, most) };
}

const FIGURES = [
  "tokens",
  "residentBytes",
  "sessionBytes",
  "kept",
  "ms",
  "cpuMs",
  "readMs",
  "saidMs",
] as const satisfies readonly (keyof SoakSample)[];

function overall(samples: readonly SoakSample[], what: (values: readonly number[]) => number): SoakSample {
  // What is NaN in a sample is null in one that was read from a checkpoint.
  const of = (name: keyof SoakSample) => what(samples.map((each) => each[name]).filter(Number.isFinite));
  return Object.fromEntries(FIGURES.map((name) => [name, of(name)])) as unknown as SoakSample;
}

const STATE = "soak.json";
const SESSION = "session-";

/** The session first, under a name of its own, then the state that names it: whenever the process dies, both agree. */
async function saveState(folder: string, session: Session, state: Omit<State, "session">): Promise<void> {
  await makeFolder(folder);
  const name = `${SESSION}${state.tokens}.mill`;
  await session.save(join(folder, name));
  const text = JSON.stringify({ ...state, session: name });
  await writeAtomically(join(folder, STATE), (file) => file.write(Buffer.from(text)));
  for (const each of await readdir(folder)) {
    if (each.startsWith(SESSION) && !each.startsWith(name)) await rm(join(folder, each), { recursive: true });
  }
}

async function readState(folder: string, { mode, seed }: SoakOptions): Promise<State | null> {
  const path = join(folder, STATE);
  const found = await readJson(path, "it says where the soak stood").catch(notThere);
  if (found === null) return null;
  const state = found as unknown as State;
  if (state.format !== "millrace-soak-1") {
    throw new MillraceError("BAD_FORMAT", `${path} is no checkpoint of a soak; name another folder.`, {
      path,
    });
  }
  if (state.mode !== mode || state.seed !== seed) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `${path} is of a run with mode ${state.mode} and seed ${state.seed}; got ${mode} and ${seed}. Name another folder.`,
      { path },
    );
  }
  return state;
}

const notThere = (error: unknown): null => {
  if (error instanceof MillraceError && error.code === "FILE_NOT_FOUND") return null;
  throw error;
};
