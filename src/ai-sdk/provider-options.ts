/** What callers may say under `providerOptions.millrace`. */
import * as z from "zod";
import { invalidArgument } from "./errors.js";
import { type CallOptions, PROVIDER } from "./specification.js";

const OPTIONS = z.strictObject({
  /** As in `SamplingOptions`. */
  minP: z.number().optional(),
  typicalP: z.number().optional(),
  repetitionPenalty: z.number().optional(),
  /** Tokens that the penalties look at. */
  penaltyWindow: z.number().optional(),
  /** Token id -> number added to its logit; "-Infinity", as text, bans the token. */
  logitBias: z
    .record(
      z.string(),
      z.union([z.number(), z.literal("-Infinity").transform(() => Number.NEGATIVE_INFINITY)]),
    )
    .optional(),
  /** Log-probabilities of the answer's tokens with this many alternatives each, in the metadata. */
  logprobs: z.number().optional(),
  /** Hold the answer to a form that the SDK has no words for. */
  format: z
    .union([
      z.strictObject({ type: z.literal("regex"), pattern: z.string() }),
      z.strictObject({ type: z.literal("grammar"), ebnf: z.string() }),
    ])
    .optional(),
  /** Whether an answer may call more than one tool. */
  parallelToolCalls: z.boolean().optional(),
  /** Go on past the model's end tokens. */
  ignoreEos: z.boolean().optional(),
  /** One of the adapters that the model was opened with. */
  adapter: z.string().optional(),
  /** Further variables for the chat template, such as `enable_thinking`. */
  variables: z.record(z.string(), z.json()).optional(),
});

/** `providerOptions.millrace`. Ranges are checked where `Model.generate` checks them. */
export type MillraceProviderOptions = z.input<typeof OPTIONS>;
export type ParsedOptions = z.output<typeof OPTIONS>;

const EMBEDDING_OPTIONS = z.strictObject({
  /** As in `EmbedOptions`. */
  pooling: z.enum(["mean", "last", "cls"]).optional(),
  normalize: z.boolean().optional(),
  dimensions: z.number().optional(),
  adapter: z.string().optional(),
  client: z.string().optional(),
  priority: z.number().optional(),
  deadline: z.union([z.number(), z.string()]).optional(),
});

/** `providerOptions.millrace` of an embedding. Ranges are checked where `Model.embed` checks them. */
export type MillraceEmbeddingOptions = z.input<typeof EMBEDDING_OPTIONS>;

/** Throws an InvalidArgumentError that names what is unknown or wrong. */
export const providerOptions = (call: Given): ParsedOptions => parsed(OPTIONS, call);

/** As `providerOptions`, of an embedding. */
export const embeddingOptions = (call: Given): z.output<typeof EMBEDDING_OPTIONS> =>
  parsed(EMBEDDING_OPTIONS, call);

type Given = Pick<CallOptions, "providerOptions">;

function parsed<S extends z.ZodObject>(schema: S, { providerOptions: given }: Given): z.output<S> {
  const read = schema.safeParse(given?.[PROVIDER] ?? {});
  if (read.success) return read.data;
  throw invalidArgument(
    `providerOptions.${PROVIDER}`,
    `providerOptions.${PROVIDER} is not accepted. ${z.prettifyError(read.error)}\n` +
      `Known are: ${Object.keys(schema.shape).join(", ")}.`,
    read.error,
  );
}
