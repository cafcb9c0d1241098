/** Endless sessions: /v1/sessions. */
import type {
  GenerateRequest,
  NewSession,
  SessionReport as Report,
  SessionAnswer,
  SessionBody as SessionInfo,
  StreamMap,
} from "../../../src/server/schemas/sessions.js";
import type { Message } from "./chat.js";
import { events, json } from "./http.js";

export type { GenerateRequest, Report, SessionInfo, StreamMap };
/** How many tokens of each stretch of the stream are where, for lanes that share a policy. */
export type GroupMap = StreamMap["groups"][number];

/** Blocks that came back for a question, as [first, last] token of the stream. */
export type Ranges = readonly (readonly [number, number])[];

export interface Piece {
  readonly text: string;
  /** With the last piece: how the answer ended. */
  readonly finish: string | null;
  readonly report: Report | null;
}

export const openSession = (body: NewSession): Promise<SessionInfo> => json("v1/sessions", { body });

/** Also from a page that is being left. */
export const closeSession = (id: string): Promise<unknown> =>
  json(`v1/sessions/${id}`, { method: "DELETE", keepalive: true });

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

/** A piece of an answer, or how it ended. */
type Event = Partial<Pick<SessionAnswer, "text" | "finish_reason" | "report">>;

export async function* generate(
  id: string,
  options: GenerateRequest,
  signal: AbortSignal,
): AsyncGenerator<Piece, void> {
  const body = { ...options, stream: true };
  for await (const event of events<Event>(`v1/sessions/${id}/generate`, { body, signal })) {
    yield { text: event.text ?? "", finish: event.finish_reason ?? null, report: event.report ?? null };
  }
}
