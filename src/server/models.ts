/** The models that a server answers with. */
import type { EngineUsage, Model, ModelInfo } from "../index.js";
import { ApiError } from "./errors.js";
import { type EngineHealth, Keeper, type KeeperListener, type Reopen } from "./keeper.js";
import { Vocabulary } from "./vocabulary.js";
import type { Work } from "./work.js";

/** The name that always means the first model. */
export const DEFAULT_NAME = "default";

/** A model to be served. */
export interface ModelToServe {
  /** That clients ask for it by. */
  readonly name: string;
  readonly model: Model;
  /** Opens it again after a crash. Absent: it then stays away. */
  readonly reopen?: Reopen;
}

/** A model under the name that clients ask for it by. */
export class ServedModel {
  readonly name: string;
  readonly info: ModelInfo;
  readonly vocabulary: Vocabulary;
  /** Seconds since 1970 when it was loaded. */
  readonly created = Math.floor(Date.now() / 1000);
  readonly #keeper: Keeper;

  constructor({ name, model, reopen }: ModelToServe, listener: KeeperListener, patienceMs: number) {
    this.name = name;
    this.info = model.info;
    this.#keeper = new Keeper(model, reopen ?? null, listener, patienceMs);
    this.vocabulary = new Vocabulary({ tokenBytes: async (token) => this.model.tokenBytes(token) });
  }

  /** Throws 503 while its engine is not there; see `ServedModels.ready`. */
  get model(): Model {
    return this.#keeper.model;
  }

  get health(): EngineHealth {
    return this.#keeper.health;
  }

  /** What the engine holds; null while it is not there. */
  usage(): Promise<EngineUsage | null> {
    return this.#keeper.usage();
  }

  /** See `Keeper.ready`. */
  ready(signal: AbortSignal): Promise<void> {
    return this.#keeper.ready(signal);
  }

  /** See `Keeper.close`. */
  close(): Promise<void> {
    return this.#keeper.close();
  }
}

/** What becomes of the models' engines. */
export type EngineListener = (served: ServedModel) => KeeperListener;

export class ServedModels implements Iterable<ServedModel> {
  readonly list: readonly ServedModel[];

  /** At least one, each under a name of its own. `patienceMs`: how long `ready` waits for an engine that has crashed. */
  constructor(models: readonly ModelToServe[], listener: EngineListener, patienceMs: number) {
    this.list = models.map((model) => {
      const served: ServedModel = new ServedModel(
        model,
        {
          failed: (...what) => listener(served).failed(...what),
          reopened: (ms) => listener(served).reopened(ms),
        },
        patienceMs,
      );
      return served;
    });
  }

  /** As `get`, when it can be asked. Rejects with 503 where its engine has crashed and is not back soon. */
  async ready(name: string, work: Pick<Work, "signal" | "reason">): Promise<ServedModel> {
    const served = this.get(name);
    await served.ready(work.signal).catch((error: unknown) => {
      throw work.reason ?? error;
    });
    return served;
  }

  /** Opens none again, and closes those that were. Those that the server was given stay the caller's. */
  async close(): Promise<void> {
    await Promise.all(this.list.map((served) => served.close()));
  }

  [Symbol.iterator](): Iterator<ServedModel> {
    return this.list[Symbol.iterator]();
  }

  /** Throws 404 for a name that is none. */
  get(name: string): ServedModel {
    const served = name === DEFAULT_NAME ? this.list[0] : this.list.find((one) => one.name === name);
    if (served) return served;
    const names = [DEFAULT_NAME, ...this.list.map((one) => one.name)].map((one) => `'${one}'`).join(", ");
    const asked = name.length > 100 ? `${name.slice(0, 100)}…` : name;
    throw new ApiError(
      404,
      "model_not_found",
      `The model '${asked}' is not served here; there are ${names}.`,
      {
        param: "model",
      },
    );
  }
}

/** The name that a model of this source goes by: "hf:owner/repo/file.gguf" is "repo", "a/b.gguf" is "b". */
export function nameOfSource(source: string): string {
  const [, hub] = /^hf:[^/]+\/([^/]+)/.exec(source) ?? [];
  if (hub !== undefined) return hub;
  const [, boxed] = /^boxed:(.+)$/.exec(source) ?? [];
  if (boxed !== undefined) return boxed;
  const last =
    source
      .replace(/[/\\]+$/, "")
      .split(/[/\\]/)
      .at(-1) ?? source;
  return last.replace(/\.(gguf|safetensors)$/i, "") || source;
}
