/** Conversations, kept in this browser across reloads. */
import { batch, computed, effect, signal } from "@preact/signals";
import { answer, type Message, type Sampling, type Usage } from "../api/chat.js";

export interface Turn extends Message {
  readonly id: string;
  /** How an answer ended: "stop", "length", "stopped" by the reader; an error's words; null while it is under way. */
  readonly end?: string | null;
  readonly usage?: Usage | null;
  /** From the question to the first piece of the answer, and to its end, in milliseconds. */
  readonly firstMs?: number;
  readonly totalMs?: number;
}

export interface Conversation {
  readonly id: string;
  readonly turns: readonly Turn[];
}

export interface Settings extends Sampling {
  readonly model: string;
  readonly system: string;
}

const STORE = "millrace.conversations";
const SETTINGS = "millrace.settings";
/** Oldest conversations go where there are more. */
const MOST = 200;

export const DEFAULTS: Settings = {
  model: "default",
  system: "",
  temperature: 0.7,
  topP: 0.95,
  maxTokens: 1024,
};

export const conversations = signal<readonly Conversation[]>(load(STORE, []));
export const settings = signal<Settings>({ ...DEFAULTS, ...load<Partial<Settings>>(SETTINGS, {}) });
export const chosen = signal<string>(conversations.value[0]?.id ?? "");
/** The conversation whose answer is being written, with what stops it. */
export const writing = signal<{ readonly id: string; readonly abort: AbortController } | null>(null);
/** Why conversations cannot be kept; null while they are. */
export const unkept = signal<string | null>(null);

export const current = computed<Conversation | null>(
  () => conversations.value.find(({ id }) => id === chosen.value) ?? null,
);

export const titleOf = ({ turns }: Conversation): string =>
  turns.find(({ role }) => role === "user")?.content.slice(0, 80) ?? "New conversation";

// While an answer is written its pieces come many times a second: it is kept when it is there.
effect(() => {
  if (writing.value === null) keep(STORE, conversations.value.slice(0, MOST));
});
effect(() => keep(SETTINGS, settings.value));

export function startNew(): void {
  chosen.value = "";
}

export function remove(id: string): void {
  if (writing.value?.id === id) stop();
  batch(() => {
    conversations.value = conversations.value.filter((one) => one.id !== id);
    if (chosen.value === id) chosen.value = conversations.value[0]?.id ?? "";
  });
}

export function stop(): void {
  writing.value?.abort.abort();
}

export async function ask(text: string): Promise<void> {
  const question: Turn = { id: newId(), role: "user", content: text };
  const before = current.value;
  const id = before?.id ?? newId();
  batch(() => {
    const rest = conversations.value.filter((one) => one.id !== id);
    conversations.value = [{ id, turns: [...(before?.turns ?? []), question] }, ...rest];
    chosen.value = id;
  });
  await write(id);
}

/** Answers anew from before the turn `turnId`, which is an answer; or, where it is a question, with other words. */
export async function again(turnId: string, text?: string): Promise<void> {
  const conversation = current.value;
  const at = conversation?.turns.findIndex(({ id }) => id === turnId) ?? -1;
  const turn = conversation?.turns[at];
  if (!conversation || !turn) return;
  const kept = conversation.turns.slice(0, at);
  const turns = text === undefined ? kept : [...kept, { ...turn, content: text }];
  change(conversation.id, () => turns);
  await write(conversation.id);
}

/** Has the model answer what stands last in a conversation. */
async function write(id: string): Promise<void> {
  if (writing.value) return;
  const abort = new AbortController();
  const { model, system, ...sampling } = settings.value;
  const turns = conversations.value.find((one) => one.id === id)?.turns ?? [];
  const messages: Message[] = turns.map(({ role, content }) => ({ role, content }));
  if (system.trim() !== "") messages.unshift({ role: "system", content: system });
  const begun = performance.now();
  let turn: Turn = { id: newId(), role: "assistant", content: "", end: null };
  const tell = (news: Partial<Turn>) => {
    turn = { ...turn, ...news };
    change(id, (old) => [...old.filter((one) => one.id !== turn.id), turn]);
  };
  writing.value = { id, abort };
  tell({});
  let end: string | null = null;
  try {
    for await (const { text, finish, usage } of answer(model, messages, sampling, abort.signal)) {
      if (text !== "" && turn.firstMs === undefined) tell({ firstMs: performance.now() - begun });
      if (text !== "") tell({ content: turn.content + text });
      if (usage) tell({ usage });
      end = finish ?? end;
    }
    tell({ end: end ?? "cut off: the connection ended", totalMs: performance.now() - begun });
  } catch (error) {
    const why = abort.signal.aborted ? "stopped" : error instanceof Error ? error.message : String(error);
    tell({ end: why, totalMs: performance.now() - begun });
  } finally {
    writing.value = null;
  }
}

function change(id: string, turnsOf: (turns: readonly Turn[]) => readonly Turn[]): void {
  conversations.value = conversations.value.map((one) =>
    one.id === id ? { ...one, turns: turnsOf(one.turns) } : one,
  );
}

const newId = (): string => Math.random().toString(36).slice(2, 12);

function load<T>(name: string, otherwise: T): T {
  try {
    return (JSON.parse(localStorage.getItem(name) ?? "null") as T | null) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function keep(name: string, value: unknown): void {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    unkept.value = null;
  } catch {
    unkept.value = "This browser has no room left: what is said from now on is lost on reload.";
  }
}
