/** Conversations, kept in this browser across reloads, each by itself, so that tabs do not write over one another. */
import { batch, computed, signal } from "@preact/signals";
import { announce } from "../announce.js";
import { answer, type Message, type Sampling } from "../api/chat.js";
import { ServerError } from "../api/http.js";
import { count } from "../format.js";
import { keep, namesOf, onKept, read, type Unkept } from "../storage.js";
import { besides, type Conversation, leafAfter, merge, pathTo, type Turn } from "./tree.js";

export interface Settings extends Sampling {
  readonly model: string;
  readonly system: string;
}

const STORE = "millrace.conversation.";
const SETTINGS = "millrace.settings";
/** Pieces of an answer are shown together that come closer than this, in milliseconds: each has its Markdown read anew. */
const SHOWN_EVERY_MS = 40;

export const DEFAULTS: Settings = {
  model: "default",
  system: "",
  temperature: 0.7,
  topP: 0.95,
  maxTokens: 1024,
};

/** What was talked about last comes first. */
const inOrder = (list: readonly Conversation[]): Conversation[] =>
  [...list].sort((a, b) => b.changed - a.changed);
const isConversation = (kept: unknown): kept is Conversation =>
  typeof kept === "object" && kept !== null && "turns" in kept && Array.isArray(kept.turns);

export const conversations = signal<readonly Conversation[]>(
  inOrder(
    namesOf(STORE)
      .map((name) => read<unknown>(name, null))
      .filter(isConversation),
  ),
);
export const settings = signal<Settings>({ ...DEFAULTS, ...read<Partial<Settings>>(SETTINGS, {}) });
export const chosen = signal<string>(conversations.value[0]?.id ?? "");
/** The conversations whose answers are being written, with what stops them. */
export const writing = signal<ReadonlyMap<string, AbortController>>(new Map());
/** Why conversations are not kept; null while they are. */
export const unkept = signal<Unkept>(null);

export const current = computed<Conversation | null>(() => find(chosen.value));
/** The turns that are shown. */
export const shown = computed<readonly Turn[]>(() =>
  current.value ? pathTo(current.value, current.value.leaf) : [],
);

const find = (id: string): Conversation | null => conversations.value.find((one) => one.id === id) ?? null;

export const titleOf = ({ title, turns }: Conversation): string =>
  title?.text || turns.find(({ role }) => role === "user")?.content.slice(0, 80) || "New conversation";

export function set(news: Partial<Settings>): void {
  settings.value = { ...settings.value, ...news };
  keep(SETTINGS, settings.value);
}

export function startNew(): void {
  chosen.value = "";
}

export function rename(id: string, text: string): void {
  change(id, () => ({ title: { text: text.trim(), at: Date.now() } }));
  keepOne(id);
}

/** Forgets a conversation; shown is its neighbour then. */
export function remove(id: string): void {
  stop(id);
  const at = conversations.value.findIndex((one) => one.id === id);
  batch(() => {
    conversations.value = conversations.value.filter((one) => one.id !== id);
    if (chosen.value === id)
      chosen.value = (conversations.value[at] ?? conversations.value[at - 1])?.id ?? "";
  });
  keep(STORE + id, null);
  // There may be room again.
  if (unkept.value === "full") for (const one of conversations.value) keepOne(one.id);
}

export function stop(id: string): void {
  writing.value.get(id)?.abort();
}

export async function ask(content: string): Promise<void> {
  const id = find(chosen.value)?.id ?? newId();
  const parent = shown.value.at(-1)?.id ?? null;
  if (!current.value) {
    conversations.value = [{ id, changed: Date.now(), turns: [], leaf: null }, ...conversations.value];
    chosen.value = id;
  }
  add(id, { id: newId(), parent, role: "user", content });
  await write(id);
}

/** Answers anew: the question `turn`, in other words if `content` is given; or what the answer `turn` is to. */
export async function again(turn: Turn, content?: string): Promise<void> {
  const id = chosen.value;
  if (content !== undefined) add(id, { ...turn, id: newId(), content });
  else change(id, () => ({ leaf: turn.role === "user" ? turn.id : turn.parent }));
  await write(id);
}

/** What stands in one place of the conversation that is shown: `turn`, and its other versions. */
export const versionsOf = (turn: Turn): readonly Turn[] =>
  current.value ? besides(current.value, turn) : [turn];

/** Shows `turn`, and what was said last after it. */
export function show(turn: Turn): void {
  change(chosen.value, (conversation) => ({ leaf: leafAfter(conversation, turn.id) }));
  keepOne(chosen.value);
}

