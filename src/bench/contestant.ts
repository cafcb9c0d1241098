/** What the bench measures, the same for us and for every peer: token arrivals of sequences that run at once. */

export interface Work {
  /** Prompt ids, one list per sequence; sequences run at once. */
  readonly prompts: readonly (readonly number[])[];
  /** Tokens to generate per sequence, greedily, end tokens ignored. */
  readonly generate: number;
}

/** Milliseconds since the work was handed over at which each token of each sequence arrived at the caller. */
export interface Arrivals {
  readonly times: readonly (readonly number[])[];
}

export interface Contestant extends AsyncDisposable {
  readonly name: string;
  /** One line: version, build, threads. */
  readonly description: string;
  run(work: Work): Promise<Arrivals>;
}

export interface Speed {
  /** Prompt tokens of all sequences over the time until every sequence had its first token. */
  readonly prefill: number;
  /** Tokens of all sequences while all of them were decoding, per second. */
  readonly decode: number;
  /** Decoding steps per second: decode / sequences. */
  readonly steps: number;
}

/** Tokens per second from arrivals. Decoding counts from when the last sequence has its first token. */
export function speed(work: Work, { times }: Arrivals): Speed {
  const begin = Math.max(...times.map((t) => t[0] ?? 0));
  const end = Math.min(...times.map((t) => t.at(-1) ?? 0));
  const prompt = work.prompts.reduce((sum, ids) => sum + ids.length, 0);
  const decoded = times.reduce((sum, t) => sum + t.filter((at) => at > begin && at <= end).length, 0);
  const decode = decoded / ((end - begin) / 1000);
  return { prefill: prompt / (begin / 1000), decode, steps: decode / times.length };
}
