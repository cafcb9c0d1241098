import type { Batch, Scene, Stage } from "./scene.js";
import type { Suite } from "./suite.js";

/** Row counts around the kernels' own steps: one, pairs, tiles of 16 and one past them. */
export const ROW_COUNTS = [1, 2, 3, 7, 16, 17, 33] as const;
/** Widths around the vectors' and blocks' sizes. */
export const WIDTHS = [8, 32, 64, 96, 256, 288] as const;

/** Runs the scene over tokens 0 .. T-1 with no cache, on the backend and on the reference. */
export async function onBoth(
  suite: Suite,
  scene: Scene,
  numTokens: number,
  use: (stage: Stage, reference: Stage) => void | Promise<void>,
  batch: Omit<Batch, "tokens"> = {},
): Promise<void> {
  const stages: Stage[] = [];
  try {
    for (const backend of [suite.backend, suite.reference]) {
      const stage = await scene.on(backend, { maxTokens: numTokens });
      stages.push(stage);
      await stage.run({ tokens: Array.from({ length: numTokens }, (_, t) => t), ...batch });
    }
    await use(stages[0]!, stages[1]!);
  } finally {
    for (const stage of stages) stage.dispose();
  }
}
