/** From parameters to a loaded model: opens the file, answers whether it fits, then allocates and loads. */
import { totalmem } from "node:os";
import type { Backend, ProgramLimits } from "../backends/contract.js";
import { createBackend, type ResolvedBackend } from "../backends/resolve.js";
import { type CacheLayout, pagesFor, planLayout } from "../cache/layout.js";
import { chooseAuto } from "../cache/policies/auto.js";
import { type PolicySpec, resolvePolicy } from "../cache/policies/resolve.js";
import type { ModelHeads } from "../cache/policies/split.js";
import { KvPool } from "../cache/pool.js";
import { PrefixTree } from "../cache/prefix.js";
import { MillraceError } from "../errors.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { openCheckpoint } from "../formats/open.js";
import { adaptTape } from "../models/adapt-tape.js";
import type { ModelConfig } from "../models/contract.js";
import type { LowRanks } from "../models/low-rank.js";
import { readAdapter } from "../models/peft.js";
import { buildTape, resolveArchitecture } from "../models/resolve.js";
import type { Limits } from "../scheduler/contract.js";
import { composeScheduler } from "../scheduler/resolve.js";
import type { Tape } from "../tape/tape.js";
import { chatFormat } from "../tokenizer/chat.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { toolFormatOf } from "../tokenizer/tools/resolve.js";
import { Engine } from "./engine.js";
import { type Fit, fitMemory } from "./fit.js";
import { needHeadScores } from "./heads.js";
import { readHeads } from "./heads-file.js";
import { type AdapterIdentity, identify, identifyAdapter } from "./identity.js";
import { Language } from "./language.js";
import { LoadedModel } from "./loaded.js";
import type { CacheSpec } from "./policies.js";
import { type LeaseWire, PoolLease } from "./pool-lease.js";
import { openPrefixDisk } from "./prefix-disk.js";
import { loadPrefixes, savePrefixes } from "./prefix-file.js";
import type { OpenParameters, OpenProgress } from "./protocol.js";
import { Asking } from "./sessions/asking.js";
import type { SessionsListener } from "./sessions/live-session.js";
import { Sessions } from "./sessions/sessions.js";

/** Context where the caller names none: long enough for most, short of what a trained maximum would cost. */
const DEFAULT_CONTEXT = 8192;
/**
 * Tokens of a step: enough that weights are read once for many tokens and the kernels reach their full speed, few
 * enough that scratch stays small and that answers beside a long prompt stall little.
 */
const STEP_TOKENS = 128;
/** Scoring wants logits of every row; this bounds their buffer. */
const LOGITS_BYTES = 16 * 2 ** 20;

export type PlanParameters = Omit<OpenParameters, "path" | "backend" | "threads">;

/**
 * Opens `parameters.path` and loads it. What fails leaves nothing allocated.
 * Throws what `open` documents, save DOWNLOAD_FAILED and ABORTED.
 */
export async function loadModel(
  parameters: OpenParameters,
  onProgress: (progress: OpenProgress) => void,
  sessions?: SessionsListener,
  wire?: LeaseWire,
): Promise<LoadedModel> {
  const checkpoint = await openCheckpoint(parameters.path);
  try {
    const { threads } = parameters;
    const resolved = await createBackend(parameters.backend, threads === undefined ? {} : { threads });
    return await assemble(checkpoint, resolved, parameters, onProgress, sessions, wire);
  } finally {
    await checkpoint.close();
  }
}

/** All that is known before anything is allocated. */
export interface ModelPlan {
  readonly config: ModelConfig;
  readonly tape: Tape;
  /** Where the tape's tensors are read from: the model's, and its adapters'. */
  readonly checkpoint: Checkpoint;
  /** In the order of their numbers on the tape. */
  readonly adapters: readonly AdapterIdentity[];
  readonly limits: Limits;
  readonly layout: CacheLayout;
  /** Which heads retrieve, where that was ever found out. */
  readonly heads: ModelHeads;
  /** What was asked for, or chosen where that was "auto". */
  readonly cache: CacheSpec;
  readonly weightBytes: number;
  readonly fit: Fit;
  /** The policy bounds the cache of any stream. */
  readonly endless: boolean;
  /** Tokens that the model was trained for, and that it is set up for here. */
  readonly trained: number;
  readonly context: number;
}

/**
 * Writes the model's tape and answers whether it fits; reads adapters but no weights, and allocates nothing.
 * Throws OUT_OF_BUDGET with what is needed and what there is, and what `buildTape` and `readAdapter` throw.
 */
