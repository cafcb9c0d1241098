/** Sessions under several cache policies that have read as much, and decode in turn. */

import type { CodecName } from "../cache/codecs/contract.js";
import type { Model, PolicySpec, Session } from "../index.js";

export interface CacheSide {
  readonly name: string;
  readonly policy: PolicySpec;
  /** Tokens that its session reads before it decodes. */
  readonly tokens: number;
}

export interface TurnsOptions {
  readonly codec: CodecName;
  /** Tokens of a turn, 2 or more. */
  readonly generate: number;
  readonly rounds: number;
  readonly signal: AbortSignal;
  /** Told while a session reads, with the tokens that it has read. */
  readonly onFilling: (side: CacheSide, read: number) => void;
  /** Told after every round, and awaited before the next. */
  readonly onRound: (round: readonly Turn[]) => Promise<void>;
}

/** What one side did in one round. */
export interface Turn {
  readonly msPerToken: number;
  /** Of all processors together: steadier where others use them, too. */
  readonly cpuMsPerToken: number;
  /** What the session's cache took at its end. */
  readonly bytes: number;
}

/** All by side, in their order. */
export interface Turns {
  readonly fillSeconds: readonly number[];
  /** Those that came to their end. */
  readonly rounds: readonly (readonly Turn[])[];
}

/** Tokens that are appended at once, so that it can be said how far it is. */
const STRETCH = 256;
/** Tokens of the turn that is not counted. */
const WARM_UP = 4;

/** Most tokens that such a session comes to hold. */
export const tokensOfTurns = (tokens: number, generate: number, rounds: number): number =>
  tokens + WARM_UP + rounds * generate;

/**
 * Fills a session for each side and has them decode in turn, greedily and past end tokens, each going on from where it
 * stands; who begins changes from round to round. A turn's time counts from its first token to its last. Throws what
 * sessions throw, and for an aborted signal before the first round is through.
 */
export async function decodeInTurn(
  model: Model,
  sides: readonly CacheSide[],
  { codec, generate, rounds: count, signal, onFilling, onRound }: TurnsOptions,
): Promise<Turns> {
  const sessions = sides.map(({ policy }) => model.session({ cache: { policy, codec } }));
  const fillSeconds: number[] = [];
  const rounds: Turn[][] = [];
  try {
    await Promise.all(sessions.map(({ opened }) => opened));
    for (const [i, side] of sides.entries()) {
      const session = sessions[i]!;
      const startedAt = performance.now();
      for (let at = 0; at < side.tokens; at += STRETCH) {
        onFilling(side, at);
        await session.append(stretch(at, Math.min(STRETCH, side.tokens - at), model), { signal });
      }
      fillSeconds.push((performance.now() - startedAt) / 1000);
    }
    for (const session of sessions) await turn(session, WARM_UP, signal);
    for (let round = 0; round < count; round++) {
      const turns: Turn[] = [];
      for (let i = 0; i < sides.length; i++) {
        const which = (i + round) % sides.length;
        turns[which] = await turn(sessions[which]!, generate, signal);
      }
      rounds.push(turns);
      await onRound(turns);
    }
  } catch (error) {
    if (!signal.aborted || rounds.length === 0) throw error;
  } finally {
    await Promise.all(sessions.map((session) => session.close()));
  }
  return { fillSeconds, rounds };
}

const stretch = (from: number, length: number, { info }: Model): number[] =>
  Array.from({ length }, (_, i) => ((from + i) * 7919) % info.vocabularySize);

async function turn(session: Session, maxTokens: number, signal: AbortSignal): Promise<Turn> {
  const clocks = () => {
    const { user, system } = process.cpuUsage();
    return { at: performance.now(), cpu: (user + system) / 1000 };
  };
  const arrived: ReturnType<typeof clocks>[] = [];
  for await (const { tokens } of session.generate({ maxTokens, temperature: 0, ignoreEos: true, signal })) {
    const now = clocks();
    for (const _ of tokens) arrived.push(now);
  }
  const [first, last] = [arrived[0]!, arrived.at(-1)!];
  const steps = arrived.length - 1;
  return {
    msPerToken: (last.at - first.at) / steps,
    cpuMsPerToken: (last.cpu - first.cpu) / steps,
    bytes: session.report.bytes,
  };
}
