import { MillraceError } from "../errors.js";

/**
 * The tokens that may still be drawn, and room to work in; V is the vocabulary's size. One set serves any number of
 * samplers that run one after another: nothing in it outlives a step. Tokens stand in ascending order of id, always.
 */
export interface Candidates {
  /** How many entries of the arrays below count. */
  count: number;
  /** [V] token ids. */
  readonly ids: Int32Array;
  /** [V] logits of those tokens. */
  readonly logits: Float64Array;
  /** [V] written by `softmax`. */
  readonly probabilities: Float64Array;
  /** [V] work of a truncation: the keys that it selects by. */
  readonly keys: Float64Array;
  /** [V] work of a truncation: places that are being partitioned. */
  readonly places: Int32Array;
}

/** A truncation: takes tokens out of the set (`keep`). It never empties the set. */
export type Truncation = (candidates: Candidates) => void;

/**
 * A change of the whole vocabulary's logits [V], before anything is taken out. `window` holds how often each token
 * stands in the penalty window.
 */
export type LogitStep = (logits: Float64Array, window: ReadonlyMap<number, number>) => void;

export function createCandidates(vocabularySize: number): Candidates {
  return {
    count: 0,
    ids: new Int32Array(vocabularySize),
    logits: new Float64Array(vocabularySize),
    probabilities: new Float64Array(vocabularySize),
    keys: new Float64Array(vocabularySize),
    places: new Int32Array(vocabularySize),
  };
}

/** Makes every token of the vocabulary a candidate. `logits` [V] is copied, not changed. */
export function loadCandidates(candidates: Candidates, logits: Float32Array): void {
  candidates.count = logits.length;
  candidates.logits.set(logits);
  for (let id = 0; id < logits.length; id++) candidates.ids[id] = id;
}

/** Largest logit. Throws BAD_LOGITS for NaN, +Infinity, and where every token is banned. */
export function maximum(logits: Float32Array | Float64Array, count: number): number {
  let best = -Infinity;
  for (let i = 0; i < count; i++) {
    const x = logits[i]!;
    if (x > best) best = x;
    else if (Number.isNaN(x)) badLogit(x, i);
  }
  if (best === Infinity) badLogit(best, logits.indexOf(Infinity));
  if (best === -Infinity) badLogits("every logit is -Infinity: no token is left to choose");
  return best;
}

/** Fills `probabilities` from `logits`. Throws what `maximum` throws. */
export function softmax(candidates: Candidates): void {
  const { count, logits, probabilities } = candidates;
  const top = maximum(logits, count);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const p = Math.exp(logits[i]! - top);
    probabilities[i] = p;
    sum += p;
  }
  const scale = 1 / sum;
  for (let i = 0; i < count; i++) probabilities[i] = probabilities[i]! * scale;
}

/** Keeps the candidates whose place passes `test`, in their order; `probabilities` are stale afterwards. */
export function keep(candidates: Candidates, test: (place: number) => boolean): void {
  const { ids, logits } = candidates;
  let count = 0;
  for (let i = 0; i < candidates.count; i++) {
    if (!test(i)) continue;
    ids[count] = ids[i]!;
    logits[count] = logits[i]!;
    count++;
  }
  candidates.count = count;
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
