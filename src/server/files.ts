/** Files that clients put here and that batches leave them: whose they are, how large they may be, and when they go. */
import { RecordFolder } from "../batch/folder.js";
import { MillraceError } from "../index.js";
import { ApiError } from "./errors.js";
import { newId, now } from "./identity.js";
import type { ServerLimits } from "./options.js";

export type FilePurpose = "batch" | "batch_output";

/** What is known of a file; its bytes lie beside. */
export interface KeptFile {
  readonly id: string;
  /** What its owner calls it; no path is ever made of it. */
  readonly filename: string;
  readonly purpose: FilePurpose;
  readonly bytes: number;
  /** Seconds since 1970. */
  readonly created: number;
  readonly expires: number;
  /** Files have the order of these. */
  readonly order: number;
}

/** Bytes that came and are nobody's file yet. */
export interface Upload {
  readonly id: string;
  readonly bytes: number;
}

interface Home {
  readonly folder: RecordFolder<KeptFile>;
  readonly files: Map<string, KeptFile>;
  /** Bytes of what is being uploaded. */
  incoming: number;
}

type FileLimits = Pick<ServerLimits, "fileBytes" | "files" | "storageBytes" | "fileSeconds">;

const DATA = ".data";
const MAX_NAME = 255;

export class FileStore {
  readonly #folder: (owner: string) => string;
  readonly #limits: FileLimits;
  readonly #homes = new Map<string, Home>();
  #order = 0;

  /** @param folder Where an owner's files lie. */
  constructor(limits: FileLimits, folder: (owner: string) => string) {
    this.#limits = limits;
    this.#folder = folder;
  }

  /** Reads what `owner` had when the process before ended. Resolves with records that cannot be read, by path. */
  async load(owner: string): Promise<string[]> {
    const home = this.#home(owner);
    const { records, broken } = await home.folder.load();
    records.sort((a, b) => a.order - b.order);
    for (const file of records) {
      home.files.set(file.id, file);
      this.#order = Math.max(this.#order, file.order);
    }
    return broken;
  }

  /**
   * Takes in the bytes of a file. Throws 413 for more than a file may have, 409 where the owner has all that one may, 507
   * for a full disk; nothing is left of it then, nor where `chunks` throws.
   */
  async receive(owner: string, chunks: AsyncIterable<Uint8Array>): Promise<Upload> {
    const home = this.#home(owner);
    const id = newId("file-");
    const { files, storageBytes, fileBytes } = this.#limits;
    if (home.files.size >= files) {
      throw new ApiError(
        409,
        "too_many_files",
        `There are ${home.files.size} files, as many as one may have; delete some.`,
        { details: { files: home.files.size, limit: files } },
      );
    }
    let bytes = 0;
    try {
      await home.folder.write(id, DATA, async (file) => {
        for await (const chunk of chunks) {
          bytes += chunk.length;
          home.incoming += chunk.length;
          if (bytes > fileBytes) throw tooLarge(fileBytes);
          if (this.#used(home) > storageBytes) {
            throw new ApiError(
              409,
              "storage_full",
              `All files together may have ${storageBytes} bytes; delete some, or wait until some expire.`,
              { details: { limit: storageBytes } },
            );
          }
          await file.write(chunk);
        }
      });
    } catch (error) {
      throw withoutPath(error);
    } finally {
      home.incoming -= bytes;
    }
    return { id, bytes };
  }

