/**
 * Plain decoding: one token per step, sampled from the last row of logits, until a stop condition holds.
 */
import type { Sample, Sampler } from "../sampling/sampler.js";
import type { StopMatcher } from "../sampling/stop.js";
import type { Detokenizer } from "../tokenizer/detokenizer.js";
import type { Decoder, Emission, FinishReason, TokenScore, Turn } from "./contract.js";

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
}

export function createPlain(options: PlainOptions): Decoder {
  const { sampler, maxTokens, endIds, detokenizer, stop } = options;
  /** The last ids of prompt and answer: at least the sampler's window, at most twice as many. */
  const context = Array.from(options.prompt.subarray(Math.max(0, options.prompt.length - sampler.window)));
  let generated = 0;
  /** Tokens sampled since the last emission. */
  let held: Sample[] = [];

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

    accept(logits) {
      const sample = sampler.sample(logits, context);
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
  };
}

function score({ id, logprob = Number.NaN, top = [] }: Sample): TokenScore {
  return { id, logprob, top };
}
