/** Perplexity of a stream of any length under several cache policies at once, in constant memory. */
import type { ErrorJson, SessionReport } from "../engine/protocol.js";
import { MillraceError } from "../errors.js";
import type { Session } from "../session/session.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { readTextPieces } from "../train/text-files.js";
import { RunningMeans } from "./running-means.js";

/** Tokens of a text file, a piece at a time: BOS first where the tokenizer wants it. Throws as `readTextPieces`. */
export async function* textTokens(path: string, tokenizer: Tokenizer): AsyncGenerator<Int32Array> {
  let continues = false;
  for await (const text of readTextPieces(path)) {
    if (continues) yield tokenizer.encode(text, { addSpecial: false, continues });
    else {
      const ids = tokenizer.encode(text);
      yield tokenizer.addsEos ? ids.subarray(0, -1) : ids;
    }
    continues = true;
  }
}

/** What one session makes of the stream. */
export interface StreamPerplexity {
  readonly name: string;
  /** Tokens that it read. */
  readonly tokens: number;
  readonly perplexity: number;
  /** Of the first tenth of what follows the warm-up, and of the last tenth of the stream; NaN where it ended before. */
  readonly first: number;
  readonly last: number;
  readonly segments: readonly { readonly from: number; readonly to: number; readonly perplexity: number }[];
  /** Why it did not read on, such as PROMPT_TOO_LONG for a cache that keeps everything. */
  readonly ended: ErrorJson | null;
  readonly report: SessionReport;
}

export interface PerplexityOptions {
  /** Tokens of the stream that are read at most. */
  readonly tokens: number;
  /** Tokens at the beginning that count in no first tenth: until caches are full. */
  readonly warmUp: number;
  /** Parts of the stream that are told apart. */
  readonly segments: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (read: number) => void;
}

/** A session that reads. */
export interface StreamReader {
  readonly name: string;
  readonly session: Session;
  /**
   * Forget everything but the stream's first token after so many, and begin again: what the text itself gives, with nothing
   * that could wear out. The session's cache must keep everything.
   */
  readonly anewEvery?: number;
}

/** Tokens that a session takes at once. */
const CHUNK = 2048;

interface Reader extends StreamReader {
  /** Minus the log-probability of each token. */
  readonly losses: RunningMeans;
  ended: MillraceError | null;
}

/**
 * Reads the stream through all sessions, side by side. One that cannot go on ends where it stands; where none can, the
 * reading ends. Rejects with ABORTED, and what opening a session rejects with.
 */
export async function streamPerplexity(
  sessions: readonly StreamReader[],
  stream: AsyncIterable<Int32Array>,
  { tokens, warmUp, segments, signal, onProgress }: PerplexityOptions,
): Promise<StreamPerplexity[]> {
  const readers = sessions.map((each): Reader => ({ ...each, losses: new RunningMeans(), ended: null }));
  await Promise.all(readers.map(({ session }) => session.opened));
  let read = 0;
  let first: number | undefined;
  reading: for await (const piece of stream) {
    for (let at = 0; at < piece.length; at += CHUNK) {
      const chunk = piece.subarray(at, Math.min(at + CHUNK, at + tokens - read, piece.length));
      const going = readers.filter(({ ended }) => ended === null);
      if (chunk.length === 0 || going.length === 0) break reading;
      first ??= chunk[0]!;
      const given = { first, signal };
      await Promise.all(going.map((reader) => take(reader, chunk, given)));
      read += chunk.length;
      onProgress?.(read);
    }
  }
  return readers.map((reader) => summary(reader, read, warmUp, segments));
}

/** All of the chunk, or what the session's cache still holds of it. */
async function take(
  reader: Reader,
  chunk: Int32Array,
  { first, signal }: { readonly first: number; readonly signal: AbortSignal | undefined },
): Promise<void> {
  const { session, losses, anewEvery } = reader;
  const options = signal ? { signal } : {};
  const { capacity } = await session.opened;
  try {
    for (let at = 0; at < chunk.length; ) {
      const length = session.report.seen + session.report.waiting;
      const room = (anewEvery ?? capacity) - length;
      if (anewEvery !== undefined && room <= 0) {
        await session.rewind(0);
        await session.append([first], options);
        continue;
      }
      // A cache that is full says so itself.
      const part = chunk.subarray(at, room > 0 ? at + room : undefined);
      const { logprobs } = await session.score(part, options);
      for (const logprob of logprobs) losses.push(-logprob);
      at += part.length;
    }
  } catch (error) {
    const known = MillraceError.from(error);
    if (known.code !== "PROMPT_TOO_LONG") throw error;
    reader.ended = known;
  }
}

function summary(
  { name, session, losses, ended }: Reader,
  read: number,
  warmUp: number,
  segments: number,
): StreamPerplexity {
  const whole = losses.length === read;
  const tenth = (read - warmUp) / 10;
  return {
    name,
    tokens: losses.length,
    perplexity: Math.exp(losses.mean()),
    first: losses.length >= warmUp + tenth ? Math.exp(losses.mean(warmUp, warmUp + tenth)) : Number.NaN,
    last: whole ? Math.exp(losses.mean(read - read / 10, read)) : Number.NaN,
    segments: stretches(read, segments).flatMap(([from, to]) =>
      losses.length >= to ? [{ from, to, perplexity: Math.exp(losses.mean(from, to)) }] : [],
    ),
    ended: ended?.toJSON() ?? null,
    report: session.report,
  };
}

const stretches = (length: number, count: number): (readonly [from: number, to: number])[] =>
  Array.from({ length: count }, (_, i) => [
    Math.round((i * length) / count),
    Math.round(((i + 1) * length) / count),
  ]);
