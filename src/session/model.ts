/** Models with sessions: the public face of both. */
import { resolve } from "node:path";
import { CODEC_NAMES } from "../cache/codecs/contract.js";
import type { PolicySpec } from "../cache/policies/resolve.js";
import { parseBytes } from "../engine/bytes.js";
import { Model as EngineModel } from "../engine/model.js";
import { type MakeModel, type OpenOptions, openAs } from "../engine/open.js";
import { invalid, oneOf, refuseUnknown } from "../engine/options.js";
import { type CacheSpec, cacheSpec } from "../engine/policies.js";
import type { ModelInfo, SessionParameters } from "../engine/protocol.js";
import { namedAdapter } from "../engine/questions.js";
import { type RecallOptions, recallSpec } from "./recall.js";
import { Session } from "./session.js";

/** What `Model.session` may be told. */
export interface SessionOptions {
  /**
   * Hard limit on the session's pages, page tables and attention mass: bytes, or "32 MiB". Forks share it. Default: what
   * the policy needs; for one that keeps everything, what the model's context needs.
   */
  readonly memory?: number | string;
  /**
   * Which keys and values are kept, and how they are written: a policy such as `sinks({ window })`, or policy and codec.
   * Default: attention sinks beside the longest window that the model was trained for and `memory` holds, in the model's
   * own codec.
   */
  readonly cache?: PolicySpec | Partial<CacheSpec>;
  /** Puts what the policy drops on disk instead, and brings back what a question is about. Default: it is gone. */
  readonly recall?: RecallOptions;
  /** One of the adapters that the model was opened with, for all of the session; default: none. */
  readonly adapter?: string;
}

/** What `Model.restore` may be told. */
export interface RestoreOptions {
  /** As for a new session. Default: what the saved session had. */
  readonly memory?: number | string;
}

/** A loaded model. All its methods may be called at once, any number of times; requests and sessions share the engine's steps. */
export class Model extends EngineModel {
  /**
   * Opens a session: one sequence that lives on between calls, for streams without end. It can be used at once; `opened`
   * tells what it was opened with.
   *
   * Throws INVALID_ARGUMENT for wrong or unknown options at once. The session's calls reject with OUT_OF_BUDGET where its
   * memory does not hold what its policy needs, or the model's budget or the machine not its memory.
   */
  session(options: SessionOptions = {}): Session {
    return new Session(
      this.connection,
      this.info,
      this.connection.call("openSession", parameters(options, this.info)),
    );
  }

  /**
   * The session that was saved in a file; it goes on exactly as that would have, on the same backend. All of the file is
   * checked before any of it is used.
   *
   * Throws FILE_NOT_FOUND, BAD_FORMAT for a file that is damaged or no session, UNSUPPORTED_FORMAT for one of another
   * version, WRONG_MODEL for one of another model or tokenizer, or of an adapter that the model was opened without,
   * OUT_OF_BUDGET as `session`, INVALID_ARGUMENT.
   */
  async restore(path: string, options: RestoreOptions = {}): Promise<Session> {
    refuseUnknown("restore", options, ["memory"]);
    if (typeof path !== "string" || path === "" || path.includes("\0")) {
      throw invalid("path", path, "the path of a file");
    }
    const memoryBytes = options.memory === undefined ? null : parseBytes(options.memory);
    const opening = this.connection.call("restore", { path: resolve(path), memoryBytes });
    const session = new Session(this.connection, this.info, opening);
    await session.opened;
    return session;
  }
}

/** For `openOn`. */
export const makeModel: MakeModel<Model> = (connection, info) => new Model(connection, info);

/**
 * Opens a model: a GGUF file, a folder (or `model.safetensors`, or an index) of safetensors, or "hf:owner/repo/file".
 * Where none is named, the one that comes in the box, which needs no download.
 *
 * Throws INVALID_ARGUMENT for unknown or wrong options; FILE_NOT_FOUND, BAD_FORMAT, UNSUPPORTED_* and MISSING_* for
 * the file; OUT_OF_BUDGET, with what is needed and what there is, before anything is allocated; BACKEND_UNAVAILABLE,
 * SELF_CHECK_FAILED; DOWNLOAD_FAILED; ABORTED; WORKER_CRASHED.
 *
 * The model holds memory until it is closed: use `await using`, or call `close`. While nothing is awaited it does not
 * keep the process alive.
 */
export function open(source: string, options?: OpenOptions): Promise<Model>;
export function open(options?: OpenOptions): Promise<Model>;
export function open(named?: string | OpenOptions, given?: OpenOptions): Promise<Model> {
  return openAs(makeModel, named, given);
}

function parameters(options: SessionOptions, info: ModelInfo): SessionParameters {
  refuseUnknown("session", options, ["memory", "cache", "recall", "adapter"]);
  const { memory, cache = {}, recall } = options;
  const memoryBytes = memory === undefined ? null : parseBytes(memory);
  return {
    memoryBytes,
    cache: cacheOf(cache),
    recall: recall === undefined ? null : recallSpec(recall, memoryBytes),
    adapter: namedAdapter(options.adapter, info).adapter ?? null,
  };
}

/** A policy alone, or policy and codec. Throws INVALID_ARGUMENT. */
function cacheOf(cache: PolicySpec | Partial<CacheSpec>): SessionParameters["cache"] {
  const isPolicy = typeof cache === "object" && cache !== null && typeof cache.policy === "string";
  const given = isPolicy ? { policy: cache as PolicySpec } : (cache as Partial<CacheSpec>);
  refuseUnknown("cache", given, ["policy", "codec"]);
  return {
    policy: given.policy === undefined ? null : cacheSpec({ policy: given.policy }).policy,
    codec: oneOf("cache.codec", given.codec, CODEC_NAMES) ?? null,
  };
}
