/** /v1/files */
import { z } from "@hono/zod-openapi";

const HOUR = 3600;
const MONTH = 30 * 24 * HOUR;

/** How long a file is kept. */
export const expiresAfter = z.strictObject({
  anchor: z.literal("created_at"),
  seconds: z.coerce.number().int().min(HOUR).max(MONTH),
});

/** The fields of an upload beside the file; as text, since a form has nothing else. */
export const fileFields = z.strictObject({
  purpose: z.literal("batch", { error: 'expected "batch": files are kept for batches only' }),
  expires_after: expiresAfter.optional(),
});

/** What an upload looks like to those who read the document. */
export const fileForm = z.object({
  file: z.string().openapi({ format: "binary", description: "JSON Lines: a request each." }),
  purpose: z.literal("batch"),
  "expires_after[anchor]": z.literal("created_at").optional(),
  "expires_after[seconds]": z.int().min(HOUR).max(MONTH).optional(),
});

export const fileObject = z
  .object({
    id: z.string(),
    object: z.literal("file"),
    bytes: z.int(),
    created_at: z.int(),
    expires_at: z.int(),
    filename: z.string(),
    purpose: z.enum(["batch", "batch_output"]),
    status: z.literal("processed"),
  })
  .openapi("File");

/** The bytes of a file. */
export const fileBytes = z.string().openapi({ format: "binary" });

/** Ids are the server's own, so that no path can be made of one. */
export const fileId = z.object({ id: z.string().openapi({ example: "file-0123456789abcdef01234567" }) });

/** A page of a list, which goes on after `after`. */
export const pageQuery = (most: number, usual: number) => ({
  after: z.string().optional().openapi({ description: "The id of the last one of the page before." }),
  limit: z.coerce.number().int().min(1).max(most).default(usual),
});

export const filesQuery = z.strictObject({
  ...pageQuery(10_000, 10_000),
  order: z.enum(["asc", "desc"]).default("desc"),
  purpose: z.enum(["batch", "batch_output"]).optional(),
});

/** A page of things that have ids. */
export const pageOf = <S extends z.ZodType>(schema: S) =>
  z.object({
    object: z.literal("list"),
    data: z.array(schema),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
    has_more: z.boolean(),
  });

export const fileList = pageOf(fileObject);
export const fileDeleted = z.object({ id: z.string(), object: z.literal("file"), deleted: z.literal(true) });
