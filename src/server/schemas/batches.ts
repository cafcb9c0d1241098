/** /v1/batches */
import { z } from "@hono/zod-openapi";
import { BATCH_URLS } from "../batch-urls.js";
import { expiresAfter, pageOf, pageQuery } from "./files.js";

const metadata = z
  .record(z.string().min(1).max(64), z.string().max(512))
  .refine((pairs) => Object.keys(pairs).length <= 16, { error: "expected at most 16 pairs" });

export const newBatch = z
  .strictObject({
    input_file_id: z.string().openapi({ description: "Of a file with the purpose `batch`." }),
    endpoint: z.enum(BATCH_URLS).openapi({ description: "That every line of the file names." }),
    completion_window: z
      .string()
      .regex(/^([1-9]\d?|[1-6]\d\d|7[01]\d|720)h$/, { error: "expected hours, from 1h to 720h, such as 24h" })
      .openapi({
        description: "What is not answered by then never is. OpenAI's clients know `24h`.",
        example: "24h",
      }),
    metadata: metadata.nullish(),
    output_expires_after: expiresAfter.nullish(),
  })
  .openapi("NewBatch");

export type NewBatch = z.infer<typeof newBatch>;

const time = z.int().nullable();

const batchError = z.object({
  code: z.string(),
  message: z.string(),
  line: z.int().nullable(),
  param: z.string().nullable(),
});

export type BatchError = z.infer<typeof batchError>;

export const batch = z
  .object({
    id: z.string(),
    object: z.literal("batch"),
    endpoint: z.string(),
    model: z.string().optional().openapi({ description: "Where all lines name one." }),
    errors: z.object({ object: z.literal("list"), data: z.array(batchError) }).nullable(),
    input_file_id: z.string(),
    completion_window: z.string(),
    status: z.enum([
      "validating",
      "failed",
      "in_progress",
      "finalizing",
      "completed",
      "expired",
      "cancelling",
      "cancelled",
    ]),
    output_file_id: z.string().nullable(),
    error_file_id: z.string().nullable(),
    created_at: z.int(),
    in_progress_at: time,
    expires_at: z.int(),
    finalizing_at: time,
    completed_at: time,
    failed_at: time,
    expired_at: time,
    cancelling_at: time,
    cancelled_at: time,
    request_counts: z.object({ total: z.int(), completed: z.int(), failed: z.int() }),
    usage: z
      .object({
        input_tokens: z.int(),
        input_tokens_details: z.object({ cached_tokens: z.int() }),
        output_tokens: z.int(),
        output_tokens_details: z.object({ reasoning_tokens: z.int() }),
        total_tokens: z.int(),
      })
      .nullable(),
    metadata: metadata.nullable(),
  })
  .openapi("Batch");

export type Batch = z.infer<typeof batch>;

export const batchId = z.object({ id: z.string().openapi({ example: "batch_0123456789abcdef01234567" }) });
export const batchesQuery = z.strictObject(pageQuery(100, 20));
export const batchList = pageOf(batch);
