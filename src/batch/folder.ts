/** A folder of small records, one file of JSON each, that survive whatever ends the process; and files beside them. */
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { makeFolder } from "../formats/cache-folder.js";
import { type FileWriter, writeAtomically } from "../formats/file.js";

const RECORD = ".json";

export class RecordFolder<T extends { readonly id: string }> {
  readonly #path: string;

  /** @param path Made when something is put into it. */
  constructor(path: string) {
    this.#path = path;
  }

  /**
   * All records, in no order, and what cannot be read. What was being written when a process was killed is deleted, and
   * so are files beside a record (`path`) that have none. For one process at a time.
   */
  async load(): Promise<{ readonly records: T[]; readonly broken: string[] }> {
    const names = await readdir(this.#path).catch(() => []);
    const [records, broken]: [T[], string[]] = [[], []];
    for (const name of names.filter((one) => one.endsWith(RECORD))) {
      const record = await readFile(join(this.#path, name), "utf8").then(parsed, () => null);
      if (record?.id === name.slice(0, -RECORD.length)) records.push(record as T);
      else broken.push(join(this.#path, name));
    }
    const known = new Set([
      ...records.map(({ id }) => id),
      ...broken.map((path) => path.slice(this.#path.length + 1, -RECORD.length)),
    ]);
    for (const name of names) {
      const [id] = name.split(".");
      if (name.endsWith(".tmp") || !known.has(id!)) await rm(join(this.#path, name), { force: true });
    }
    return { records, broken };
  }

  /** Resolves when it is on the disk. Rejects with WRITE_FAILED; what was there before is then still there. */
  put(record: T): Promise<void> {
    return this.write(record.id, RECORD, (file) => file.write(Buffer.from(JSON.stringify(record))));
  }

  /** Writes a file beside record `id`, as `put`. */
  async write(id: string, suffix: string, write: (file: FileWriter) => Promise<void>): Promise<void> {
    await makeFolder(this.#path, 0o700).catch(() => {});
    await writeAtomically(this.path(id, suffix), write);
  }

  /** Of a file beside record `id`. Ids are the caller's own, never what somebody else sent. */
  path(id: string, suffix: string): string {
    return join(this.#path, `${id}${suffix}`);
  }

  /** Deletes the record, and then the files beside it. */
  async remove(id: string, suffixes: readonly string[]): Promise<void> {
    for (const suffix of [RECORD, ...suffixes]) await rm(this.path(id, suffix), { force: true });
  }
}

function parsed(text: string): { readonly id?: unknown } | null {
  try {
    return JSON.parse(text) as { readonly id?: unknown } | null;
  } catch {
    return null;
  }
}
