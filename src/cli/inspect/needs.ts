/** The memory that a model would take, and whether it is there. */
import { freemem } from "node:os";
import type { Backend } from "../../backends/contract.js";
import { createBackend } from "../../backends/resolve.js";
import { bytesPerToken } from "../../cache/layout.js";
import type { PolicySpec } from "../../cache/policies/resolve.js";
import { formatBytes } from "../../engine/bytes.js";
import { planModel } from "../../engine/load.js";
import type { OpenParameters } from "../../engine/protocol.js";
import { type ErrorDetails, MillraceError } from "../../errors.js";
import type { Checkpoint } from "../../formats/checkpoint.js";
import type { Tape } from "../../tape/tape.js";

/** An error that does not end the inspection. */
export type Problem = ReturnType<MillraceError["toJSON"]>;

/** What it takes and what there is; `refusal` says why it does not fit. */
export async function needs(checkpoint: Checkpoint, tape: Tape, parameters: OpenParameters) {
  const { threads } = parameters;
  const { backend } = await createBackend(parameters.backend, threads === undefined ? {} : { threads });
  try {
    const plan = await planned(checkpoint, backend, parameters);
    const { weightBytes, cacheBytes, scratchBytes, context } = plan;
    const neededBytes = weightBytes + cacheBytes + scratchBytes;
    const free = freeBytes();
    const availableBytes = parameters.memoryBytes ?? free;
    const fits = plan.refusal === null && neededBytes <= availableBytes;
    const facts = {
      fits,
      neededBytes,
      availableBytes,
      budgetBytes: parameters.memoryBytes ?? null,
      freeBytes: free,
      weightBytes,
      cacheBytes,
      cacheBytesPerToken: bytesPerToken(tape.kv, parameters.cache.codec),
      scratchBytes,
      context,
      sequences: parameters.sequences,
      cache: { policy: plan.policy ?? parameters.cache.policy, codec: parameters.cache.codec },
      backend: backend.description,
    };
    return { facts, refusal: fits ? null : (plan.refusal ?? shortOf(neededBytes, free)) };
  } finally {
    await backend.dispose();
  }
}

interface Needs {
  /** What is kept; null where nothing fits. */
  readonly policy: PolicySpec | null;
  readonly weightBytes: number;
  readonly cacheBytes: number;
  readonly scratchBytes: number;
  /** Tokens of one request; null: endless. */
  readonly context: number | null;
  readonly refusal: Problem | null;
}

/** The engine's own plan, or the numbers with which it refuses. */
async function planned(checkpoint: Checkpoint, backend: Backend, parameters: OpenParameters): Promise<Needs> {
  try {
    const { weightBytes, fit, endless, context, cache } = await planModel(checkpoint, backend, parameters);
    const { cacheBytes, scratchBytes } = fit;
    const { policy } = cache;
    return {
      policy,
      weightBytes,
      cacheBytes,
      scratchBytes,
      context: endless ? null : context,
      refusal: null,
    };
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== "OUT_OF_BUDGET") throw error;
    const number = (name: keyof ErrorDetails) => Number(error.details[name] ?? 0);
    const context = number("context");
    return {
      policy: null,
      weightBytes: number("weightBytes"),
      cacheBytes: number("cacheBytes"),
      scratchBytes: number("scratchBytes"),
      context: Number.isFinite(context) ? context : null,
      refusal: error.toJSON(),
    };
  }
}

function shortOf(needs: number, has: number): Problem {
  const message =
    `Needs ${formatBytes(needs)}; ${formatBytes(has)} are free at this moment. Close other programs, or choose a ` +
    "smaller model or codec, or a shorter context.";
  return new MillraceError("OUT_OF_BUDGET", message, { needs, has }).toJSON();
}

/** Memory that can be had at this moment, within the container's limit where there is one. */
function freeBytes(): number {
  const constrained = process.constrainedMemory() ?? 0;
  return constrained > 0 ? Math.min(freemem(), constrained) : freemem();
}
