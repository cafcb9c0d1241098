/** /v1/files: what batches are read from, and their answers. */
import { type FileHandle, open } from "node:fs/promises";
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { BatchStore } from "../batches.js";
import type { ServerContext, ServerEnv, ServerRequest } from "../context.js";
import { ApiError, fromZod } from "../errors.js";
import type { KeptFile, Upload } from "../files.js";
import { tooLarge } from "../files.js";
import { type FormPart, fieldText, formParts } from "../multipart.js";
import { pageOfList } from "../pages.js";
import { answer, errors } from "../schemas/common.js";
import * as schemas from "../schemas/files.js";
import type { Work } from "../work.js";

const PATH = "/v1/files";
/** What a form may have around its file, in bytes. */
const FORM_BYTES = 256 * 1024;

const id = { params: schemas.fileId };

const list = createRoute({
  method: "get",
  path: PATH,
  summary: "The caller's files",
  request: { query: schemas.filesQuery },
  responses: { 200: answer(schemas.fileList, "A page of them."), ...errors },
});
const retrieve = createRoute({
  method: "get",
  path: `${PATH}/{id}`,
  summary: "What is known of a file",
  request: id,
  responses: { 200: answer(schemas.fileObject, "The file, without what is in it."), ...errors },
});
const remove = createRoute({
  method: "delete",
  path: `${PATH}/{id}`,
  summary: "Delete a file",
  request: id,
  responses: { 200: answer(schemas.fileDeleted, "It is gone."), ...errors },
});
const content = createRoute({
  method: "get",
  path: `${PATH}/{id}/content`,
  summary: "What is in a file",
  request: id,
  responses: {
    200: {
      description: "Its bytes.",
      content: { "application/octet-stream": { schema: schemas.fileBytes } },
    },
    ...errors,
  },
});

/** Whether a request brings a file, whose size has a limit of its own. */
export const isUpload = (c: ServerRequest): boolean => c.req.method === "POST" && c.req.path === PATH;

/** The store of files and batches. Throws 501 where there is none. */
export async function keptIn({ batches }: ServerContext): Promise<BatchStore> {
  if (batches === null) {
    throw new ApiError(
      501,
      "saving_off",
      "This server keeps no files and runs no batches: it was started without a folder for them (--batches).",
    );
  }
  await batches.start();
  return batches;
}

