/**
 * One download from the hub into the cache. `downloadFile` of `@huggingface/hub` cannot resume across calls, and
 * `downloadFileToCacheDir` checks neither size nor hash; so listing and addressing are the library's, the transfer is
 * ours.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, open, readFile, rename, rm, stat, statfs, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileDownloadInfo, HubApiError, type ListFileEntry, listFiles } from "@huggingface/hub";
import { type ErrorDetails, MillraceError } from "../errors.js";
import { makeFolder } from "./cache-folder.js";
import { defaultCache, type HubOptions } from "./hub-options.js";
import { type Choice, chooseFiles, type HubSource } from "./hub-source.js";
import { isAlive } from "./is-alive.js";

/** Worth another attempt: the connection, not the answer, was at fault. */
class Interrupted extends Error {
  /** Whether the attempt brought anything new. */
  readonly grown: boolean;

  constructor(cause: unknown, grown: boolean) {
    super(reasonOf(cause), { cause });
    this.grown = grown;
  }
}

export class Download {
  readonly #source: HubSource;
  readonly #options: HubOptions;
  readonly #endpoint: string;
  readonly #folder: string;
  /** Bytes of files that are done. */
  #done = 0;
  #total = 0;

  constructor(source: HubSource, options: HubOptions) {
    this.#source = source;
    this.#options = options;
    this.#endpoint = (options.endpoint ?? process.env.HF_ENDPOINT ?? "https://huggingface.co").replace(
      /\/+$/,
      "",
    );
    this.#folder = join(
      options.cache ?? defaultCache(),
      ...source.repo.split("/"),
      encodeURIComponent(source.revision),
    );
  }

  async run(): Promise<string> {
    const cached = this.#options.refresh ? undefined : await this.#fromCache();
    if (cached !== undefined) return cached;
    const entries = await this.#list();
    const choice = chooseFiles(entries, this.#source);
    const missing: ListFileEntry[] = [];
    for (const entry of choice.files) {
      this.#total += entry.size;
      if (await this.#isCached(entry)) this.#done += entry.size;
      else missing.push(entry);
    }
    await this.#checkSpace(missing);
    for (const entry of missing) {
      await this.#fetchFile(entry);
      this.#done += entry.size;
    }
    // Written last: the listing vouches for a model that is complete.
    await makeFolder(this.#folder);
    await writeFile(this.#listing, JSON.stringify(entries));
    return this.#pathOf(choice);
  }

  get #listing(): string {
    return join(this.#folder, ".listing.json");
  }

  #pathOf(choice: Choice): string {
    return join(this.#folder, choice.path);
  }

  /** The path where the last listing is at hand and all files that it asks for are complete. */
  async #fromCache(): Promise<string | undefined> {
    let choice: Choice;
    try {
      const entries = JSON.parse(await readFile(this.#listing, "utf8")) as ListFileEntry[];
      choice = chooseFiles(entries, this.#source);
    } catch {
      // No listing, a damaged one, or one that predates the file: the hub knows better.
      return undefined;
    }
    for (const entry of choice.files) if (!(await this.#isCached(entry))) return undefined;
    return this.#pathOf(choice);
  }

  async #isCached(entry: ListFileEntry): Promise<boolean> {
    const stats = await stat(join(this.#folder, entry.path)).catch(() => undefined);
    if (stats?.size !== entry.size) return false;
    const version = await readFile(this.#versionFile(entry), "utf8").catch(() => undefined);
    return version === versionOf(entry);
  }

  /** Beside the files lies, for each, which version it is. */
  #versionFile(entry: ListFileEntry): string {
    return join(this.#folder, ".versions", entry.path);
  }

  async #list(): Promise<ListFileEntry[]> {
    const { repo, revision } = this.#source;
    const entries: ListFileEntry[] = [];
    await this.#attempt("listing", async () => {
      entries.length = 0;
      const files = listFiles({
        repo,
        revision: encodeURIComponent(revision),
        recursive: true,
        hubUrl: this.#endpoint,
        fetch: this.#fetch,
      });
      for await (const entry of files) if (entry.type === "file") entries.push(this.#checked(entry));
    });
    return entries;
  }

  /** The parts of a listed file that are used. Sizes are counted with and hashes become file names: both are checked. */
  #checked({ type, path, size, oid, lfs }: ListFileEntry): ListFileEntry {
    const hash = lfs?.oid ?? oid;
    if (
      typeof path !== "string" ||
      !Number.isSafeInteger(size) ||
      size < 0 ||
      !/^[0-9a-f]*$/i.test(hash ?? "")
    ) {
      const got = JSON.stringify({ path, size, hash }).slice(0, 200);
      throw this.#failed(`the hub lists ${got}; expected a path, a size and a hash in hexadecimal.`, {});
    }
    return { type, path, size, ...(oid === undefined ? {} : { oid }), ...(lfs === undefined ? {} : { lfs }) };
  }

  async #checkSpace(missing: readonly ListFileEntry[]): Promise<void> {
    await makeFolder(this.#folder);
    let needed = 0;
    for (const entry of missing) needed += entry.size - (await sizeOf(this.#partOf(entry)));
    const { bavail, bsize } = await statfs(this.#folder);
    if (needed > bavail * bsize) {
      throw this.#failed(
        `${needed} bytes are still to come and ${bavail * bsize} are free in ${this.#folder}.`,
        {
          needed,
          free: bavail * bsize,
        },
      );
    }
  }

  /** Named by version too, so that a new version never goes on where an old one stopped. */
  #partOf(entry: ListFileEntry): string {
    return `${join(this.#folder, entry.path)}.${versionOf(entry).slice(0, 16)}.part`;
  }

  async #fetchFile(entry: ListFileEntry): Promise<void> {
    const target = join(this.#folder, entry.path);
    const part = this.#partOf(entry);
    await makeFolder(dirname(target));
    const unlock = await this.#lock(`${part}.lock`);
    try {
      await this.#attempt(entry.path, () => this.#append(entry, part));
      await this.#verify(entry, part);
      await rename(part, target);
      await makeFolder(dirname(this.#versionFile(entry)));
      await writeFile(this.#versionFile(entry), versionOf(entry));
    } finally {
      await unlock();
    }
  }

  /** Appends to `part` all that is still missing. Throws `Interrupted` where the connection ends before. */
  async #append(entry: ListFileEntry, part: string): Promise<void> {
    const { repo, revision } = this.#source;
    const file = await open(part, "a+");
    let have = (await file.stat()).size;
    const before = have;
    try {
      if (have > entry.size) {
        await file.truncate(0);
        have = 0;
      }
      this.#report(entry, have);
      if (have === entry.size) return;
      const info = await fileDownloadInfo({
        repo,
        path: entry.path.split("/").map(encodeURIComponent).join("/"),
        revision,
        hubUrl: this.#endpoint,
        fetch: this.#fetch,
      });
      if (!info) throw this.#failed(`${entry.path} is listed but not there.`, { file: entry.path });
      if (info.size !== entry.size) {
        throw this.#failed(`${entry.path} has ${info.size} bytes; the listing says ${entry.size}.`, {
          file: entry.path,
          got: info.size,
          expected: entry.size,
        });
      }
      const response = await this.#fetch(info.url, {
        headers: { Range: `bytes=${have}-`, "Accept-Encoding": "identity" },
      });
      if (!response.ok || !response.body) {
        await response.body?.cancel();
        throw new HubApiError(info.url, response.status, undefined, `status ${response.status}`);
      }
      const start = Number(/^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "")?.[1] ?? 0);
      if (start !== have) {
        // The server sends the whole file whatever it is asked for.
        if (start !== 0)
          throw this.#failed(`asked for byte ${have} of ${entry.path}, got ${start}.`, { have, start });
        await file.truncate(0);
        have = 0;
      }
      await this.#pour(response.body, file, entry, have);
    } catch (error) {
      if (error instanceof MillraceError || error instanceof HubApiError) throw error;
      const grown = (await file.stat()).size > before;
      throw new Interrupted(error, grown);
    } finally {
      await file.close();
    }
  }

  async #pour(
    body: ReadableStream<Uint8Array>,
    file: FileHandle,
    entry: ListFileEntry,
    from: number,
  ): Promise<void> {
    let have = from;
    for await (const chunk of body as unknown as AsyncIterable<Uint8Array>) {
      if (have + chunk.length > entry.size) {
        throw this.#failed(`${entry.path} sends more than its ${entry.size} bytes.`, { file: entry.path });
      }
      await file.appendFile(chunk);
      have += chunk.length;
      this.#report(entry, have);
    }
    if (have < entry.size) throw new Error(`the connection ended at byte ${have} of ${entry.size}`);
  }

  #report(entry: ListFileEntry, have: number): void {
    this.#options.onProgress?.({ file: entry.path, received: this.#done + have, total: this.#total });
  }

  /** Holds `part` against the hub's hash; a wrong one is removed, since going on from it would be no use. */
  async #verify(entry: ListFileEntry, part: string): Promise<void> {
    const expected = versionOf(entry);
    if (expected === "") return;
    const hash = createHash(entry.lfs ? "sha256" : "sha1");
    if (!entry.lfs) hash.update(`blob ${entry.size}\0`);
    for await (const chunk of createReadStream(part, { highWaterMark: 2 ** 20 }))
      hash.update(chunk as Buffer);
    const got = hash.digest("hex");
    if (got === expected) return;
    await rm(part);
    throw this.#failed(`${entry.path} arrived damaged: hash ${got}, expected ${expected}. It was removed.`, {
      file: entry.path,
      got,
      expected,
    });
  }

  /** One download of a file at a time, whatever the number of processes. The lock of an ended process does not count. */
  async #lock(path: string): Promise<() => Promise<void>> {
    for (;;) {
      try {
        await writeFile(path, String(process.pid), { flag: "wx" });
        return () => rm(path, { force: true });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST")
          throw this.#failed((error as Error).message, {});
      }
      const owner = Number(await readFile(path, "utf8").catch(() => ""));
      if (isAlive(owner)) {
        throw this.#failed(`process ${owner} is downloading it already; wait for it, or remove ${path}.`, {
          owner,
        });
      }
      await rm(path, { force: true });
    }
  }

  /** Runs `work` until it succeeds, again and again as long as it gets further, else `retries` times. */
  async #attempt(what: string, work: () => Promise<unknown>): Promise<void> {
    const { retries = 4, retryDelayMs = 500, signal } = this.#options;
    for (let failures = 0; ; failures++) {
      try {
        await work();
        return;
      } catch (error) {
        if (signal?.aborted)
          throw new MillraceError("ABORTED", `The download of ${this.#source.name} was ended.`);
        if (error instanceof MillraceError) throw error;
        if (error instanceof HubApiError && error.statusCode < 500 && error.statusCode !== 429) {
          throw this.#refused(error);
        }
        if (error instanceof Interrupted && error.grown) failures = -1;
        if (failures >= retries) {
          throw this.#failed(
            `${what}: ${reasonOf(error)}. What has arrived is kept; run it again to go on.`,
            { file: what },
            error,
          );
        }
        // An abort ends the pause, and the next attempt at once.
        await setTimeout(
          retryDelayMs * 2 ** Math.max(0, failures),
          undefined,
          signal ? { signal } : {},
        ).catch(() => {});
      }
    }
  }

  #refused(error: HubApiError): MillraceError {
    const { statusCode } = error;
    const hint =
      statusCode === 401 || statusCode === 403 || statusCode === 404
        ? "The repository or revision does not exist, is private, or is gated: check the name, accept its terms on " +
          "the hub, and set HF_TOKEN"
        : "Check the source and HF_ENDPOINT";
    return this.#failed(`${this.#endpoint} answered ${statusCode}. ${hint}.`, { status: statusCode }, error);
  }

  #failed(reason: string, details: ErrorDetails, cause?: unknown): MillraceError {
    return new MillraceError(
      "DOWNLOAD_FAILED",
      `${this.#source.name}: ${reason}`,
      { source: this.#source.name, ...details },
      cause === undefined ? {} : { cause },
    );
  }

  /** fetch with the caller's signal, and with the token for the endpoint and nobody else. */
  readonly #fetch: typeof fetch = (input, init) => {
    const { signal, token = process.env.HF_TOKEN } = this.#options;
    const headers = new Headers(init?.headers);
    const url = new URL(input instanceof Request ? input.url : String(input));
    if (token && url.origin === new URL(this.#endpoint).origin)
      headers.set("Authorization", `Bearer ${token}`);
    return fetch(input, { ...init, headers, ...(signal ? { signal } : {}) });
  };
}

/** What names a file's content: the SHA-256 of large files, else the Git blob id. */
function versionOf(entry: ListFileEntry): string {
  return entry.lfs?.oid ?? entry.oid ?? "";
}

/** What went wrong, from the innermost cause that says so: fetch itself says only "fetch failed". */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error && !(error instanceof Interrupted)
    ? `${error.message} (${error.cause.message || (error.cause as NodeJS.ErrnoException).code})`
    : error.message;
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0;
}
