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

export interface Entry {
  readonly id: number;
  readonly kind: "log" | "question" | "answer";
  readonly text: string;
  /** Of an answer: the stored blocks that came back for it, with what they say. */
  readonly blocks?: readonly { readonly first: number; readonly last: number; readonly text: string }[];
}

export type State = "off" | "starting" | "running" | "paused" | "failed";

export const state = signal<State>("off");
export const problem = signal<string | null>(null);
export const info = signal<SessionInfo | null>(null);
export const report = signal<Report | null>(null);
export const map = signal<StreamMap | null>(null);
/** The newest entries; older ones are off the page. */
export const entries = signal<readonly Entry[]>([]);
/** Tokens a second, over the last stretch that was written at full speed. */
export const speed = signal<number | null>(null);
export const memory = signal("2 MiB");

const MOST_ENTRIES = 120;
let run: AbortController | null = null;
let questions: string[] = [];
let wake: (() => void) | null = null;
let nextId = 1;
/** All that was written: text by the token of the stream at which it begins. */
let told: { at: number; text: string }[] = [];
let toldChars = 0;

export function start(model: string): void {
  stop();
  run = new AbortController();
  entries.value = [];
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

export function pause(paused: boolean): void {
  if (paused && state.value === "running") state.value = "paused";
  else if (!paused && state.value === "paused") {
    state.value = "running";
    wake?.();
  }
}

export function question(text: string): void {
  questions.push(text);
  wake?.();
}

async function live(model: string, signal: AbortSignal): Promise<void> {
  let session: SessionInfo | null = null;
  let mapping: ReturnType<typeof setInterval> | null = null;
  try {
    session = await openSession({ model, memory: memory.value, recall: { disk: "256 MiB", auto: false } });
    info.value = session;
    const { id } = session;
    const opensQuestion = await controlToken(model, QUESTION);
    const log = {
      max_tokens: STRETCH,
      temperature: 0.8,
      ...(opensQuestion !== null && { logit_bias: { [opensQuestion]: -100 } }),
    };
    report.value = await append(id, BEGIN);
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
      const text = questions.shift();
      if (text !== undefined) await answer(id, text, signal);
      else if (state.value === "paused") await new Promise<void>((resolve) => (wake = resolve));
      else await write(id, "log", log, signal);
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
  }
}

/** One question with its answer; then the log goes on. */
async function answer(id: string, text: string, signal: AbortSignal): Promise<void> {
  say("question", text);
  report.value = await append(id, [{ role: "user", content: text }]);
  const ranges = await recall(id);
  const blocks = ranges.map(([first, last]) => ({ first, last, text: toldBetween(first, last) }));
  await write(id, "answer", { max_tokens: 60, temperature: 0 }, signal, blocks);
  report.value = await append(id, "\n");
}

async function write(
  id: string,
  kind: "log" | "answer",
  options: GenerateRequest,
  signal: AbortSignal,
  blocks?: Entry["blocks"],
): Promise<void> {
  const at = report.value?.seen ?? 0;
  const begun = performance.now();
  if (kind === "answer") say(kind, "", blocks);
  let written = "";
  for await (const piece of generate(id, options, signal)) {
    written += piece.text;
    if (piece.text !== "") say(kind, piece.text, blocks);
    if (piece.report) {
      const seconds = (performance.now() - begun) / 1000;
      speed.value = (piece.report.seen - at) / seconds;
      report.value = piece.report;
    }
  }
  remember(at, written);
}

/** Goes on with the last entry where it is of the same kind, and begins another where not. */
function say(kind: Entry["kind"], text: string, blocks?: Entry["blocks"]): void {
  const last = entries.value.at(-1);
  const goesOn = last?.kind === kind && kind !== "question" && !(kind === "log" && last.text.endsWith("\n"));
  const entry: Entry = {
    id: goesOn ? last.id : nextId++,
    kind,
    text: goesOn ? last.text + text : text,
    ...(blocks && { blocks }),
  };
  entries.value = [...(goesOn ? entries.value.slice(0, -1) : entries.value), entry].slice(-MOST_ENTRIES);
}

function remember(at: number, text: string): void {
  told.push({ at, text });
  toldChars += text.length;
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
