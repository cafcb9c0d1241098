import { MillraceError } from "../errors.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { type LengthShare, stepsOf } from "./lengths.js";
import type { Phase } from "./trainer.js";
import type { TrainingData } from "./training-data.js";
import { startWindowThread } from "./window-thread.js";

/** The phases of a run. Disposing of them ends the thread that makes their windows, if there is one. */
export interface Phases extends AsyncDisposable {
  readonly phases: readonly Phase[];
  /** What a resumed run's data must have in common with it, beside its name. */
  readonly fingerprint: { readonly text?: string };
}

/**
 * The data as windows for a model, one phase for each length; made ahead where the data has a recipe. Throws
 * BAD_TOKENIZER, and what reading the data throws.
 */
export async function layPhases(
  model: Checkpoint,
  data: Pick<TrainingData, "windows" | "recipe">,
  run: { readonly lengths: readonly LengthShare[]; readonly steps: number },
): Promise<Phases> {
  const tokenizer = resolveTokenizer(model.tokenizer);
  if (!tokenizer) {
    throw new MillraceError(
      "BAD_TOKENIZER",
      `${model.path} has no tokenizer, so no text can be made into tokens. Choose a model that has one.`,
    );
  }
  const steps = stepsOf(run.lengths, run.steps);
  const phases: Phase[] = [];
  let fingerprint: Phases["fingerprint"] = {};
  for (const [i, { length }] of run.lengths.entries()) {
    const { train, heldOut, digest } = await data.windows(tokenizer, length);
    phases.push({ steps: steps[i]!, train, heldOut });
    if (digest !== undefined) fingerprint = { text: digest };
  }
  if (!data.recipe) return { phases, fingerprint, async [Symbol.asyncDispose]() {} };
  const thread = startWindowThread({ recipe: data.recipe, tokenizer: model.tokenizer });
  return {
    fingerprint,
    phases: phases.map(({ steps, train, heldOut }) => {
      const length = train.windowLength;
      return {
        steps,
        train: thread.source({ length, split: "train" }, train),
        heldOut: heldOut && thread.source({ length, split: "heldOut" }, heldOut),
      };
    }),
    [Symbol.asyncDispose]: () => thread[Symbol.asyncDispose](),
  };
}
