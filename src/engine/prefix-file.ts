/**
 * Prefixes that survive restarts: what the tree holds when a model is closed, in one file that the next to open the same
 * model with the same cache takes in again. The file is a container like that of a session (session-file.ts), written
 * whole or not at all, every byte under a checksum: its manifest lists the runs of tokens, its body has their pages.
 */
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";
import type { CacheLayout } from "../cache/layout.js";
import type { KvPool } from "../cache/pool.js";
import { restoreRuns } from "../cache/prefix/restore.js";
import type { PrefixTree } from "../cache/prefix.js";
import { MillraceError } from "../errors.js";
import { makeFolder } from "../formats/cache-folder.js";
import type { AdapterIdentity, ModelIdentity } from "./identity.js";
import { openSessionFile, writeSessionFile } from "./sessions/file.js";

/** Where prefixes are kept between runs, and how much of them. */
export interface PrefixStore {
  readonly folder: string;
  /** Most bytes of the file. */
  readonly bytes: number;
  /** Most bytes, beside the file, of what memory has no room for. Absent: that is gone. */
  readonly diskBytes?: number;
}

/** All that a page's bytes depend on. */
export interface PrefixSource {
  readonly tree: PrefixTree;
  readonly pool: KvPool;
  readonly layout: CacheLayout;
  readonly identity: ModelIdentity;
  readonly adapters: readonly AdapterIdentity[];
  readonly vocabularySize: number;
  /** Backend and settings under which numbers may differ. */
  readonly setting: string;
}

interface SavedRun {
  /** The adapter's fingerprint; null: none. */
  readonly adapter: string | null;
  /** Null: that of requests that name none. */
  readonly scope: string | null;
  /** Which run it follows, -1 for none. */
  readonly parent: number;
  readonly tokens: readonly number[];
}

interface Manifest {
  readonly millrace: "prefixes";
  readonly fingerprint: string;
  readonly runs: readonly SavedRun[];
}

/** Most that a file takes beside pages: at its head, for a run, for each of its tokens. */
const HEAD_BYTES = 512;
const RUN_BYTES = 128;
const TOKEN_BYTES = 11;

/** Requests share under this name: those of one adapter, and of one scope where they name one. */
export const namespaceOf = (adapter: number | undefined, scope: string | undefined): string =>
  JSON.stringify([adapter ?? null, scope ?? null]);

/** Of a name that `namespaceOf` made. */
export const partsOf = (namespace: string) =>
  JSON.parse(namespace) as [adapter: number | null, scope: string | null];

/** The file of a model with a cache like this; others have others. */
export function prefixFile({ folder }: PrefixStore, source: PrefixSource): string {
  return join(folder, `${fingerprintOf(source).slice(0, 32)}.prefixes`);
}

/**
 * Writes what was used most recently, as far as it fits. What is in use, or where there is nothing, leaves the file as it
 * was. Returns the bytes written. Throws WRITE_FAILED.
 */
export async function savePrefixes(store: PrefixStore, source: PrefixSource): Promise<number> {
  const { tree, pool, adapters } = source;
  const runs: SavedRun[] = [];
  const pages: Int32Array[] = [];
  const places = new Map<unknown, number>();
  let left = store.bytes - HEAD_BYTES;
  for (const node of tree.unused()) {
    const { namespace, parent, tokens } = node;
    const [number, scope] = partsOf(namespace);
    const at = parent?.parent ? places.get(parent) : -1;
    const own = node.pages.flatMap((run) => [...run]);
    left -= own.length * pool.pageBytes + TOKEN_BYTES * tokens.length + RUN_BYTES;
    left -= Buffer.byteLength(namespace);
    if (left < 0) break;
    if (at === undefined) continue;
    places.set(node, runs.length);
    const adapter = number === null ? null : adapters[number]!.fingerprint;
    runs.push({ adapter, scope, parent: at, tokens: [...tokens] });
    pages.push(Int32Array.from(own));
  }
  if (runs.length === 0) return 0;
  const manifest: Manifest = { millrace: "prefixes", fingerprint: fingerprintOf(source), runs };
  await makeFolder(store.folder, 0o700);
  return writeSessionFile(
    prefixFile(store, source),
    JSON.stringify(manifest),
    bytesOf(pages, pool),
    () => {},
  );
}

/**
 * Takes in what was saved, as far as free pages hold it. Returns the tokens taken in: 0 where there is no file, or it is
 * damaged or of another version, since all that it holds can be had again.
 */
export async function loadPrefixes(store: PrefixStore, source: PrefixSource): Promise<number> {
  const path = prefixFile(store, source);
  const { tree, pool, adapters } = source;
  const file = await openSessionFile(path).catch(passOver);
  if (!file) return 0;
  try {
    const runs = readRuns(file.manifest, source);
    const before = tree.usage().tokens;
    restoreRuns(
      tree,
      runs.map(({ adapter, scope, parent, tokens }) => {
        const number = adapters.findIndex(({ fingerprint }) => fingerprint === adapter);
        const isGone = adapter !== null && number < 0;
        const namespace = isGone ? null : namespaceOf(number < 0 ? undefined : number, scope ?? undefined);
        return { namespace, parent, tokens: Int32Array.from(tokens) };
      }),
      (page) => {
        const bytes =
          page === null
            ? new Uint8Array(pool.pageBytes)
            : pool.arena.bytes(page * pool.pageBytes, pool.pageBytes);
        file.body.read(bytes);
      },
    );
    return tree.usage().tokens - before;
  } finally {
    await file.close();
  }
}

/** The runs that a manifest lists; none where it is not what it should be. */
function readRuns(text: string, source: PrefixSource): readonly SavedRun[] {
  const { tree, vocabularySize } = source;
  const manifest = JSON.parse(text) as Partial<Manifest> | null;
  const listed: unknown = manifest?.runs;
  const runs = (Array.isArray(listed) ? listed : []) as readonly Partial<SavedRun>[];
  const isToken = (token: unknown) =>
    Number.isInteger(token) && Number(token) >= 0 && Number(token) < vocabularySize;
  const fits = runs.every(({ adapter, scope, parent = Number.NaN, tokens }, i) => {
    if ([adapter, scope].some((name) => name !== null && typeof name !== "string")) return false;
    if (!Array.isArray(tokens) || tokens.length === 0 || !tokens.every(isToken)) return false;
    if (tokens.length > tree.block && tokens.length % tree.block > 0) return false;
    if (parent === -1) return true;
    const above = parent < i ? runs[parent]?.tokens?.length : undefined;
    return above !== undefined && above % tree.block === 0;
  });
  const isOurs = manifest?.millrace === "prefixes" && manifest.fingerprint === fingerprintOf(source);
  return isOurs && fits ? (runs as readonly SavedRun[]) : [];
}

/** Null for a file that is not there or cannot be read. */
function passOver(error: unknown): null {
  const passed: readonly unknown[] = ["FILE_NOT_FOUND", "BAD_FORMAT", "UNSUPPORTED_FORMAT"];
  if (error instanceof MillraceError && passed.includes(error.code)) return null;
  throw error;
}

function* bytesOf(pages: readonly Int32Array[], { arena, pageBytes }: KvPool): Generator<Uint8Array> {
  for (const run of pages) for (const page of run) yield arena.bytes(page * pageBytes, pageBytes);
}

/** Of all that a page's bytes depend on. */
export function fingerprintOf({ identity, layout, setting }: PrefixSource): string {
  // Another version may round otherwise.
  const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };
  const parts = [version, identity.model, identity.tokenizer, layout.fingerprint, setting];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}
