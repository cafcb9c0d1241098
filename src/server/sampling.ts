/** From OpenAI's fields for how an answer is made to ours. */
import type { AnswerOptions, SamplingOptions } from "../index.js";

/** The sampling fields of a request, as schemas/common.ts reads them. */
export interface SamplingFields {
  readonly temperature?: number | null | undefined;
  readonly top_p?: number | null | undefined;
  readonly top_k?: number | null | undefined;
  readonly min_p?: number | null | undefined;
  readonly typical_p?: number | null | undefined;
  readonly presence_penalty?: number | null | undefined;
  readonly frequency_penalty?: number | null | undefined;
  readonly repetition_penalty?: number | null | undefined;
  readonly penalty_window?: number | null | undefined;
  readonly seed?: number | null | undefined;
  readonly stop?: string | string[] | null | undefined;
  readonly logit_bias?: Readonly<Record<string, number>> | null | undefined;
  readonly ignore_eos?: boolean | null | undefined;
}

/** OpenAI's: at temperature 1 the model's own probabilities are drawn from. */
const DEFAULT_TEMPERATURE = 1;
/** What OpenAI calls a ban. */
const BAN = -100;

/** The API's options for the fields of a request. */
export function answerOptions(fields: SamplingFields): AnswerOptions {
  const { top_p, top_k, logit_bias } = fields;
  const sampling: { [N in keyof SamplingOptions]?: SamplingOptions[N] | null | undefined } = {
    temperature: fields.temperature ?? DEFAULT_TEMPERATURE,
    // 0 is the most probable token alone.
    topP: typeof top_p === "number" ? Math.max(top_p, Number.MIN_VALUE) : null,
    topK: typeof top_k === "number" && top_k > 0 ? top_k : null,
    minP: fields.min_p,
    typicalP: typeof fields.typical_p === "number" ? Math.max(fields.typical_p, Number.MIN_VALUE) : null,
    presencePenalty: fields.presence_penalty,
    frequencyPenalty: fields.frequency_penalty,
    repetitionPenalty: fields.repetition_penalty,
    penaltyWindow: fields.penalty_window,
    seed: fields.seed,
    logitBias: logit_bias
      ? Object.fromEntries(
          Object.entries(logit_bias).map(([id, bias]) => [Number(id), bias === BAN ? -Infinity : bias]),
        )
      : null,
  };
  const given = Object.entries(sampling).filter(([, value]) => value !== null && value !== undefined);
  return {
    ...(Object.fromEntries(given) as SamplingOptions),
    ...(fields.stop === null || fields.stop === undefined ? {} : { stop: fields.stop }),
    ...(fields.ignore_eos ? { ignoreEos: true } : {}),
  };
}

/** The options of choice `index` of a request: a seed of its own, so that choices differ and can be repeated. */
export function choiceOptions(options: AnswerOptions, index: number): AnswerOptions {
  return options.seed === undefined ? options : { ...options, seed: (options.seed + index) % 2 ** 53 };
}