export async function planModel(
  source: Checkpoint,
  backend: Pick<Backend, "plan">,
  { sequences, cache, memoryBytes, context: asked, adapters: paths = {} }: PlanParameters,
): Promise<ModelPlan> {
  const trained = (await resolveArchitecture(source).configure(source, {})).contextLength;
  const wanted = asked ?? Math.min(trained, DEFAULT_CONTEXT);
  const { config, tape: plain } = await buildTape(source, { context: wanted });
  const changes: LowRanks[] = [];
  for (const path of Object.values(paths)) changes.push(await readAdapter(path, source));
  const { tape, checkpoint } = adaptTape(plain, source, changes);
  const adapters = Object.keys(paths).map((name, i) => ({ name, fingerprint: identifyAdapter(changes[i]!) }));
  const limits = stepLimits(sequences, wanted, tape.logits.width);
  const { maxTokens } = limits;
  const heads = await readHeads(source, plain);
  const planWith = (spec: PolicySpec, contextIsFixed: boolean) => {
    const policy = resolvePolicy(spec, heads);
    const layout = planLayout({ kv: tape.kv, policy, codec: cache.codec, step: maxTokens });
    const endless = Number.isFinite(pagesFor(layout, Number.POSITIVE_INFINITY));
    const { weightBytes, scratchBytes } = backend.plan(tape, requestLimits(limits, layout));
    const fit = fitMemory({
      layout,
      weightBytes,
      scratchBytes,
      context: endless ? Number.POSITIVE_INFINITY : wanted,
      contextIsFixed: endless || contextIsFixed,
      sequences,
      budgetBytes: memoryBytes ?? null,
      machineBytes: machineMemory(),
    });
    return { layout, weightBytes, fit, endless, context: endless ? wanted : fit.context };
  };
  const fits = (spec: PolicySpec) => {
    try {
      return planWith(spec, true) !== null;
    } catch (error) {
      if (error instanceof MillraceError && error.code === "OUT_OF_BUDGET") return false;
      throw error;
    }
  };
  const chosen: CacheSpec =
    cache.policy.policy === "auto"
      ? {
          ...cache,
          ...chooseAuto({ endless: false, context: wanted, hasHeads: heads.scores !== null, fits }),
        }
      : cache;
  const plan = planWith(chosen.policy, asked !== undefined);
  return { config, tape, checkpoint, adapters, limits, heads, cache: chosen, trained, ...plan };
}

