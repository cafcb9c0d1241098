/**
 * The log of the harbour town, which the model in the box writes by itself, without end and in a fixed amount of memory.
 * A question waits for the end of a stretch, is put into the stream, answered, and the log goes on.
 */
import { signal } from "@preact/signals";
import { controlToken } from "../api/chat.js";
import {
  append,
  closeSession,
  type GenerateRequest,
  generate,
  openSession,
  type Report,
  readMap,
  recall,
  type SessionInfo,
  type StreamMap,
} from "../api/sessions.js";
import { Mentions } from "./mentions.js";

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
  readonly isAnswered: boolean;
  /** The stored blocks that came back for it, with what they say, as tokens of the stream. */
  readonly blocks: readonly { readonly first: number; readonly last: number; readonly text: string }[];
}

export type State = "off" | "starting" | "running" | "paused" | "failed";

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
/** Tokens a second, over the last stretch that was written at full speed. */
export const speed = signal<number | null>(null);
export const memory = signal("2 MiB");

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
  const exchange: Exchange = { id: nextId++, question: text, answer: "", isAnswered: false, blocks: [] };
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
      if (asked) await answer(id, asked, signal);
      else if (state.value === "paused") await new Promise<void>((resolve) => (wake = resolve));
      else {
        await write(id, log, signal, (text) => say("log", text));
        longAgo.value = mentions.oldest(report.value.seen - report.value.kept);
      }
      wake = null;
    }
  } catch (error) {
    if (!signal.aborted) {
      problem.value = error instanceof Error ? error.message : String(error);
      state.value = "failed";
    }
  } finally {
    if (mapping) clearInterval(mapping);
    if (session) closeSession(session.id).catch(() => {});
    if (openId === session?.id) openId = null;
  }
}

/** One question with its answer; then the log goes on. */
async function answer(id: string, asked: Exchange, signal: AbortSignal): Promise<void> {
  say("question", asked.question);
  let exchange = asked;
  const tell = (news: Partial<Exchange>) => {
    exchange = { ...exchange, ...news };
    exchanges.value = exchanges.value.map((one) => (one.id === exchange.id ? exchange : one));
  };
  remember(report.value?.seen ?? 0, `\n${asked.question}\n`);
  report.value = await append(id, [{ role: "user", content: asked.question }]);
  const ranges = await recall(id);
  tell({ blocks: ranges.map(([first, last]) => ({ first, last, text: toldBetween(first, last) })) });
  await write(id, { max_tokens: 60, temperature: 0 }, signal, (text) =>
    tell({ answer: exchange.answer + text }),
  );
  tell({ isAnswered: true });
  remember(report.value.seen, "\n");
  report.value = await append(id, "\n");
}

/** Has the model go on, and gives what it says to `onText`. */
async function write(
  id: string,
  options: GenerateRequest,
  signal: AbortSignal,
  onText: (text: string) => void,
): Promise<void> {
  const at = report.value?.seen ?? 0;
  const begun = performance.now();
  let written = "";
  for await (const piece of generate(id, options, signal)) {
    written += piece.text;
    if (piece.text !== "") onText(piece.text);
    if (piece.report) {
      const seconds = (performance.now() - begun) / 1000;
      speed.value = (piece.report.seen - at) / seconds;
      report.value = piece.report;
    }
  }
  remember(at, written);
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

/** About what the stream says from token `first` to `last`: whole stretches are known, and parts of them by share. */
function toldBetween(first: number, last: number): string {
  let text = "";
  for (const [i, stretch] of told.entries()) {
    const end = told[i + 1]?.at ?? stretch.at + STRETCH;
    if (end <= first || stretch.at > last) continue;
    const share = (token: number) =>
      Math.round(
        (Math.min(Math.max(token - stretch.at, 0), end - stretch.at) / (end - stretch.at)) *
          stretch.text.length,
      );
    text += stretch.text.slice(share(first), share(last + 1));
  }
  return text.trim();
}
