/** GET / : the page, as scripts/build.js left it in dist/web. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { ServerEnv } from "../context.js";

const TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  svg: "image/svg+xml",
};

/** The page asks its own server and nobody else, and nobody else may frame it. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
  "base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

interface PageFile {
  readonly body: Uint8Array<ArrayBuffer>;
  readonly type: string;
}

/** What the page is made of, by path; read once, so that no path of a request ever reaches the disk. */
function readPage(folder: string): ReadonlyMap<string, PageFile> {
  const files = new Map<string, PageFile>();
  try {
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
      const type = TYPES[entry.name.split(".").at(-1) ?? ""];
      if (!entry.isFile() || type === undefined) continue;
      const path = join(entry.parentPath, entry.name);
      const name = path.slice(folder.length).replaceAll("\\", "/").replace(/^\/*/, "/");
      files.set(name === "/index.html" ? "/" : name, { body: new Uint8Array(readFileSync(path)), type });
    }
  } catch (error) {
    // Without a build the server serves its API alone.
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  return files;
}

/** Before all that asks for a key: the page itself holds no secret, and asks for the key. */
export function addPage(app: OpenAPIHono<ServerEnv>, folder = WEB): void {
  for (const [path, { body, type }] of readPage(folder)) {
    const lasts = path.startsWith("/assets/");
    app.get(path, (c) =>
      c.body(body, 200, {
        "Content-Type": type,
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        // Names of assets hold a hash of their content.
        "Cache-Control": lasts ? "public, max-age=31536000, immutable" : "no-cache",
      }),
    );
  }
}

const WEB = fileURLToPath(new URL("../../../dist/web", import.meta.url));
