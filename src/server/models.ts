/** The models that a server answers with. */
import type { Model, ModelInfo } from "../index.js";
import { ApiError } from "./errors.js";
import { Vocabulary } from "./vocabulary.js";

/** The name that always means the first model. */
export const DEFAULT_NAME = "default";

/** A model under the name that clients ask for it by. */
export interface ServedModel {
  readonly name: string;
  readonly model: Model;
  readonly info: ModelInfo;
  readonly vocabulary: Vocabulary;
  /** Seconds since 1970 when it was loaded. */
  readonly created: number;
}

export class ServedModels implements Iterable<ServedModel> {
  readonly list: readonly ServedModel[];

  /** At least one, each under a name of its own. */
  constructor(models: readonly { readonly name: string; readonly model: Model }[]) {
    const created = Math.floor(Date.now() / 1000);
    this.list = models.map(({ name, model }) => ({
      name,
      model,
      info: model.info,
      vocabulary: new Vocabulary(model),
      created,
    }));
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
