/**
 * Composes the steps that the options ask for. The order, and why:
 *
 *   log-probabilities   of the raw logits, before anything touches them
 *   format              takes away what the answer's format does not allow; what follows judges what is left
 *   logit bias          what the caller wants is part of the model's opinion from here on
 *   repetition, presence, frequency penalties
 *   (temperature 0)     the largest logit is taken here, and the rest does not run
 *   temperature         before the truncations, so that they judge the distribution that is drawn from
 *   top-k, typical, top-p, min-p    from the coarsest to the finest; each sees what the one before left
 *   draw
 */
import { MillraceError } from "../errors.js";
import {
  type Candidates,
  createCandidates,
  type LogitStep,
  loadCandidates,
  type Truncation,
} from "./candidates.js";
import { draw } from "./draw.js";
import { frequencyPenalty } from "./frequency-penalty.js";
import { type Constraint, hold } from "./grammar/constraint.js";
import { greedy } from "./greedy.js";
import { logitBias } from "./logit-bias.js";
import { logprobs } from "./logprobs.js";
import { minP } from "./min-p.js";
import { type SamplingOptions, validateSamplingOptions } from "./options.js";
import { presencePenalty } from "./presence-penalty.js";
import { createRandom, type RandomState } from "./random.js";
import { repetitionPenalty } from "./repetition-penalty.js";
import { temperature } from "./temperature.js";
import { topK } from "./top-k.js";
import { topP } from "./top-p.js";
import { typical } from "./typical.js";
import { countWindow } from "./window.js";

/** A token and how probable the model finds it. */
export interface TokenLogprob {
  readonly id: number;
  /** Natural logarithm of the probability under the raw logits. */
  readonly logprob: number;
}

export interface Sample {
  readonly id: number;
  /** Only where `logprobs` was asked for. */
  readonly logprob?: number;
  /** The most probable tokens, best first, ties by lower id; only where `logprobs` above 0 was asked for. */
  readonly top?: readonly TokenLogprob[];
}

/** What is needed to continue a sampler elsewhere with the same options. */
export interface SamplerState {
  readonly seed: number;
  readonly random: RandomState;
}

export interface Sampler {
  /** The seed in use: the caller's, or the one that was drawn. */
  readonly seed: number;
  /** Ids at the end of the context that `sample` looks at: the penalty window, or 0 without penalties. */
  readonly window: number;
  /**
   * Chooses the next token. `logits` [V] is not changed; `context` holds the ids so far (prompt and answer), at least
   * the last `window` of them, and ids outside the vocabulary are skipped. Advances the random state where
   * temperature is above 0. Throws BAD_LOGITS for NaN, +Infinity or nothing left to choose, INVALID_ARGUMENT for a
   * wrong number of logits.
   */
  sample(logits: Float32Array, context: ArrayLike<number>): Sample;
  save(): SamplerState;
  restore(state: SamplerState): void;
}

/**
 * Throws INVALID_ARGUMENT for options that `validateSamplingOptions` refuses. `candidates` may be shared by samplers
 * that run one after another; without it the sampler makes its own when a step first needs it. `constraint` says what may
 * be chosen; whoever samples tells it what was.
 */
export function createSampler(
  options: SamplingOptions,
  vocabularySize: number,
  candidates?: Candidates,
  constraint?: Constraint,
): Sampler {
  validateSamplingOptions(options, vocabularySize);
  const { penaltyWindow = 64, logprobs: numTop } = options;
  const heat = options.temperature ?? 0;
  const penalties = penaltySteps(options);
  const changes = [
    ...(constraint ? [hold(constraint)] : []),
    ...(options.logitBias === undefined ? [] : [logitBias(options.logitBias)]),
    ...penalties,
  ];
  const narrow = heat === 0 ? [] : [temperature(heat), ...truncations(options)];
  let seed = options.seed ?? globalThis.crypto.getRandomValues(new Uint32Array(1))[0]!;
  const random = createRandom(seed);
  let scratch = candidates;

  const choose = (logits: Float32Array, context: ArrayLike<number>): number => {
    if (heat === 0 && changes.length === 0) return greedy(logits);
    scratch ??= createCandidates(vocabularySize);
    loadCandidates(scratch, logits);
    if (changes.length > 0) {
      const window = countWindow(context, penaltyWindow, vocabularySize);
      for (const step of changes) step(scratch.logits, window);
    }
    if (heat === 0) return greedy(scratch.logits);
    for (const step of narrow) step(scratch);
    return draw(scratch, random.next());
  };

  return {
    get seed() {
      return seed;
    },
    window: penalties.length > 0 ? penaltyWindow : 0,
    sample(logits, context) {
      if (logits.length !== vocabularySize) {
        throw new MillraceError(
          "INVALID_ARGUMENT",
          `Got ${logits.length} logits; expected ${vocabularySize}.`,
          {
            name: "logits",
            got: logits.length,
            expected: vocabularySize,
          },
        );
      }
      const id = choose(logits, context);
      if (numTop === undefined) return { id };
      scratch ??= createCandidates(vocabularySize);
      const scores = logprobs(logits, scratch.places);
      const logprob = scores.of(id);
      return numTop === 0 ? { id, logprob } : { id, logprob, top: scores.top(numTop) };
    },
    save: () => ({ seed, random: random.save() }),
    restore(state) {
      random.restore(state.random);
      seed = state.seed;
    },
  };
}

function penaltySteps(options: SamplingOptions): LogitStep[] {
  const { repetitionPenalty: r = 1, presencePenalty: p = 0, frequencyPenalty: f = 0 } = options;
  const steps: LogitStep[] = [];
  if (r !== 1) steps.push(repetitionPenalty(r));
  if (p !== 0) steps.push(presencePenalty(p));
  if (f !== 0) steps.push(frequencyPenalty(f));
  return steps;
}

function truncations(options: SamplingOptions): Truncation[] {
  const steps: Truncation[] = [];
  if (options.topK !== undefined) steps.push(topK(options.topK));
  if (options.typicalP !== undefined) steps.push(typical(options.typicalP));
  if (options.topP !== undefined) steps.push(topP(options.topP));
  if (options.minP !== undefined) steps.push(minP(options.minP));
  return steps;
}
