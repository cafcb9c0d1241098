/**
 * A conversation is a tree of turns: a question in other words, or an answer made anew, stands beside what was there before,
 * so that nothing said is lost. Shown is the path from the beginning to one of its leaves.
 */
import type { Message, Usage } from "../api/chat.js";

export interface Turn extends Message {
  readonly id: string;
  /** The turn before; null: it begins the conversation. */
  readonly parent: string | null;
  /** How an answer ended: "stop", "length", "stopped" by the reader; an error's words; null while it is under way. */
  readonly end?: string | null;
  readonly usage?: Usage | null;
  /** From the question to the first piece of the answer, and to its end, in milliseconds. */
  readonly firstMs?: number;
  readonly totalMs?: number;
}

export interface Conversation {
  readonly id: string;
  /** Given by the reader, and when; without one, it is the first question. */
  readonly title?: { readonly text: string; readonly at: number };
  /** When something was last said, in milliseconds since 1970. */
  readonly changed: number;
  /** In the order in which they were said, whatever they follow. */
  readonly turns: readonly Turn[];
  /** The last turn of those that are shown. */
  readonly leaf: string | null;
}

/** The turns up to `id`, from the beginning. */
export function pathTo({ turns }: Pick<Conversation, "turns">, id: string | null): Turn[] {
  const byId = new Map(turns.map((turn) => [turn.id, turn]));
  const path: Turn[] = [];
  for (let turn = id === null ? undefined : byId.get(id); turn; turn = byId.get(turn.parent ?? "")) {
    path.unshift(turn);
    // What a browser kept may be anything: no turn stands twice on its way.
    byId.delete(turn.id);
  }
  return path;
}

/** The turns that stand in one place, `turn` among them. */
export const besides = ({ turns }: Conversation, turn: Turn): Turn[] =>
  turns.filter(({ parent }) => parent === turn.parent);

/** The turn that was said last of those after `id`; where there is none, `id`. */
export const leafAfter = (conversation: Conversation, id: string): string =>
  conversation.turns.findLast((turn) => pathTo(conversation, turn.id).some((one) => one.id === id))?.id ?? id;

/** Both copies of one conversation, as two tabs have it: all turns of either, and the place of `ours`. */
export function merge(ours: Conversation, theirs: Conversation): Conversation {
  const turns = new Map(theirs.turns.map((turn) => [turn.id, turn]));
  for (const turn of ours.turns) {
    // An answer that ended is more than one that did not.
    if (turn.end !== null || !turns.has(turn.id)) turns.set(turn.id, turn);
  }
  const title = (theirs.title?.at ?? 0) > (ours.title?.at ?? 0) ? theirs.title : ours.title;
  const changed = Math.max(ours.changed, theirs.changed);
  const all = [...turns.values()];
  // Where they only went on from what is shown here, to another answer, that is followed.
  const path = pathTo({ turns: all }, theirs.leaf);
  const goesOn = path.at(-1)?.role === "assistant" && path.some(({ id }) => id === ours.leaf);
  const leaf = goesOn ? theirs.leaf : ours.leaf;
  return { id: ours.id, ...(title && { title }), changed, turns: all, leaf };
}