  /** Makes what was received a file. `seconds`: how long it is kept. Throws 507. */
  async keep(
    owner: string,
    { id, bytes }: Upload,
    described: {
      readonly filename: string;
      readonly purpose: FilePurpose;
      readonly seconds?: number | null;
    },
  ): Promise<KeptFile> {
    const { purpose, filename, seconds } = described;
    const created = now();
    const file: KeptFile = {
      id,
      filename: plainName(filename),
      purpose,
      bytes,
      created,
      expires: created + (seconds ?? this.#limits.fileSeconds),
      order: ++this.#order,
    };
    await this.#home(owner)
      .folder.put(file)
      .catch((error) => {
        throw withoutPath(error);
      });
    this.#home(owner).files.set(id, file);
    return file;
  }

  /** Forgets what was received. */
  discard(owner: string, { id }: Upload): Promise<void> {
    return this.#home(owner).folder.remove(id, [DATA]);
  }

  /**
   * A file of the server's own under an id that it has chosen: writing it again, after a crash, replaces it. It counts
   * against no limit. Null, and no file, where there is nothing in it. Rejects with WRITE_FAILED.
   */
  async writeOutput(
    owner: string,
    { id, ...described }: { readonly id: string; readonly filename: string; readonly seconds: number | null },
    chunks: AsyncIterable<Uint8Array>,
  ): Promise<KeptFile | null> {
    let bytes = 0;
    await this.#home(owner).folder.write(id, DATA, async (file) => {
      for await (const chunk of chunks) {
        bytes += chunk.length;
        await file.write(chunk);
      }
    });
    if (bytes > 0) return this.keep(owner, { id, bytes }, { ...described, purpose: "batch_output" });
    await this.discard(owner, { id, bytes });
    return null;
  }

  /** All files of `owner`, oldest first. */
  list(owner: string): KeptFile[] {
    return [...this.#home(owner).files.values()].filter(isCurrent);
  }

  /** Throws 404 for one that is none, or somebody else's. */
  get(owner: string, id: string): KeptFile {
    const file = this.find(owner, id);
    if (file && isCurrent(file)) return file;
    throw new ApiError(404, "file_not_found", "There is no such file; it may have expired.", { param: "id" });
  }

  /** As `get`, also where its time is over and it is still there; null for none. */
  find(owner: string, id: string): KeptFile | null {
    return this.#home(owner).files.get(id) ?? null;
  }

  /** Where the bytes of a file lie. */
  pathOf(owner: string, { id }: KeptFile): string {
    return this.#home(owner).folder.path(id, DATA);
  }

  async remove(owner: string, { id }: KeptFile): Promise<void> {
    const home = this.#home(owner);
    home.files.delete(id);
    await home.folder.remove(id, [DATA]);
  }

  /** Deletes files whose time is over, but for those that are in use. */
  async sweep(inUse: (owner: string, file: KeptFile) => boolean): Promise<void> {
    for (const [owner, { files }] of this.#homes) {
      for (const file of files.values()) {
        if (!isCurrent(file) && !inUse(owner, file)) await this.remove(owner, file);
      }
    }
  }

  #used({ files, incoming }: Home): number {
    return [...files.values()].reduce((sum, { bytes }) => sum + bytes, incoming);
  }

  #home(owner: string): Home {
    let home = this.#homes.get(owner);
    if (home === undefined) {
      home = { folder: new RecordFolder(this.#folder(owner)), files: new Map(), incoming: 0 };
      this.#homes.set(owner, home);
    }
    return home;
  }
}

const isCurrent = ({ expires }: KeptFile): boolean => expires > now();

export const tooLarge = (limit: number): ApiError =>
  new ApiError(413, "file_too_large", `The file has more than ${limit} bytes.`, { details: { limit } });

/** Where the server keeps its files is its own business; that they cannot be written is not. */
export function withoutPath(error: unknown): unknown {
  if (!(error instanceof MillraceError) || error.code !== "WRITE_FAILED") return error;
  return new ApiError(507, "disk_full", "The server cannot write this to its disk; try again later.", {
    cause: error,
  });
}

/** The last part of what may be somebody's path, without what could disturb a terminal or a header. */
function plainName(name: string): string {
  const last = name.split(/[/\\]/).at(-1) ?? "";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is to go.
  const plain = last.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "");
  // Half a character is none.
  const whole = Buffer.from(plain, "utf8").toString("utf8");
  return [...whole].slice(0, MAX_NAME).join("") || "file";
}
