/**
 * Plain decoding: one token per step, sampled from the last row of logits, until a stop condition holds.
 */
import type { Constraint } from "../sampling/grammar/constraint.js";
import type { Sample, Sampler, SamplerState } from "../sampling/sampler.js";
import type { StopMatcher } from "../sampling/stop.js";
import type { Detokenizer, DetokenizerState } from "../tokenizer/detokenizer.js";
import type { Decoder, Emission, FinishReason, TokenScore, Turn } from "./contract.js";

/** What is needed to go on elsewhere with the same options. */
export interface PlainState {
  readonly sampler: SamplerState;
  readonly generated: number;
  readonly context: readonly number[];
  readonly held: readonly Sample[];
  /** Saved by the decoder's detokenizer; to be given to the next one's. */
  readonly detokenizer: DetokenizerState | null;
  /** Text that the stop matcher holds back, and how much of it and before it each of the last tokens gave. */
  readonly stop: string;
  readonly lengths: readonly number[];
  /** Tokens that the answer's constraint has accepted; only where it has one. */
  readonly accepted?: readonly number[];
}

export interface PlainDecoder extends Decoder {
  /** The seed in use: see `Sampler`. */
  readonly seed: number;
  /** The token that was sampled last, an end token included; null before the first. */
  readonly sampled: number | null;
  /** Where a stop string ended the answer: how many of the last tokens are of no other text than that string's. */
  readonly unsaid: number;
  save(): PlainState;
}

export interface PlainOptions {
  readonly sampler: Sampler;
  /** What the sampler is held to: it learns here what was chosen. */
  readonly constraint?: Constraint;
  /** Tokens before the first generated one; penalties look at them. */
  readonly prompt: Int32Array;
  /** Most tokens to generate; Infinity for no end. At least 1. */
  readonly maxTokens: number;
  /** Tokens that end the answer and are no part of it. */
  readonly endIds: ReadonlySet<number>;
  /** Null where the model has no tokenizer: every token is then emitted at once, with no text. */
  readonly detokenizer: Detokenizer | null;
  /** Null where the caller gave no stop strings. */
  readonly stop: StopMatcher | null;
  /** Goes on where another decoder was saved; `prompt` is then not looked at. */
  readonly state?: PlainState;
}

/** Throws INVALID_ARGUMENT for a random state that is none. */
export function createPlain(options: PlainOptions): PlainDecoder {
  const { sampler, constraint, maxTokens, endIds, detokenizer, stop, state } = options;
  /** The last ids of prompt and answer: at least the sampler's window, at most twice as many. */
  const context = state
    ? [...state.context]
    : Array.from(options.prompt.subarray(Math.max(0, options.prompt.length - sampler.window)));
  let generated = state?.generated ?? 0;
  let sampled: number | null = null;
  let unsaid = 0;
  /** Tokens sampled since the last emission. */
  let held: Sample[] = [...(state?.held ?? [])];
  /** How many characters each of the last tokens gave; of those before, the stop matcher holds nothing back. */
  const lengths = [...(state?.lengths ?? [])];
  if (state) {
    sampler.restore(state.sampler);
    stop?.push(state.stop);
  }

  const emission = (text: string): Emission | null => {
    if (held.length === 0 && text === "") return null;
    const samples = held;
    held = [];
    const tokens = samples.map(({ id }) => id);
    return samples[0]?.logprob === undefined
      ? { text, tokens }
      : { text, tokens, scores: samples.map(score) };
  };
  const end = (text: string, finish: FinishReason): Turn => ({
    next: null,
    emission: emission(text),
    finish,
  });
  /** What stop strings let through, and the end: a stop string may still stand in the last held-back text. */
  const rest = (): { text: string; stopped: boolean } => {
    const text = detokenizer?.flush() ?? "";
    if (!stop) return { text, stopped: false };
    const pushed = stop.push(text);
    return pushed.stopped ? pushed : { text: pushed.text + stop.flush(), stopped: false };
  };

  /** Counts the last tokens that gave nothing but what lies within the last `length` characters. */
  const tokensWithin = (length: number): number => {
    let count = 0;
    for (let left = length; left > 0 && count < lengths.length; count++) {
      left -= lengths.at(-1 - count)!;
      if (left < 0) break;
    }
    return count;
  };

  const watch = (matcher: StopMatcher, decoded: string) => {
    const known = matcher.held.length + decoded.length;
    const pushed = matcher.push(decoded);
    lengths.push(decoded.length);
    if (pushed.stopped) unsaid = tokensWithin(known - pushed.text.length);
    let sum = lengths.reduce((total, length) => total + length, 0);
    while (lengths.length > 0 && sum - lengths[0]! >= matcher.held.length) sum -= lengths.shift()!;
    return pushed;
  };

  return {
    outputs: "last",

    get seed() {
      return sampler.seed;
    },

    get sampled() {
      return sampled;
    },

    get unsaid() {
      return unsaid;
    },

    accept(logits) {
      const sample = sampler.sample(logits, context);
      sampled = sample.id;
      generated++;
      if (endIds.has(sample.id)) {
        const last = rest();
        return end(last.text, last.stopped ? "stop-string" : "stop");
      }
      constraint?.accept(sample.id);
      context.push(sample.id);
      if (context.length > 2 * sampler.window) context.splice(0, context.length - sampler.window);
      const decoded = detokenizer?.push(sample.id) ?? "";
      held.push(sample);
      const { text, stopped } = stop ? watch(stop, decoded) : { text: decoded, stopped: false };
      if (stopped) return end(text, "stop-string");
      const complete = constraint?.ended() ?? false;
      if (complete || generated >= maxTokens) {
        const last = rest();
        return end(text + last.text, last.stopped ? "stop-string" : complete ? "stop" : "length");
      }
      const ready = text !== "" || detokenizer === null;
      return { next: sample.id, emission: ready ? emission(text) : null, finish: null };
    },

    flush: () => emission(rest().text),

    save: () => ({
      sampler: sampler.save(),
      generated,
      context: [...context],
      held,
      detokenizer: detokenizer?.save() ?? null,
      stop: stop?.held ?? "",
      lengths: [...lengths],
      ...(constraint ? { accepted: [...constraint.accepted] } : {}),
    }),
  };
}

function score({ id, logprob = Number.NaN, top = [] }: Sample): TokenScore {
  return { id, logprob, top };
}
