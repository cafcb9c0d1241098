/** How a call's conversation goes on from the one that stands in a session. Pure. */
import { invalidArgument } from "./errors.js";
import type { TemplateMessage } from "./prompt.js";
import type { Said } from "./reader.js";

/** What one call put into a session. Positions count the session's tokens from its start. */
export interface Exchange {
  readonly messages: readonly TemplateMessage[];
  /** Where its messages begin. */
  readonly from: number;
  /** Where its answer begins; null where its messages did not all come in. */
  asked: number | null;
  /** Null where the answer did not come to its end. */
  said: Said | null;
}

/** A conversation in a session: messages that are there for good, and the exchange that may still be taken back. */
export interface Standing {
  readonly settled: readonly TemplateMessage[];
  readonly last: Exchange | null;
}

/**
 * What is to be done with a session before it answers.
 *   "go on"     append what is missing
 *   "again"     take back the last answer
 *   "instead"   take back the last exchange, then append what is missing
 */
export type Continuation =
  | { readonly type: "go on"; readonly missing: readonly TemplateMessage[] }
  | { readonly type: "again"; readonly backTo: number }
  | { readonly type: "instead"; readonly backTo: number; readonly missing: readonly TemplateMessage[] };

/** Throws an InvalidArgumentError where the conversation differs before the last exchange, or asks nothing. */
export function continuation({ settled, last }: Standing, given: readonly TemplateMessage[]): Continuation {
  const there = standing({ settled, last });
  const messages = withSilentAnswers(there, given);
  const numSame = countSame(there, messages);
  const missing = messages.slice(numSame);
  if (numSame === there.length && !(last && !last.said)) {
    if (missing.length > 0) return { type: "go on", missing };
    throw nothingAsked();
  }
  if (!last || numSame < settled.length) throw diverges(there, messages, numSame);
  const numAsked = settled.length + last.messages.length;
  if (numSame === numAsked && messages.length === numAsked && last.asked !== null) {
    return { type: "again", backTo: last.asked };
  }
  if (messages.length === settled.length) throw nothingAsked();
  return { type: "instead", backTo: last.from, missing: messages.slice(settled.length) };
}

/** All messages of a conversation in a session. */
export function standing({ settled, last }: Standing): readonly TemplateMessage[] {
  if (!last) return settled;
  return [...settled, ...last.messages, ...(last.said ? [answerMessage(last.said)] : [])];
}

function answerMessage({ text, toolCalls }: Said): TemplateMessage {
  const calls = toolCalls.map(({ id, name }) => ({
    id,
    type: "function" as const,
    function: { name, arguments: null },
  }));
  return { role: "assistant", content: text, ...(calls.length > 0 ? { tool_calls: calls } : {}) };
}

/** The SDK leaves answers without a word out of its history: puts those that stand `there` back in where more follows. */
function withSilentAnswers(
  there: readonly TemplateMessage[],
  given: readonly TemplateMessage[],
): readonly TemplateMessage[] {
  return there.reduce((messages, { role, content, tool_calls }, i) => {
    const silent = role === "assistant" && content.trim() === "" && !tool_calls;
    const next = messages[i];
    return silent && next && next.role !== "assistant" ? messages.toSpliced(i, 0, there[i]!) : messages;
  }, given);
}

function countSame(a: readonly TemplateMessage[], b: readonly TemplateMessage[]): number {
  const differs = a.findIndex((message, i) => {
    const other = b[i];
    return other === undefined || !same(message, other);
  });
  return differs < 0 ? a.length : differs;
}

/** White space at the ends of an answer is often lost on its way; calls of tools are told apart by their ids. */
function same(a: TemplateMessage, b: TemplateMessage): boolean {
  const text = ({ role, content }: TemplateMessage) => (role === "assistant" ? content.trim() : content);
  const calls = ({ tool_calls, tool_call_id }: TemplateMessage) =>
    [tool_call_id ?? "", ...(tool_calls ?? []).map(({ id }) => id)].join();
  return a.role === b.role && text(a) === text(b) && calls(a) === calls(b);
}

function nothingAsked(): Error {
  return invalidArgument(
    "prompt",
    "The conversation ends with an answer that stands in the session already, and asks nothing. Add a message.",
  );
}

function diverges(there: readonly TemplateMessage[], given: readonly TemplateMessage[], at: number): Error {
  const got = given[at];
  return invalidArgument(
    "prompt",
    `The conversation differs from the one in the session at message ${at}: there stands ${show(there[at]!)}, and ` +
      `${got ? `the call has ${show(got)}` : `the call ends before it, with ${given.length} messages`}. A session is one ` +
      "stream: only its last exchange can be taken back. Go on from the same messages, or open another session.",
  );
}

function show({ role, content }: TemplateMessage): string {
  const text = content.length > 60 ? `${content.slice(0, 57)}...` : content;
  return `${JSON.stringify(text)} of the ${role}`;
}
