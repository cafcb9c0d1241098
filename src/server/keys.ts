/** API keys: who may ask. */
import { createHash, timingSafeEqual } from "node:crypto";
import { ApiError } from "./errors.js";

/** The keys that are accepted, as digests: what is compared is of one length, and no key stays in memory. */
export class KeyRing {
  readonly #digests: readonly Buffer[];

  constructor(keys: readonly string[]) {
    this.#digests = [...new Set(keys)].map(digest);
  }

  /** Names of all clients that have a key. */
  get clients(): readonly string[] {
    return this.#digests.map(nameOf);
  }

  /**
   * A name for the client that sent this `Authorization` header: the start of its key's digest, which tells nothing of the
   * key. Takes the same time for every key. Throws 401.
   */
  client(authorization: string | undefined): string {
    const [, given] = /^Bearer +(\S+) *$/i.exec(authorization ?? "") ?? [];
    if (given === undefined) {
      throw unauthorised("No API key was sent: give one in the header Authorization: Bearer <key>.");
    }
    const asked = digest(given);
    let found: Buffer | null = null;
    for (const known of this.#digests) if (timingSafeEqual(known, asked)) found = known;
    if (found === null) throw unauthorised("The API key is not one that this server knows.");
    return nameOf(found);
  }
}

/** Keys of a file's text: one a line; empty lines and lines that begin with # are none. */
export function parseKeys(text: string): string[] {
  return text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

const nameOf = (digest: Buffer): string => `key-${digest.toString("hex").slice(0, 12)}`;

const digest = (key: string): Buffer => createHash("sha256").update(key).digest();

const unauthorised = (message: string): ApiError =>
  new ApiError(401, "invalid_api_key", message, { headers: { "WWW-Authenticate": "Bearer" } });
