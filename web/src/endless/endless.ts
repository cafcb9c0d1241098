/**
 * The log of the harbour town, which the model in the box writes by itself, without end and in a fixed amount of memory.
 * A question waits for the end of a stretch, is put into the stream, answered, and the log goes on.
 */
import { signal } from "@preact/signals";
import { announce } from "../announce.js";
import { controlToken } from "../api/chat.js";
import { ServerError } from "../api/http.js";
import {
  append,
  closeSession,
  type GenerateRequest,
  generate,
  openSession,
  type Report,
  readMap,
  readSession,
  recall,
  type SessionInfo,
  type StreamMap,
} from "../api/sessions.js";
import { count } from "../format.js";
import { Mentions } from "./mentions.js";
import { type Block, type Source, sourceOf } from "./source.js";

/** What the log begins with; the rest is the model's. */
const BEGIN = "The night was over, and it was Monday.";
/**
 * What opens a question. The log as the boxed models have learned it has people in it who ask; here only the reader does.
 */
const QUESTION = "<|user|>";

/** Tokens that are written before the page looks whether something is asked. */
const STRETCH = 48;
/** Stretches of the stream in the picture. */
export const COLUMNS = 160;
/** Characters of the log that the page keeps, to show what a recalled block says. */
const MOST_TEXT = 4_000_000;
const MAP_EVERY_MS = 700;
const TRY_AGAIN_MS = 1000;

/** A piece of the stream as it is shown: what the log tells, or where something was asked. */
export interface Entry {
  readonly id: number;
  readonly kind: "log" | "question";
  readonly text: string;
}

/** A question with its answer. */
export interface Exchange {
  readonly id: number;
  readonly question: string;
  readonly answer: string;
  /** "lost": the log ended first. */
  readonly state: "waiting" | "answered" | "lost";
  /** The stored blocks that came back for it, with what they say, as tokens of the stream. */
  readonly blocks: readonly Block[];
  /** Where in those it is said what the answer says; null: in none of them. */
  readonly source: Source | null;
}

/** "away": the server does not answer, and the log goes on when it does. */
export type State = "off" | "starting" | "running" | "paused" | "away" | "failed";

export const state = signal<State>("off");
export const problem = signal<string | null>(null);
export const info = signal<SessionInfo | null>(null);
export const report = signal<Report | null>(null);
export const map = signal<StreamMap | null>(null);
/** The newest entries; older ones are off the page. */
export const entries = signal<readonly Entry[]>([]);
/** What was asked, newest last. */
export const exchanges = signal<readonly Exchange[]>([]);
/** Something that was put somewhere so long ago that memory no longer holds it: worth a question. */
export const longAgo = signal<string | null>(null);
export const memory = signal("2 MiB");
/** The model that writes; null: none was chosen. */
export const writer = signal<string | null>(null);

const MOST_ENTRIES = 120;
const MOST_EXCHANGES = 50;
let run: AbortController | null = null;
let openId: string | null = null;
let questions: Exchange[] = [];
let mentions = new Mentions();
let wake: (() => void) | null = null;
let nextId = 1;
/** All that was written: text by the token of the stream at which it begins. */
let told: { at: number; text: string }[] = [];
let toldChars = 0;

export function start(model: string): void {
  stop();
  run = new AbortController();
  entries.value = [];
  exchanges.value = [];
  longAgo.value = null;
  mentions = new Mentions();
  told = [];
  toldChars = 0;
  questions = [];
  map.value = null;
  report.value = null;
  problem.value = null;
  state.value = "starting";
  void live(model, run.signal);
}

export function stop(): void {
  run?.abort();
  run = null;
  wake?.();
  state.value = "off";
  giveUp();
}

/** What was asked and not answered will not be. */
function giveUp(): void {
  questions = [];
  exchanges.value = exchanges.value.map((one) => (one.state === "waiting" ? { ...one, state: "lost" } : one));
}

// Nobody could ask for it again.
addEventListener("pagehide", () => {
  if (openId !== null) closeSession(openId).catch(() => {});
  stop();
});

export function pause(paused: boolean): void {
  if (paused && state.value === "running") state.value = "paused";
  else if (!paused && state.value === "paused") {
    state.value = "running";
    wake?.();
  }
}

export function question(text: string): void {
  const exchange: Exchange = {
    id: nextId++,
    question: text,
    answer: "",
    state: "waiting",
    blocks: [],
    source: null,
  };
  questions.push(exchange);
  longAgo.value = null;
  exchanges.value = [...exchanges.value, exchange].slice(-MOST_EXCHANGES);
  wake?.();
}

