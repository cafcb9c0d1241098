/**
 * Plain decoding: one token per step, sampled from the last row of logits, until a stop condition holds.
 */
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
  /** Text that the stop matcher holds back. */
  readonly stop: string;
}

export interface PlainDecoder extends Decoder {
  /** The token that was sampled last, an end token included; null before the first. */
  readonly sampled: number | null;
  save(): PlainState;
}

export interface PlainOptions {
  readonly sampler: Sampler;
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
  const { sampler, maxTokens, endIds, detokenizer, stop, state } = options;
  /** The last ids of prompt and answer: at least the sampler's window, at most twice as many. */
  const context = state
    ? [...state.context]
    : Array.from(options.prompt.subarray(Math.max(0, options.prompt.length - sampler.window)));
  let generated = state?.generated ?? 0;
  let sampled: number | null = null;
  /** Tokens sampled since the last emission. */
  let held: Sample[] = [...(state?.held ?? [])];
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

  return {
    outputs: "last",

    get sampled() {
      return sampled;
    },

    accept(logits) {
      const sample = sampler.sample(logits, context);
      sampled = sample.id;
      generated++;
      if (endIds.has(sample.id)) {
        const last = rest();
        return end(last.text, last.stopped ? "stop-string" : "stop");
      }
      context.push(sample.id);
      if (context.length > 2 * sampler.window) context.splice(0, context.length - sampler.window);
      held.push(sample);
      const decoded = detokenizer?.push(sample.id) ?? "";
      const { text, stopped } = stop?.push(decoded) ?? { text: decoded, stopped: false };
      if (stopped) return end(text, "stop-string");
      if (generated >= maxTokens) {
        const last = rest();
        return end(text + last.text, last.stopped ? "stop-string" : "length");
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
    }),
  };
}

function score({ id, logprob = Number.NaN, top = [] }: Sample): TokenScore {
  return { id, logprob, top };
}
