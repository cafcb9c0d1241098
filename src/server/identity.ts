/** Names that answers carry. */
import { createHash, randomBytes } from "node:crypto";
import type { ServedModel } from "./models.js";

/** Owner of all that is kept where there are no keys. */
export const EVERYBODY = "everybody";

/** "chatcmpl-" and the like, and what cannot be guessed. */
export const newId = (prefix: string): string => `${prefix}${randomBytes(12).toString("hex")}`;

/** What is the same where the same seed gives the same answer. */
export function fingerprint({ name, info }: ServedModel): string {
  const { backend, cache, architecture, fileBytes } = info;
  const what = JSON.stringify([name, architecture, fileBytes, backend.name, cache]);
  return `fp_${createHash("sha256").update(what).digest("hex").slice(0, 10)}`;
}

export const now = (): number => Math.floor(Date.now() / 1000);
