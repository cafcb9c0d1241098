/** From parameters to a loaded model: opens the file, answers whether it fits, then allocates and loads. */
import { totalmem } from "node:os";
import type { Backend } from "../backends/contract.js";
import { createBackend } from "../backends/resolve.js";
import { pagesFor, planLayout } from "../cache/layout.js";
import { KvPool } from "../cache/pool.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { openCheckpoint } from "../formats/open.js";
import { buildTape, resolveArchitecture } from "../models/resolve.js";
import type { Limits } from "../scheduler/contract.js";
import { firstCome } from "../scheduler/first-come.js";
import { chatFormat } from "../tokenizer/chat.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { Engine } from "./engine.js";
import { fitMemory } from "./fit.js";
import { LoadedModel } from "./loaded.js";
import { createPolicy } from "./policies.js";
import type { OpenParameters, OpenProgress } from "./protocol.js";

/** Context where the caller names none: long enough for most, short of what a trained maximum would cost. */
const DEFAULT_CONTEXT = 8192;
/** Tokens of a step: large enough that weights are read once for many tokens, small enough for scratch to stay so. */
const STEP_TOKENS = 512;
/** Prompt tokens beside decoding ones: about where the kernels reach their full speed, so answers stall least. */
const STEP_TOKENS_BESIDE_DECODE = 128;
/** Scoring wants logits of every row; this bounds their buffer. */
const LOGITS_BYTES = 16 * 2 ** 20;

/**
 * Opens `parameters.path` and loads it. What fails leaves nothing allocated.
 * Throws what `open` documents, save DOWNLOAD_FAILED and ABORTED.
 */
export async function loadModel(
  parameters: OpenParameters,
  onProgress: (progress: OpenProgress) => void,
): Promise<LoadedModel> {
  const checkpoint = await openCheckpoint(parameters.path);
  try {
    const { threads } = parameters;
    const { backend } = await createBackend(parameters.backend, threads === undefined ? {} : { threads });
    return await assemble(checkpoint, backend, parameters, onProgress);
  } finally {
    await checkpoint.close();
  }
}

/** Loads `checkpoint` on `backend`, which the model then owns; it is disposed of where loading fails. */
export async function assemble(
  checkpoint: Checkpoint,
  backend: Backend,
  parameters: Omit<OpenParameters, "path" | "backend" | "threads">,
  onProgress: (progress: OpenProgress) => void = () => {},
): Promise<LoadedModel> {
  const startedAt = performance.now();
  const undo: (() => unknown)[] = [() => backend.dispose()];
  const dispose = async () => {
    for (const free of undo.splice(0).reverse()) await free();
  };
  try {
    const { sequences, cache, memoryBytes = null } = parameters;
    const trained = (await resolveArchitecture(checkpoint).configure(checkpoint, {})).contextLength;
    const wanted = parameters.context ?? Math.min(trained, DEFAULT_CONTEXT);
    const { config, tape } = await buildTape(checkpoint, { context: wanted });
    const tokenizer = resolveTokenizer(checkpoint.tokenizer);

    const vocabularySize = tape.logits.width;
    const limits = stepLimits(sequences, wanted, vocabularySize);
    const { maxTokens, maxOutputs } = limits;
    const policy = createPolicy(cache.policy);
    const layout = planLayout({ kv: tape.kv, policy, codec: cache.codec, step: maxTokens });
    const programLimits = { maxTokens, maxOutputs, kv: layout };
    const endless = Number.isFinite(pagesFor(layout, Number.POSITIVE_INFINITY));

    const plan = backend.plan(tape, programLimits);
    const fitted = fitMemory({
      layout,
      ...plan,
      context: endless ? Number.POSITIVE_INFINITY : wanted,
      contextIsFixed: endless || parameters.context !== undefined,
      sequences,
      budgetBytes: memoryBytes,
      machineBytes: machineMemory(),
    });

    const pool = new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes: fitted.cacheBytes });
    undo.push(() => pool.dispose());
    const weights = await backend.load(tape, checkpoint, (progress) => {
      onProgress({ phase: "load", ...progress });
    });
    undo.push(() => weights.dispose());
    const program = await backend.compile(tape, weights, programLimits);
    undo.push(() => program.dispose());

    return new LoadedModel({
      engine: new Engine({ program, pool, layout, scheduler: firstCome, limits, vocabularySize }),
      tokenizer,
      maxTokens: fitted.context,
      dispose,
      info: {
        path: checkpoint.path,
        format: checkpoint.format,
        architecture: config.architecture,
        numLayers: config.numLayers,
        embeddingWidth: config.embeddingWidth,
        vocabularySize,
        trainedContext: trained,
        context: endless ? wanted : fitted.context,
        sequences,
        tokenizer: {
          kind: tokenizer ? checkpoint.tokenizer.kind : "none",
          bosId: tokenizer?.bosId ?? null,
          eosIds: [...(tokenizer?.eosIds ?? [])],
          chatFormat: tokenizer && chatFormat(tokenizer).kind,
        },
        backend: { name: backend.name, description: backend.description, threads: backend.numThreads },
        cache: { policy: policy.id, codec: cache.codec },
        memory: {
          weightBytes: plan.weightBytes,
          cacheBytes: fitted.cacheBytes,
          scratchBytes: fitted.scratchBytes,
          budgetBytes: memoryBytes,
        },
        fileBytes: checkpoint.fileBytes,
        loadMs: performance.now() - startedAt,
      },
    });
  } catch (error) {
    await dispose();
    throw error;
  }
}

function stepLimits(sequences: number, context: number, vocabularySize: number): Limits {
  const maxTokens = Math.max(sequences + 1, Math.min(STEP_TOKENS, context));
  const rows = Math.floor(LOGITS_BYTES / (4 * vocabularySize));
  return {
    maxTokens,
    maxTokensBesideDecode: Math.min(STEP_TOKENS_BESIDE_DECODE, maxTokens),
    maxOutputs: Math.min(maxTokens, Math.max(sequences, rows)),
    maxSequences: sequences,
  };
}

/** Memory of the machine, or of the container where that has less. */
function machineMemory(): number {
  const constrained = process.constrainedMemory() ?? 0;
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}