async function live(model: string, signal: AbortSignal): Promise<void> {
  let session: SessionInfo | null = null;
  let mapping: ReturnType<typeof setInterval> | null = null;
  try {
    session = await openSession({ model, memory: memory.value, recall: { disk: "256 MiB", auto: false } });
    info.value = session;
    const { id } = session;
    openId = id;
    const opensQuestion = await controlToken(model, QUESTION);
    const log = {
      max_tokens: STRETCH,
      temperature: 0.8,
      ...(opensQuestion !== null && { logit_bias: { [opensQuestion]: -100 } }),
    };
    report.value = await append(id, BEGIN);
    say("log", BEGIN);
    remember(0, BEGIN);
    if (state.value === "starting") state.value = "running";
    let reading = false;
    const readAgain = async () => {
      if (reading || document.hidden) return;
      reading = true;
      const read = await readMap(id, COLUMNS).catch(() => null);
      if (read && !signal.aborted) map.value = read;
      reading = false;
    };
    mapping = setInterval(readAgain, MAP_EVERY_MS);
    while (!signal.aborted) {
      const asked = questions.shift();
      try {
        if (asked) await answer(id, asked, signal);
        else if (state.value === "paused") await new Promise<void>((resolve) => (wake = resolve));
        else {
          await write(id, log, signal, (text) => say("log", text));
          longAgo.value = mentions.oldest(report.value.seen - report.value.kept);
        }
      } catch (error) {
        if (!isAway(error) || signal.aborted) throw error;
        if (asked) questions.unshift(asked);
        await comeBack(id, signal);
      }
      wake = null;
    }
  } catch (error) {
    if (!signal.aborted) {
      problem.value = error instanceof Error ? error.message : String(error);
      state.value = "failed";
      giveUp();
    }
  } finally {
    if (mapping) clearInterval(mapping);
    if (session) closeSession(session.id).catch(() => {});
    if (openId === session?.id) openId = null;
  }
}

/** It cannot be reached, or is about to stop. */
const isAway = (error: unknown): boolean =>
  error instanceof ServerError && (error.status === 0 || error.code === "shutting_down");

/** Resolves when the server is there again, and with it the session. Throws where that is gone. */
async function comeBack(id: string, signal: AbortSignal): Promise<void> {
  const before = state.value;
  state.value = "away";
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, TRY_AGAIN_MS));
    try {
      report.value = (await readSession(id, signal)).report;
      if (state.value === "away") state.value = before;
      return;
    } catch (error) {
      if (error instanceof ServerError && error.status === 404)
        throw new Error("The server was started anew, and the log went with the old one. Start another.");
      if (!isAway(error)) throw error;
    }
  }
}

/** One question with its answer; then the log goes on. */
async function answer(id: string, asked: Exchange, signal: AbortSignal): Promise<void> {
  let exchange = asked;
  const tell = (news: Partial<Exchange>) => {
    exchange = { ...exchange, ...news };
    exchanges.value = exchanges.value.map((one) => (one.id === exchange.id ? exchange : one));
  };
  const at = report.value?.seen ?? 0;
  report.value = await append(id, [{ role: "user", content: asked.question }]);
  say("question", asked.question);
  remember(at, `\n${asked.question}\n`);
  const blocks = (await recall(id)).map(([first, last]) => ({ first, last, text: toldBetween(first, last) }));
  tell({ blocks });
  await write(id, { max_tokens: 60, temperature: 0 }, signal, (text) =>
    tell({ answer: exchange.answer + text }),
  );
  const source = sourceOf(blocks, asked.question, exchange.answer);
  tell({ state: "answered", source });
  announce(source ? `${exchange.answer} ${placeInWords(source)}` : exchange.answer);
  remember(report.value.seen, "\n");
  report.value = await append(id, "\n");
}

/** What is said where an answer came from the disk. */
export const placeInWords = ({ block: { first, last } }: Source): string =>
  `Recalled from disk, tokens ${count(first)} to ${count(last)}.`;

/** Has the model go on, and gives what it says to `onText`. */
async function write(
  id: string,
  options: GenerateRequest,
  signal: AbortSignal,
  onText: (text: string) => void,
): Promise<void> {
  const at = report.value?.seen ?? 0;
  let written = "";
  try {
    for await (const piece of generate(id, options, signal)) {
      written += piece.text;
      if (piece.text !== "") onText(piece.text);
      if (piece.report) report.value = piece.report;
    }
  } finally {
    remember(at, written);
  }
}

/** Goes on with the last entry where it is of the same kind, and begins another where not. */
function say(kind: Entry["kind"], text: string): void {
  const last = entries.value.at(-1);
  const goesOn = kind === "log" && last?.kind === "log" && !last.text.endsWith("\n");
  const entry: Entry = { id: goesOn ? last.id : nextId++, kind, text: goesOn ? last.text + text : text };
  entries.value = [...(goesOn ? entries.value.slice(0, -1) : entries.value), entry].slice(-MOST_ENTRIES);
}

function remember(at: number, text: string): void {
  told.push({ at, text });
  toldChars += text.length;
  mentions.read(at, text);
  while (toldChars > MOST_TEXT) toldChars -= told.shift()!.text.length;
}

/**
 * What the stream says from token `first` to `last`, in whole words: where stretches begin is known, and where in them a
 * token is by share.
 */
function toldBetween(first: number, last: number): string {
  let text = "";
  let from: number | null = null;
  let to = 0;
  for (const [i, stretch] of told.entries()) {
    const end = told[i + 1]?.at ?? stretch.at + STRETCH;
    if (end <= first || stretch.at > last) continue;
    const charOf = (token: number) => {
      const share = (Math.min(Math.max(token, stretch.at), end) - stretch.at) / (end - stretch.at);
      return text.length + Math.round(share * stretch.text.length);
    };
    from ??= charOf(first);
    to = charOf(last + 1);
    text += stretch.text;
  }
  from ??= 0;
  while (from > 0 && /\S/.test(text[from - 1]!)) from--;
  while (to < text.length && /\S/.test(text[to]!)) to++;
  return text.slice(from, to).trim();
}
