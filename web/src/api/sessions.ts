/** Endless sessions: /v1/sessions. */
import type { Message } from "./chat.js";
import { events, json } from "./http.js";

export interface Report {
  readonly seen: number;
  readonly kept: number;
  readonly merged: number;
  readonly demoted: number;
  readonly dropped: number;
  readonly bytes: number;
}

export interface SessionInfo {
  readonly id: string;
  readonly model: string;
  readonly memory_bytes: number;
  readonly cache: { readonly policy?: { readonly policy: string } };
  readonly report: Report;
}

/** How many tokens of each stretch of the stream are where, for lanes that share a policy. */
export interface GroupMap {
  readonly layers: readonly number[];
  readonly memory: readonly number[];
  readonly merged: readonly number[];
  readonly disk: readonly number[];
  /** Of those on disk: attended again since the last question. */
  readonly recalled: readonly number[];
}

export interface StreamMap {
  readonly seen: number;
  /** Tokens of a stretch. */
  readonly width: number;
  readonly groups: readonly GroupMap[];
}

/** Blocks that came back for a question, as [first, last] token of the stream. */
export type Ranges = readonly (readonly [number, number])[];

export interface Piece {
  readonly text: string;
  /** With the last piece: how the answer ended. */
  readonly finish: string | null;
  readonly report: Report | null;
}

export interface NewSession {
  readonly model: string;
  readonly memory: string;
  readonly recall?: { readonly disk: string; readonly auto: false; readonly tokens?: number };
  readonly cache?: Record<string, unknown>;
}

export const openSession = (body: NewSession): Promise<SessionInfo> => json("v1/sessions", { body });

export const closeSession = (id: string): Promise<unknown> => json(`v1/sessions/${id}`, { method: "DELETE" });

export const readSession = (id: string, signal?: AbortSignal): Promise<SessionInfo> =>
  json(`v1/sessions/${id}`, signal ? { signal } : {});

export const readMap = (id: string, columns: number): Promise<StreamMap> =>
  json(`v1/sessions/${id}/map?columns=${columns}`);

export async function append(id: string, input: string | readonly Message[]): Promise<Report> {
  return (await json<{ report: Report }>(`v1/sessions/${id}/append`, { body: { input } })).report;
}

/** Brings back what the text appended last is about. */
export async function recall(id: string): Promise<Ranges> {
  const { recalled } = await json<{ recalled: { ranges: readonly Ranges[] } }>(`v1/sessions/${id}/recall`, {
    body: {},
  });
  return recalled.ranges.reduce((most, ranges) => (ranges.length > most.length ? ranges : most), []);
}

interface Event {
  readonly object: "session.piece" | "session.answer";
  readonly text?: string;
  readonly finish_reason?: string;
  readonly report?: Report;
}

export async function* generate(
  id: string,
  options: Record<string, unknown>,
  signal: AbortSignal,
): AsyncGenerator<Piece, void> {
  const body = { ...options, stream: true };
  for await (const event of events<Event>(`v1/sessions/${id}/generate`, { body, signal })) {
    yield { text: event.text ?? "", finish: event.finish_reason ?? null, report: event.report ?? null };
  }
}
