import { MillraceError } from "../errors.js";
import { expNegative } from "./exp.js";

/**
 * The tokens that may still be drawn, and room to work in; V is the vocabulary's size. One set serves any number of
 * samplers that run one after another: nothing in it outlives a step. Tokens stand in ascending order of id, always.
 */
export interface Candidates {
  /** How many entries of the arrays below count. */
  count: number;
  /** [V] token ids. */
  ids: Int32Array;
  /** [V] logits of those tokens. */
  readonly logits: Float32Array;
  /** What logits are divided by when they become probabilities. */
  temperature: number;
  /** [V] written by `softmax`. */
  readonly probabilities: Float64Array;
  /** [V] work of a truncation: keys that it selects by, and places that it chooses. */
  readonly keys: Float64Array;
  readonly places: Int32Array;
  /** [V] what `ids` is while nothing has been taken out, and afterwards. */
  readonly allIds: Int32Array;
  readonly keptIds: Int32Array;
}

/** A truncation: takes tokens out of the set (`keep`). It never empties the set. */
export type Truncation = (candidates: Candidates) => void;

/**
 * A change of the whole vocabulary's logits [V], before anything is taken out. `window` holds how often each token
 * stands in the penalty window.
 */
export type LogitStep = (logits: Float32Array, window: ReadonlyMap<number, number>) => void;

export function createCandidates(vocabularySize: number): Candidates {
  const allIds = new Int32Array(vocabularySize).map((_, id) => id);
  return {
    count: 0,
    ids: allIds,
    logits: new Float32Array(vocabularySize),
    temperature: 1,
    probabilities: new Float64Array(vocabularySize),
    keys: new Float64Array(vocabularySize),
    places: new Int32Array(vocabularySize),
    allIds,
    keptIds: new Int32Array(vocabularySize),
  };
}

/** Makes every token of the vocabulary a candidate, at temperature 1. `logits` [V] is copied, not changed. */
export function loadCandidates(candidates: Candidates, logits: Float32Array): void {
  candidates.count = logits.length;
  candidates.logits.set(logits);
  candidates.ids = candidates.allIds;
  candidates.temperature = 1;
}

/** The largest of the first `count` logits. Throws BAD_LOGITS for NaN, +Infinity, and where every token is banned. */
export function maximum(logits: Float32Array, count: number): number {
  let best = -Infinity;
  for (let i = 0; i < count; i++) {
    const x = logits[i]!;
    if (x <= best) continue;
    if (Number.isNaN(x)) badLogit(x, i);
    best = x;
  }
  if (best === Infinity) badLogit(best, logits.indexOf(Infinity));
  if (best === -Infinity) badLogits("every logit is -Infinity");
  return best;
}

/** Fills `probabilities` from `logits` and `temperature`. Throws what `maximum` throws. */
export function softmax(candidates: Candidates): void {
  const { count, logits, probabilities, temperature } = candidates;
  const top = maximum(logits, count);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const p = expNegative((logits[i]! - top) / temperature);
    probabilities[i] = p;
    sum += p;
  }
  const scale = 1 / sum;
  for (let i = 0; i < count; i++) probabilities[i] = probabilities[i]! * scale;
}

/** Keeps the candidates at `places`, which are sorted by this; `probabilities` are stale afterwards. */
export function keepPlaces(candidates: Candidates, places: Int32Array): void {
  const { ids, logits, keptIds } = candidates;
  places.sort();
  for (let i = 0; i < places.length; i++) {
    const place = places[i]!;
    keptIds[i] = ids[place]!;
    logits[i] = logits[place]!;
  }
  candidates.ids = keptIds;
  candidates.count = places.length;
}

export function badLogit(value: number, id: number): never {
  throw new MillraceError(
    "BAD_LOGITS",
    `The logit of token ${id} is ${value}; expected a finite number or -Infinity. The weights are corrupt or a ` +
      "kernel failed; compare with another backend, or fetch the model file anew.",
    { id, got: String(value) },
  );
}

export function badLogits(why: string): never {
  throw new MillraceError(
    "BAD_LOGITS",
    `No token can be chosen: ${why}. Check logitBias and the model file.`,
  );
}