/** Loads `checkpoint` on a backend, which the model then owns; it is disposed of where loading fails. */
export async function assemble(
  checkpoint: Checkpoint,
  { backend, reason }: ResolvedBackend,
  parameters: PlanParameters,
  onProgress: (progress: OpenProgress) => void = () => {},
  sessions: SessionsListener = UNHEARD,
  wire?: LeaseWire,
): Promise<LoadedModel> {
  const undo: (() => unknown)[] = [() => backend.dispose()];
  const dispose = async () => {
    const errors: unknown[] = [];
    for (const free of undo.splice(0).reverse()) {
      try {
        await free();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  };
  try {
    if (parameters.cache.policy.policy === "razor") await needHeadScores(checkpoint, backend);
    const plan = await planModel(checkpoint, backend, parameters);
    const { config, tape, limits, layout, fit } = plan;
    const resolved = usableTokenizer(checkpoint);
    const tokenizer = resolved instanceof MillraceError ? null : resolved;

    const { memoryBytes, sharedBytes } = parameters;
    const fixedBytes = (memoryBytes ?? 0) - fit.cacheBytes;
    const mostBytes =
      sharedBytes === undefined ? fit.cacheBytes : Math.min(fit.mostBytes, sharedBytes - fixedBytes);
    const pool = new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes: mostBytes });
    undo.push(() => pool.dispose());
    // What cannot be given back again must not be borrowed.
    const terms = {
      fixedBytes,
      leastBytes: fit.leastBytes,
      mostBytes: pool.canDiscard ? mostBytes : fit.cacheBytes,
    };
    const lease = sharedBytes !== undefined && wire ? await PoolLease.join(pool, wire, terms) : null;
    const prefix = parameters.prefixCache ? PrefixTree.over(pool, layout) : null;
    const weights = await backend.load(tape, plan.checkpoint, (progress) => {
      onProgress({ phase: "load", ...progress });
    });
    undo.push(() => weights.dispose());
    const program = await backend.compile(tape, weights, requestLimits(limits, layout));
    undo.push(() => program.dispose());

    const vocabularySize = tape.logits.width;
    const { numLayers, embeddingWidth, architecture } = config;
    const identity = await identify(checkpoint);
    if (prefix && typeof parameters.prefixCache === "object") {
      const store = parameters.prefixCache;
      const setting = `${backend.name}, context ${plan.context}`;
      const source = {
        tree: prefix,
        pool,
        layout,
        identity,
        adapters: plan.adapters,
        vocabularySize,
        setting,
      };
      const { diskBytes } = store;
      if (diskBytes !== undefined) undo.push(await openPrefixDisk({ ...store, diskBytes }, source));
      await loadPrefixes(store, source);
      undo.push(() => savePrefixes(store, source));
    }
    const { maxStallMs } = parameters;
    const engine = new Engine({
      program,
      pool,
      layout,
      ...(prefix && { prefix }),
      ...(lease && { lease }),
      ...composeScheduler(maxStallMs === undefined ? {} : { maxStallMs }),
      limits,
      vocabularySize,
    });
    const language = new Language(resolved, vocabularySize);
    const budget = parameters.memoryBytes;
    const used = plan.weightBytes + fit.cacheBytes + fit.scratchBytes;
    const live = new Sessions(
      {
        engine,
        backend,
        tape,
        limits,
        cache: plan.cache,
        identity,
        adapters: plan.adapters,
        heads: plan.heads,
        context: plan.context,
        spareBytes: budget === undefined ? null : budget - used,
        questions: {
          compile: (asked) => backend.compile(tape, weights, asked),
          scratchBytes: (asked) => backend.plan(tape, asked).scratchBytes,
        },
      },
      sessions,
    );
    return new LoadedModel({
      engine,
      language,
      sessions: live,
      asking: new Asking({ sessions: live, engine, language, context: plan.context }),
      maxTokens: fit.context,
      dispose,
      info: {
        path: checkpoint.path,
        format: checkpoint.format,
        architecture,
        numLayers,
        embeddingWidth,
        pooling: config.pooling ?? "last",
        vocabularySize,
        trainedContext: plan.trained,
        context: plan.context,
        sequences: parameters.sequences,
        tokenizer: {
          kind: tokenizer ? checkpoint.tokenizer.kind : "none",
          bosId: tokenizer?.bosId ?? null,
          eosIds: [...(tokenizer?.eosIds ?? [])],
          chatFormat: tokenizer && chatFormat(tokenizer).kind,
          toolFormat: tokenizer && toolFormatOf(chatFormat(tokenizer).template),
        },
        backend: {
          name: backend.name,
          description: backend.description,
          threads: backend.numThreads,
          reason,
        },
        cache: plan.cache,
        prefixCache: prefix !== null,
        adapters: plan.adapters.map(({ name }) => name),
        memory: {
          weightBytes: plan.weightBytes,
          cacheBytes: fit.cacheBytes,
          scratchBytes: fit.scratchBytes,
          budgetBytes: parameters.memoryBytes ?? null,
        },
        fileBytes: checkpoint.fileBytes,
      },
    });
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** For who asks a model without sessions. */
const UNHEARD: SessionsListener = { wake: () => {}, report: () => {}, change: () => {} };

/** The checkpoint's tokenizer, or what to throw when text is asked for: without one, token ids can still be used. */
function usableTokenizer(checkpoint: Checkpoint): Tokenizer | MillraceError {
  try {
    const tokenizer = resolveTokenizer(checkpoint.tokenizer);
    if (tokenizer) return tokenizer;
    const { path } = checkpoint;
    const message = `${path} has no tokenizer, so it takes no text; give token ids.`;
    return new MillraceError("UNSUPPORTED_TOKENIZER", message, { path });
  } catch (error) {
    if (error instanceof MillraceError && error.code === "UNSUPPORTED_TOKENIZER") return error;
    throw error;
  }
}

function stepLimits(sequences: number, context: number, vocabularySize: number): Limits {
  const maxTokens = Math.max(sequences + 1, Math.min(STEP_TOKENS, context));
  const rows = Math.floor(LOGITS_BYTES / (4 * vocabularySize));
  return {
    maxTokens,
    maxTokensBesideDecode: maxTokens,
    maxOutputs: Math.min(maxTokens, Math.max(sequences, rows)),
    maxSequences: sequences,
  };
}

/** Of the program that requests run in; states are what embeddings are made of. */
const requestLimits = ({ maxTokens, maxOutputs }: Limits, kv: CacheLayout): ProgramLimits => ({
  maxTokens,
  maxOutputs,
  maxStates: maxTokens,
  kv,
});

/** Memory of the machine, or of the container where that has less. */
function machineMemory(): number {
  const constrained = process.constrainedMemory() ?? 0;
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}
