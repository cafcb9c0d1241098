/** The arithmetic of a backend that can train. */
import type { BackendName } from "../backends/contract.js";
import { createReferenceTraining } from "../backends/reference/training.js";
import { createBackend } from "../backends/resolve.js";
import type { TrainingArithmetic } from "../backends/training.js";
import { MillraceError } from "../errors.js";

export interface OpenedArithmetic extends AsyncDisposable {
  readonly arithmetic: TrainingArithmetic;
  /** One line for people. */
  readonly description: string;
  /** Why "auto" took nothing faster, else null. */
  readonly reason: string | null;
}

/**
 * Opens a backend for training; disposing of it frees all that was allocated there. Throws as `createBackend`, and
 * BACKEND_UNAVAILABLE for one that cannot train.
 */
export async function openArithmetic(
  name: BackendName | "auto",
  threads?: number,
): Promise<OpenedArithmetic> {
  if (name === "reference") {
    return {
      arithmetic: createReferenceTraining({ precision: "f32" }),
      description: "reference (plain loops, sums in double precision)",
      reason: null,
      async [Symbol.asyncDispose]() {},
    };
  }
  const { backend, reason } = await createBackend(name, threads === undefined ? {} : { threads });
  const arithmetic = backend.training?.();
  if (!arithmetic) {
    await backend.dispose();
    throw new MillraceError(
      "BACKEND_UNAVAILABLE",
      `The ${backend.name} backend cannot train; choose native, wasm or reference.`,
      { backend: backend.name },
    );
  }
  return {
    arithmetic,
    description: backend.description,
    reason,
    [Symbol.asyncDispose]: () => backend.dispose(),
  };
}
