import { MillraceError } from "../errors.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { type LengthShare, stepsOf } from "./lengths.js";
import type { Phase } from "./trainer.js";
import type { TrainingData } from "./training-data.js";

/**
 * The data as windows for a model, one phase for each length. Throws BAD_TOKENIZER, and what reading the data throws.
 */
export async function layPhases(
  model: Checkpoint,
  data: Pick<TrainingData, "windows">,
  run: { readonly lengths: readonly LengthShare[]; readonly steps: number },
): Promise<Phase[]> {
  const tokenizer = resolveTokenizer(model.tokenizer);
  if (!tokenizer) {
    throw new MillraceError(
      "BAD_TOKENIZER",
      `${model.path} has no tokenizer, so no text can be made into tokens. Choose a model that has one.`,
    );
  }
  const steps = stepsOf(run.lengths, run.steps);
  const phases: Phase[] = [];
  for (const [i, { length }] of run.lengths.entries()) {
    phases.push({ steps: steps[i]!, ...(await data.windows(tokenizer, length)) });
  }
  return phases;
}
