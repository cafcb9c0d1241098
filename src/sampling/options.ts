/**
 * What a caller may ask of sampling. A step whose option is absent does not run; randomness is asked for by
 * `temperature`, so the default is greedy. The order of the steps stands in sampler.ts.
 */
import { MillraceError } from "../errors.js";

/** How tokens are chosen; all absent is greedy. */
export interface SamplingOptions {
  /** 0 (the default): the most probable token. Above 0: logits are divided by it and a token is drawn. */
  readonly temperature?: number;
  /** Draw among the k most probable tokens only. At least 1. */
  readonly topK?: number;
  /** Draw among the fewest tokens whose probabilities reach this sum (nucleus sampling). In (0, 1]. */
  readonly topP?: number;
  /** Draw among tokens at least this share as probable as the most probable one. In [0, 1]. */
  readonly minP?: number;
  /** Draw among the tokens nearest to the expected information, up to this sum (locally typical). In (0, 1]. */
  readonly typicalP?: number;
  /** Divides positive logits of tokens seen in the penalty window and multiplies negative ones. Above 0; 1 is off. */
  readonly repetitionPenalty?: number;
  /** Subtracted once from the logit of every token seen in the penalty window. Finite; 0 is off. */
  readonly presencePenalty?: number;
  /** Subtracted from a token's logit once per time it stands in the penalty window. Finite; 0 is off. */
  readonly frequencyPenalty?: number;
  /** How many of the last tokens (prompt and answer) the three penalties look at. At least 1; default 64. */
  readonly penaltyWindow?: number;
  /** Token id -> number added to its logit; -Infinity bans the token. */
  readonly logitBias?: Readonly<Record<number, number>>;
  /** Start of the random sequence: a whole number from 0 to 2^53 - 1. Absent: one is drawn, and the result tells it. */
  readonly seed?: number;
  /** Report log-probabilities of the chosen token and of this many most probable ones (0: of the chosen only). */
  readonly logprobs?: number;
}

/** Every name in `SamplingOptions`, so that callers with wider options can take ours out of theirs. */
export const SAMPLING_OPTION_NAMES = [
  "temperature",
  "topK",
  "topP",
  "minP",
  "typicalP",
  "repetitionPenalty",
  "presencePenalty",
  "frequencyPenalty",
  "penaltyWindow",
  "logitBias",
  "seed",
  "logprobs",
] as const satisfies readonly (keyof SamplingOptions)[];

interface Rule {
  readonly expected: string;
  readonly accepts: (value: number) => boolean;
}

const numbers: Readonly<Record<Exclude<keyof SamplingOptions, "logitBias" | "logprobs">, Rule>> = {
  temperature: { expected: "a finite number of at least 0", accepts: (x) => x >= 0 && x < Infinity },
  topK: { expected: "a whole number of at least 1", accepts: (x) => Number.isSafeInteger(x) && x >= 1 },
  topP: { expected: "a number above 0 and at most 1", accepts: (x) => x > 0 && x <= 1 },
  minP: { expected: "a number from 0 to 1", accepts: (x) => x >= 0 && x <= 1 },
  typicalP: { expected: "a number above 0 and at most 1", accepts: (x) => x > 0 && x <= 1 },
  repetitionPenalty: { expected: "a finite number above 0", accepts: (x) => x > 0 && x < Infinity },
  presencePenalty: { expected: "a finite number", accepts: Number.isFinite },
  frequencyPenalty: { expected: "a finite number", accepts: Number.isFinite },
  penaltyWindow: {
    expected: "a whole number of at least 1",
    accepts: (x) => Number.isSafeInteger(x) && x >= 1,
  },
  seed: {
    expected: "a whole number from 0 to 2^53 - 1",
    accepts: (x) => Number.isSafeInteger(x) && x >= 0,
  },
};

/**
 * Throws INVALID_ARGUMENT (details: name, got, expected) for an unknown option, a value of the wrong type or out of
 * range, a token id outside the vocabulary, and for a truncation asked for without a temperature, which could do
 * nothing. `vocabularySize` is the number of logits per step.
 */
export function validateSamplingOptions(options: SamplingOptions, vocabularySize: number): void {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    refuse("options", options, "an object of sampling options");
  }
  for (const [name, value] of Object.entries(options) as [string, unknown][]) {
    if (value === undefined) continue;
    if (name === "logitBias") {
      validateLogitBias(value, vocabularySize);
    } else if (name === "logprobs") {
      if (!Number.isSafeInteger(value) || (value as number) < 0 || (value as number) > vocabularySize) {
        refuse(name, value, `a whole number from 0 to ${vocabularySize}, the vocabulary's size`);
      }
    } else if (Object.hasOwn(numbers, name)) {
      const rule = numbers[name as keyof typeof numbers];
      if (typeof value !== "number" || !rule.accepts(value)) refuse(name, value, rule.expected);
    } else {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Unknown sampling option "${name}". Known are: ${SAMPLING_OPTION_NAMES.join(", ")}.`,
        { name, got: name, expected: SAMPLING_OPTION_NAMES },
      );
    }
  }
  if (options.temperature === undefined) {
    for (const name of ["topK", "topP", "minP", "typicalP"] as const) {
      if (options[name] === undefined) continue;
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `${name} narrows what is drawn, but no temperature is given and without one nothing is drawn (the most ` +
          "probable token is taken). Give temperature too; 1 leaves the model's probabilities as they are.",
        { name: "temperature", got: null, expected: numbers.temperature.expected },
      );
    }
  }
}

function validateLogitBias(value: unknown, vocabularySize: number): void {
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Map) {
    refuse("logitBias", value, "an object from token id to a number");
  }
  for (const [key, bias] of Object.entries(value as Record<string, unknown>)) {
    const id = /^(0|[1-9]\d*)$/.test(key) ? Number(key) : -1;
    if (id < 0 || id >= vocabularySize) {
      refuse("logitBias", `token id ${key}`, `token ids from 0 to ${vocabularySize - 1}`);
    }
    if (typeof bias !== "number" || Number.isNaN(bias) || bias === Infinity) {
      refuse("logitBias", `${key}: ${String(bias)}`, "biases that are finite numbers or -Infinity");
    }
  }
}

function refuse(name: string, got: unknown, expected: string): never {
  const shown =
    typeof got === "string" ? got : typeof got === "object" ? (JSON.stringify(got) ?? "null") : String(got);
  throw new MillraceError("INVALID_ARGUMENT", `${name} is ${shown}; expected ${expected}.`, {
    name,
    got: shown,
    expected,
  });
}
