/** The caller's end of `Model.embed`: what may be asked, checked, and what comes of it. */
import type { CacheReport } from "../cache/sequence.js";
import { MillraceError } from "../errors.js";
import type { Pooling } from "../models/contract.js";
import type { Connection } from "./connection.js";
import { invalid, oneOf, refuseUnknown, wholeNumber } from "./options.js";
import type { EmbedParameters, ModelInfo } from "./protocol.js";
import { checkedTokens, checkSignal, namedAdapter } from "./questions.js";
import { STANDING_OPTIONS, type StandingOptions, standing } from "./standing.js";

/** One text to embed: text (BOS and EOS added as the file asks), or token ids (run as they are). */
export type EmbeddingInput = string | readonly number[] | Int32Array;

/** What `Model.embed` may be told. */
export interface EmbedOptions extends StandingOptions {
  /** How one vector is made of the states of a text's tokens. Default: `ModelInfo.pooling`. */
  readonly pooling?: Pooling;
  /** Scale each vector to length 1, so that dot products are cosines. Default true. */
  readonly normalize?: boolean;
  /**
   * Elements of each vector: the first so many of the pooled state, which models trained for it (Matryoshka, arXiv
   * 2205.13147) keep the most in. Default: all, `ModelInfo.embeddingWidth`.
   */
  readonly dimensions?: number;
  /** One of the adapters that the model was opened with; default: none. */
  readonly adapter?: string;
  /** Ends the embedding with ABORTED. */
  readonly signal?: AbortSignal;
}

/** What became of one text. */
export interface Embedding {
  /** [dimensions] */
  readonly vector: Float32Array;
  /** Tokens of the text, special ones included. */
  readonly numTokens: number;
  /** What the cache did with them while they ran; nothing of it is held any more. */
  readonly cache: CacheReport;
}

const EMBED_OPTIONS: readonly (keyof EmbedOptions)[] = [
  "pooling",
  "normalize",
  "dimensions",
  "adapter",
  "signal",
  ...STANDING_OPTIONS,
];
const POOLINGS: readonly Pooling[] = ["mean", "last", "cls"];

/** A list of texts, and not the ids of one. */
export const isList = (
  input: EmbeddingInput | readonly EmbeddingInput[],
): input is readonly EmbeddingInput[] => Array.isArray(input) && typeof input[0] !== "number";

/** One embedding per input, in their order. Throws as `Model.embed`. */
export async function embed(
  connection: Connection,
  info: ModelInfo,
  inputs: readonly EmbeddingInput[],
  options: EmbedOptions,
): Promise<Embedding[]> {
  const { signal } = options;
  const parameters = checked(inputs, options, info);
  if (signal?.aborted) throw new MillraceError("ABORTED", "The caller's signal ended the embedding.");
  const { id, result } = connection.call("embed", parameters, {}, inputs.length);
  const cancel = () => connection.tell({ type: "cancel", id });
  signal?.addEventListener("abort", cancel);
  try {
    const { vectors, numTokens, caches } = await connection.hold(result);
    const { dimensions } = parameters;
    return inputs.map((_, i) => ({
      vector: vectors.slice(i * dimensions, (i + 1) * dimensions),
      numTokens: numTokens[i]!,
      cache: caches[i]!,
    }));
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

function checked(inputs: readonly unknown[], options: EmbedOptions, info: ModelInfo): EmbedParameters {
  refuseUnknown("embed", options, EMBED_OPTIONS);
  const { pooling, normalize = true, dimensions, adapter, signal } = options;
  if (typeof normalize !== "boolean") throw invalid("normalize", normalize, "true or false");
  checkSignal(signal);
  if (inputs.length === 0) throw invalid("input", inputs, "a text, token ids, or a list of them, not empty");
  return {
    inputs: inputs.map((input) => {
      if (typeof input === "string") return input;
      if (Array.isArray(input) || input instanceof Int32Array)
        return checkedTokens(input, info.vocabularySize);
      throw invalid("input", input, "a text, token ids, or a list of them");
    }),
    pooling: oneOf("pooling", pooling, POOLINGS) ?? info.pooling,
    dimensions: wholeNumber("dimensions", dimensions, 1, info.embeddingWidth) ?? info.embeddingWidth,
    normalize,
    standing: standing(options)(),
    ...namedAdapter(adapter, info),
  };
}
