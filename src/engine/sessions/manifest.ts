/** What a session file says of its session besides keys and values. */
import { createRequire } from "node:module";
import type * as zod from "zod";
import { CODEC_NAMES } from "../../cache/codecs/contract.js";
import type { PolicySpec } from "../../cache/policies/resolve.js";
import type { PlainState } from "../../decoding/plain.js";
import { MillraceError } from "../../errors.js";
import type { AdapterIdentity, ModelIdentity } from "../identity.js";
import type { Before } from "../language.js";
import { type CacheSpec, cacheSpec } from "../policies.js";
import type { AnswerParameters } from "../protocol.js";
import { damaged } from "./file.js";
import type { SavedTier } from "./recall.js";
import { MOST_TOKENS, REMEMBERED } from "./transcript.js";

/** An answer that was under way when its session was saved. */
export interface UnfinishedAnswer {
  readonly parameters: AnswerParameters & { readonly maxTokens: number };
  readonly promptTokens: number;
  readonly decoder: PlainState;
}

export interface SessionManifest {
  readonly identity: ModelIdentity;
  /** That its tokens ran with; null: none. */
  readonly adapter: AdapterIdentity | null;
  readonly cache: CacheSpec;
  readonly memoryBytes: number;
  /** SequenceCache's own header. */
  readonly header: string;
  readonly before: Before;
  /** Tokens in the body, before the cache: those remembered by id, and those that wait. */
  readonly recent: number;
  readonly waiting: number;
  /** Where what was appended last begins; older files do not say. */
  readonly lastAppend?: number | undefined;
  /** Tokens at the end that were sampled, nothing being appended since; older files do not say. */
  readonly said?: number | undefined;
  readonly unfinished: UnfinishedAnswer | null;
  readonly recall: SavedTier | null;
}

const BEFORE: readonly [Before, ...Before[]] = ["nothing", "text", "turn", "answer"];

function makeSchema() {
  // Loaded at the first restore: see cache/snapshot.ts.
  const { z } = createRequire(import.meta.url)("zod") as typeof zod;
  const count = z.int().min(0);
  const number = z.number().or(z.literal([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]));
  const scored = z.strictObject({ id: count, logprob: number });
  const state = z.strictObject({
    sampler: z.strictObject({ seed: count, random: z.tuple([count, count, count, count]) }),
    generated: count,
    context: z.array(count),
    held: z.array(z.strictObject({ id: count, logprob: number.optional(), top: z.array(scored).optional() })),
    detokenizer: z
      .strictObject({ atStart: z.boolean(), tail: z.array(z.int().min(0).max(255)).max(3) })
      .nullable(),
    stop: z.string(),
    lengths: z.array(count),
    accepted: z.array(count).optional(),
  });
  const schema = z.boolean().or(z.record(z.string(), z.unknown()));
  const format = z.discriminatedUnion("type", [
    z.strictObject({ type: z.literal("json") }),
    z.strictObject({ type: z.literal("json-schema"), schema, strict: z.boolean().optional() }),
    z.strictObject({ type: z.literal("grammar"), ebnf: z.string() }),
    z.strictObject({ type: z.literal("regex"), pattern: z.string() }),
    z.strictObject({ type: z.literal("structure"), tag: z.string() }),
  ]);
  const parameters = z.strictObject({
    sampling: z.record(z.string(), z.unknown()),
    maxTokens: number,
    stop: z.array(z.string().min(1)),
    ignoreEos: z.boolean(),
    format: format.optional(),
  });
  const recallSpec = z.strictObject({
    diskBytes: count,
    dir: z.string().nullable(),
    summaryBytes: count,
    tokens: count,
    by: z.enum(["keys", "tokens", "both"]),
    vectors: count.min(1),
    following: count,
    block: count.multipleOf(16).min(16),
    auto: z.boolean(),
  });
  const pairs = z.array(z.tuple([count, count]));
  const recallState = z.strictObject({
    blocks: z.array(pairs),
    recalled: z.array(z.array(count)),
    ids: pairs,
    // Older files have none.
    asked: z.strictObject({ texts: count, rows: pairs }).nullable().default(null),
  });
  return z.strictObject({
    identity: z.strictObject({ model: z.string(), tokenizer: z.string() }),
    // Version 1 knew none.
    adapter: z.strictObject({ name: z.string(), fingerprint: z.string() }).nullable().default(null),
    cache: z.strictObject({
      policy: z.looseObject({ policy: z.string() }),
      codec: z.enum(CODEC_NAMES),
      why: z.string().optional(),
    }),
    memoryBytes: count,
    header: z.string(),
    before: z.enum(BEFORE),
    recent: count.max(REMEMBERED),
    waiting: count.max(MOST_TOKENS),
    lastAppend: count.max(MOST_TOKENS).optional(),
    said: count.max(MOST_TOKENS).optional(),
    unfinished: z.strictObject({ parameters, promptTokens: count, decoder: state }).nullable(),
    recall: z
      .strictObject({ spec: recallSpec, folder: z.string().regex(/^[^/\\]+$/), state: recallState })
      .nullable(),
  });
}

let schema: ReturnType<typeof makeSchema> | null = null;

export function writeManifest(manifest: SessionManifest): string {
  const { policy, codec, why } = manifest.cache;
  // One session makes one file, in whatever order its parts were noted.
  return JSON.stringify({ ...manifest, cache: { policy, codec, why } }, (_, value) =>
    typeof value === "number" && !Number.isFinite(value) ? { number: String(value) } : value,
  );
}

/** Throws BAD_FORMAT for anything that `writeManifest` cannot have written. */
export function readManifest(path: string, text: string): SessionManifest {
  let json: unknown;
  try {
    json = JSON.parse(text, (_, value) => (isNumber(value) ? Number(value.number) : value));
  } catch (cause) {
    throw damaged(path, "its manifest is not JSON", { cause });
  }
  schema ??= makeSchema();
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw damaged(path, `its manifest's ${issue?.path.join(".") || "form"} is wrong (${issue?.message})`);
  }
  const { cache, unfinished, ...rest } = parsed.data;
  try {
    return {
      ...rest,
      cache: {
        ...cacheSpec({ policy: cache.policy as unknown as PolicySpec, codec: cache.codec }),
        ...(cache.why === undefined ? {} : { why: cache.why }),
      },
      unfinished: unfinished as UnfinishedAnswer | null,
    };
  } catch (cause) {
    throw damaged(path, `its cache policy is none (${MillraceError.from(cause).message})`, { cause });
  }
}

/** How JSON writes a number that it has no word for. */
function isNumber(value: unknown): value is { readonly number: string } {
  if (typeof value !== "object" || value === null || Object.keys(value).length !== 1) return false;
  return "number" in value && typeof value.number === "string";
}
