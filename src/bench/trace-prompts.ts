/** Prompts for a trace: made-up tokens that begin alike where the trace's prompts did. */
import { TRACE_BLOCK, type TraceRequest } from "./trace.js";

export interface TracePrompt {
  /** Milliseconds since the first of the trace. */
  readonly at: number;
  readonly tokens: readonly number[];
  /** Tokens to be generated. */
  readonly answerTokens: number;
  /** Tokens, of the last one always none, that a cache without limits would have from prompts before this one. */
  readonly known: number;
}

export interface PromptOptions {
  /** What lengths are multiplied with, those of blocks too. */
  readonly scale: number;
  readonly vocabularySize: number;
}

/** Tokens of the longest request, prompt and answer, of a trace so scaled. */
export function longestOf(requests: readonly TraceRequest[], scale: number): number {
  return Math.max(
    ...requests.map((each) => scaled(each.inputLength, scale) + scaled(each.outputLength, scale)),
  );
}

/** The greatest scale, at most 1, at which every request fits `context`. */
export function fittingScale(requests: readonly TraceRequest[], context: number): number {
  // Either length may be rounded up by half a token, or to a whole one.
  return Math.min(1, (context - 2) / longestOf(requests, 1));
}

export function tracePrompts(
  requests: readonly TraceRequest[],
  { scale, vocabularySize }: PromptOptions,
): TracePrompt[] {
  const begin = requests[0]?.timestamp ?? 0;
  /** Of each id that was seen: where the tokens end that its block has had. */
  const seen = new Map<number, number>();
  return requests.map(({ timestamp, inputLength, outputLength, hashIds }, index) => {
    const tokens: number[] = [];
    const length = scaled(inputLength, scale);
    let known = 0;
    for (let block = 0; tokens.length < length; block++) {
      const from = tokens.length;
      const end = Math.min(length, edge(block + 1, scale));
      const id = hashIds[block];
      // What has no id is like nothing else.
      const key = id ?? -1 - index;
      for (let at = from; at < end; at++) tokens.push(tokenAt(key, at, vocabularySize));
      if (id === undefined) continue;
      const had = Math.min(end, seen.get(id) ?? from);
      if (known === from) known = had;
      seen.set(id, Math.max(end, seen.get(id) ?? 0));
    }
    return {
      at: timestamp - begin,
      tokens,
      answerTokens: scaled(outputLength, scale),
      known: Math.min(known, length - 1),
    };
  });
}

/** Where a block begins: for one id always at the same place, whatever the scale. */
const edge = (block: number, scale: number): number =>
  Math.max(block, Math.round(block * TRACE_BLOCK * scale));

const scaled = (tokens: number, scale: number): number => Math.max(1, Math.round(tokens * scale));

/** First of the ids that prompts are made of: what comes before is special in many vocabularies. */
const FIRST_ID = 300;

/** A token that depends on the block and the place only (a finaliser of 32-bit hashes over both). */
function tokenAt(key: number, at: number, vocabularySize: number): number {
  let hash = Math.imul(key, 0x9e3779b1) ^ Math.imul(at + 1, 0x85ebca77);
  for (const [shift, factor] of [
    [16, 0x7feb352d],
    [15, 0x846ca68b],
    [16, 1],
  ] as const) {
    hash = Math.imul(hash ^ (hash >>> shift), factor);
  }
  const first = Math.min(FIRST_ID, vocabularySize >> 1);
  return first + ((hash >>> 0) % (vocabularySize - first));
}