export function addFiles(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  const { fileBytes } = context.limits;

  app.openAPIRegistry.registerPath({
    method: "post",
    path: PATH,
    summary: "Upload a file of requests",
    request: { body: { required: true, content: { "multipart/form-data": { schema: schemas.fileForm } } } },
    responses: { 200: answer(schemas.fileObject, "The file."), ...errors },
  });
  // Not checked by the schema, which would read all of it into memory.
  app.post(PATH, async (c) => {
    const { files } = await keptIn(context);
    if (Number(c.req.header("content-length")) > fileBytes + FORM_BYTES) throw tooLarge(fileBytes);
    const owner = c.get("owner");
    const fields: Record<string, unknown> = {};
    let [upload, filename]: [Upload | null, string] = [null, ""];
    try {
      for await (const part of formParts(c.req.header("content-type"), c.req.raw.body)) {
        if (part.name !== "file") addField(fields, part.name, await fieldText(part));
        else {
          if (upload) throw refused("invalid_value", "There are two files; send one.", "file");
          upload = await files.receive(owner, part.body);
          filename = filenameOf(part);
        }
      }
      if (!upload) throw refused("missing_required_parameter", "Missing required parameter: 'file'.", "file");
      const parsed = schemas.fileFields.safeParse(fields);
      if (!parsed.success) throw fromZod(parsed.error, fields);
      const { purpose, expires_after } = parsed.data;
      const seconds = expires_after?.seconds ?? null;
      const kept = await files.keep(owner, upload, { filename, purpose, seconds });
      return c.json(fileBody(kept), 200);
    } catch (error) {
      if (upload) await files.discard(owner, upload);
      throw error;
    }
  });

  app.openapi(list, async (c) => {
    const { files } = await keptIn(context);
    const { order, purpose, ...page } = c.req.valid("query");
    const found = files
      .list(c.get("owner"))
      .filter((file) => purpose === undefined || file.purpose === purpose);
    return c.json(pageOfList((order === "desc" ? found.reverse() : found).map(fileBody), page), 200);
  });

  app.openapi(retrieve, async (c) => {
    const { files } = await keptIn(context);
    return c.json(fileBody(files.get(c.get("owner"), c.req.valid("param").id)), 200);
  });

  app.openapi(remove, async (c) => {
    const batches = await keptIn(context);
    const owner = c.get("owner");
    const file = batches.files.get(owner, c.req.valid("param").id);
    if (batches.isInUse(owner, file)) {
      throw new ApiError(409, "file_in_use", "A batch reads this file; cancel it, or wait for its end.", {
        param: "id",
      });
    }
    await batches.files.remove(owner, file);
    return c.json({ id: file.id, object: "file" as const, deleted: true as const }, 200);
  });

  app.openapi(content, async (c) => {
    const { files } = await keptIn(context);
    const owner = c.get("owner");
    const file = files.get(owner, c.req.valid("param").id);
    const handle = await open(files.pathOf(owner, file)).catch((cause: NodeJS.ErrnoException) => {
      throw cause.code === "ENOENT" ? lost(file, cause) : cause;
    });
    const body = fileStream(handle, file.bytes, c.get("work"));
    return c.body(body, 200, {
      // Whatever somebody has put into it: no page of this origin.
      "Content-Type": "application/octet-stream",
      "X-Content-Type-Options": "nosniff",
      "Content-Disposition": `attachment; filename*=UTF-8''${encodeURIComponent(file.filename)}`,
      "Content-Length": String(file.bytes),
    });
  });
}

/** "expires_after[seconds]" is a field of an object, as forms write it. */
function addField(fields: Record<string, unknown>, name: string, value: string): void {
  const [, outer, inner] = /^(\w+)\[(\w+)\]$/.exec(name) ?? [];
  const before = outer !== undefined && Object.hasOwn(fields, outer) ? fields[outer] : undefined;
  const isTwice = outer === undefined ? Object.hasOwn(fields, name) : Object.hasOwn(Object(before), inner!);
  if (isTwice) throw refused("invalid_value", `'${name}' is there twice; send it once.`, name);
  const [key, given] =
    outer === undefined ? [name, value] : [outer, { ...(before as object | undefined), [inner!]: value }];
  Object.defineProperty(fields, key, { value: given, enumerable: true, configurable: true, writable: true });
}

function filenameOf({ filename }: FormPart): string {
  return filename ?? "";
}

const refused = (code: string, message: string, param: string): ApiError =>
  new ApiError(400, code, message, { param });

/** Somebody else has deleted it from the folder. */
const lost = ({ filename }: KeptFile, cause: Error): ApiError =>
  new ApiError(404, "file_not_found", `What was in '${filename}' is no longer on the server's disk.`, {
    param: "id",
    cause,
  });

const fileBody = ({ id, bytes, created, expires, filename, purpose }: KeptFile) => ({
  id,
  object: "file" as const,
  bytes,
  created_at: created,
  expires_at: expires,
  filename,
  purpose,
  status: "processed" as const,
});

/** A file as the body of an answer: read as fast as it is taken, until `work` ends; closed then. */
function fileStream(handle: FileHandle, bytes: number, work: Work): ReadableStream<Uint8Array> {
  const file = handle.createReadStream({ signal: work.signal });
  const chunks = file[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  let left = bytes;
  work.stream();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await chunks.next();
          if (!done) controller.enqueue(value);
          left -= value?.length ?? 0;
          // Who has all of it may not ask again.
          if (!done && left > 0) return;
          // What has not been read to its very end does not close by itself.
          file.destroy();
          controller.close();
          work.end();
        } catch (error) {
          controller.error(error);
          work.end(work.reason);
        }
      },
      cancel() {
        file.destroy();
        work.end();
      },
    },
    { highWaterMark: 0 },
  );
}