/** Has the model answer what stands last in a conversation. */
async function write(id: string): Promise<void> {
  const conversation = find(id);
  if (!conversation || writing.value.has(id)) return;
  keepOne(id);
  const abort = new AbortController();
  const { model, system, ...sampling } = settings.value;
  const messages: Message[] = pathTo(conversation, conversation.leaf)
    // What was refused, or failed before its first word, was never said.
    .filter(({ role, content }, i, all) => (role === "user" ? all[i + 1]?.content : content) !== "")
    .map(({ role, content }) => ({ role, content }));
  if (system.trim() !== "") messages.unshift({ role: "system", content: system });
  const begun = performance.now();
  let turn: Turn = { id: newId(), parent: conversation.leaf, role: "assistant", content: "", end: null };
  let content = "";
  let showing: ReturnType<typeof setTimeout> | null = null;
  const tell = (news: Partial<Turn>) => {
    if (showing) clearTimeout(showing);
    showing = null;
    turn = { ...turn, ...news };
    change(id, ({ turns }) => ({ turns: turns.map((one) => (one.id === turn.id ? turn : one)) }));
  };
  add(id, turn);
  writing.value = new Map(writing.value).set(id, abort);
  if (chosen.value === id) announce("The answer is being written.");
  let end: string | null = null;
  let firstMs: number | undefined;
  try {
    for await (const { text, finish, usage } of answer(model, messages, sampling, abort.signal)) {
      if (text !== "") firstMs ??= performance.now() - begun;
      content += text;
      if (usage) tell({ usage, content });
      else showing ??= setTimeout(() => tell({ content }), SHOWN_EVERY_MS);
      end = finish ?? end;
    }
  } catch (error) {
    end = abort.signal.aborted ? "stopped" : inWords(error, messages.length > 1);
  }
  tell({ content, end, ...(firstMs !== undefined && { firstMs }), totalMs: performance.now() - begun });
  const rest = new Map(writing.value);
  rest.delete(id);
  writing.value = rest;
  if (!find(id)) return;
  keepOne(id);
  if (chosen.value === id) announce(isProblem(end) ? `${content} ${end}` : content || "There was no answer.");
}

/** What went wrong, and what the reader can do: the server tells those who program. */
function inWords(error: unknown, hasMore: boolean): string {
  if (!(error instanceof ServerError)) return String(error);
  const { code, message, details } = error;
  if (code !== "context_length_exceeded") return message;
  const { tokens, context } = details;
  const numbers = `${count(Number(tokens))} tokens, and the model reads ${count(Number(context))} at once`;
  const what = hasMore
    ? `This conversation has ${numbers}. Shorten the question, edit an earlier one, or begin a new conversation.`
    : `The question has ${numbers}. Edit it to make it shorter.`;
  return tokens === undefined || context === undefined ? message : what;
}

/** Whether an answer's end says that something went wrong. */
export const isProblem = (end: string | null | undefined): end is string =>
  end !== null && end !== undefined && !["stop", "length", "stopped", "tool_calls"].includes(end);

/** Puts a turn behind its parent, and shows it. */
function add(id: string, turn: Turn): void {
  change(id, ({ turns }) => ({ turns: [...turns, turn], leaf: turn.id, changed: Date.now() }));
  conversations.value = inOrder(conversations.value);
}

function change(id: string, news: (conversation: Conversation) => Partial<Conversation>): void {
  conversations.value = conversations.value.map((one) => (one.id === id ? { ...one, ...news(one) } : one));
}

/** Keeps a conversation, with what another tab has said in it. Answers under way are kept when they are whole. */
function keepOne(id: string): void {
  const ours = find(id);
  if (!ours) return;
  const theirs = read<unknown>(STORE + id, null);
  const both = isConversation(theirs) ? merge(ours, theirs) : ours;
  change(id, () => both);
  unkept.value = keep(STORE + id, both);
}

onKept((name, value) => {
  if (name === SETTINGS) settings.value = { ...DEFAULTS, ...(value as Partial<Settings> | null) };
  if (name !== null && !name.startsWith(STORE)) return;
  const id = name?.slice(STORE.length);
  // What is being answered here is kept again when the answer is whole.
  const gone = (one: Conversation) => (id === undefined || one.id === id) && !writing.value.has(one.id);
  if (!isConversation(value)) conversations.value = conversations.value.filter((one) => !gone(one));
  else {
    const ours = find(value.id);
    const rest = conversations.value.filter((one) => one.id !== value.id);
    conversations.value = inOrder([...rest, ours ? merge(ours, value) : value]);
  }
});

// Who leaves in the middle of an answer finds what there was of it.
addEventListener("pagehide", () => {
  for (const [id, abort] of writing.value) {
    abort.abort();
    const end = (turn: Turn): Turn => (turn.end === null ? { ...turn, end: "stopped" } : turn);
    change(id, ({ turns }) => ({ turns: turns.map(end) }));
    keepOne(id);
  }
});

const newId = (): string => Math.random().toString(36).slice(2, 12);
