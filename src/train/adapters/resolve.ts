/** From what the caller asks for to adapters on a model's matrices. */
import type { TrainingArithmetic } from "../../backends/training.js";
import { MillraceError } from "../../errors.js";
import type { Checkpoint } from "../../formats/checkpoint.js";
import { type AdaptableMatrix, adaptableMatrices, type LowRanks } from "../../models/low-rank.js";
import type { Adapt } from "../adapter.js";
import type { AdaptedTensor, AdapterKind, CreateAdapter } from "./contract.js";
import { createLora } from "./lora.js";
import { createPaca } from "./paca.js";

export interface AdapterSpec {
  readonly kind: AdapterKind;
  /** How many directions (LoRA) or columns (PaCA) of every matrix change. */
  readonly rank: number;
  /** LoRA: changes count alpha / rank times. Default 2 x rank. */
  readonly alpha?: number;
  /** Layers, by the last part of their names in the transformers library ("q_proj"); default: all but the output. */
  readonly targets?: readonly string[];
  readonly seed: number;
}

const KINDS: Readonly<Record<AdapterKind, CreateAdapter>> = { lora: createLora, paca: createPaca };

export const ADAPTER_KINDS = Object.keys(KINDS) as readonly AdapterKind[];

/** The adapters of a model's matrices. */
export interface AdapterSet {
  readonly adapt: Adapt;
  /** What the parameters, by name, make of the model. */
  lowRanks(weights: ReadonlyMap<string, Float32Array>): LowRanks;
  /** Frees the parameters; `lowRanks` goes on working. */
  free(): void;
}

/**
 * Allocates an adapter for every matrix that is asked for; the model is unchanged at first. Throws INVALID_ARGUMENT for
 * a rank or alpha out of range and for a target that the model does not have, OUT_OF_BUDGET.
 */
export async function createAdapters(
  arithmetic: TrainingArithmetic,
  checkpoint: Checkpoint,
  spec: AdapterSpec,
  options: { readonly gradients: boolean },
): Promise<AdapterSet> {
  const { rank, alpha = 2 * rank, seed } = spec;
  const targets = chooseTargets(
    [...(await adaptableMatrices(checkpoint)).values()],
    spec.targets,
    checkpoint,
  );
  const most = Math.min(...targets.map(({ rows, columns }) => Math.min(rows, columns)));
  check(
    Number.isSafeInteger(rank) && rank >= 1 && rank <= most,
    "rank",
    rank,
    `a whole number from 1 to ${most}`,
  );
  check(Number.isFinite(alpha) && alpha > 0, "alpha", alpha, "a number above 0");
  const tensors = new Map<string, AdaptedTensor>();
  const free = (): void => {
    for (const adapted of tensors.values()) adapted.free();
  };
  try {
    for (const target of targets) {
      const settings = { rank, alpha, seed, gradients: options.gradients };
      tensors.set(target.tensor, await KINDS[spec.kind](arithmetic, target, settings));
    }
  } catch (error) {
    free();
    throw error;
  }
  return {
    adapt: ({ tensor, rowStart, rows }) => tensors.get(tensor)?.part(rowStart, rows) ?? null,
    lowRanks: (weights) =>
      new Map(Array.from(tensors, ([tensor, adapted]) => [tensor, adapted.lowRank(weights)] as const)),
    free,
  };
}

function chooseTargets(
  matrices: readonly AdaptableMatrix[],
  wanted: readonly string[] | undefined,
  checkpoint: Checkpoint,
): readonly AdaptableMatrix[] {
  const kindOf = ({ module }: AdaptableMatrix): string => module.split(".").at(-1)!;
  if (wanted === undefined) return matrices.filter((matrix) => kindOf(matrix) !== "lm_head");
  const known = new Set(matrices.map(kindOf));
  const unknown = wanted.filter((target) => !known.has(target));
  if (unknown.length > 0 || wanted.length === 0) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `${checkpoint.path} has no layers called ${unknown.join(", ") || "nothing"}; those that can be adapted are ` +
        `${[...known].join(", ")}.`,
      { got: [...wanted], expected: [...known] },
    );
  }
  return matrices.filter((matrix) => wanted.includes(kindOf(matrix)));
}

function check(holds: boolean, name: string, got: number, expected: string): void {
  if (holds) return;
  throw new MillraceError("INVALID_ARGUMENT", `An adapter's ${name} is ${got}; expected ${expected}.`, {
    name,
    got,
    expected,
  });
}
