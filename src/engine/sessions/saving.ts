/** A session as a file: what is written of one, and what a file must hold to become one again. */
import { SequenceCache } from "../../cache/sequence.js";
import type { Recall } from "../../cache/tiers/recall.js";
import { MillraceError } from "../../errors.js";
import type { AdapterIdentity, ModelIdentity } from "../identity.js";
import type { CacheSpec } from "../policies.js";
import type { Place } from "../task.js";
import { damaged, type SessionFile, writeSessionFile } from "./file.js";
import { type SessionManifest, type UnfinishedAnswer, writeManifest } from "./manifest.js";
import { type RecallSpec, removeOldTiers, removeTier, saveTier } from "./recall.js";
import { RecentTokens } from "./recent-tokens.js";
import { Spoken } from "./spoken.js";
import { MOST_TOKENS, REMEMBERED, type Stream, type StreamParts } from "./stream.js";

/** What of a session stands in its file. */
export interface SavedSession {
  readonly identity: ModelIdentity;
  readonly adapter: AdapterIdentity | null;
  readonly cache: CacheSpec;
  readonly memoryBytes: number;
  /** Paused until the promise settles. */
  readonly stream: Stream;
  /** An answer that was under way when it was restored, and that nobody has taken up. */
  readonly unfinished: UnfinishedAnswer | null;
  readonly tier: { readonly recall: Recall; readonly spec: RecallSpec } | null;
}

/**
 * Writes a session to one file, and its tier to a folder beside that, in place of what was there, or fails and leaves that.
 * `check` is asked before the file takes its name, and may throw. Resolves with the file's bytes. Throws WRITE_FAILED.
 */
export async function saveSession(path: string, session: SavedSession, check: () => void): Promise<number> {
  const { stream, tier, identity, adapter, cache, memoryBytes, unfinished } = session;
  const recall = tier && (await saveTier(tier.recall, tier.spec, path));
  const { header, parts } = stream.cache.openSnapshot();
  const [recent, waiting] = [stream.recent.toArray(), stream.waiting.slice()];
  const answer = stream.answer && {
    parameters: stream.answer.parameters,
    promptTokens: stream.answer.promptTokens,
    decoder: stream.answer.decoder.save(),
  };
  const manifest = writeManifest({
    identity,
    adapter,
    cache,
    memoryBytes,
    header,
    before: stream.before,
    recent: recent.length,
    waiting: waiting.length,
    lastAppend: stream.lastAppend,
    unfinished: answer ?? unfinished,
    recall,
  });
  const body = function* () {
    yield bytesOf(recent);
    yield bytesOf(waiting);
    yield* parts;
  };
  try {
    const bytes = await writeSessionFile(path, manifest, body(), check);
    removeOldTiers(path, recall);
    return bytes;
  } catch (error) {
    if (recall) removeTier(path, recall);
    throw error;
  }
}

/** Throws WRONG_MODEL where a file was saved with another model or tokenizer than this one. */
export function checkIdentity(path: string, saved: ModelIdentity, identity: ModelIdentity): void {
  const { model, tokenizer } = saved;
  if (model === identity.model && tokenizer === identity.tokenizer) return;
  throw new MillraceError(
    "WRONG_MODEL",
    `${path} is the session of another ${model === identity.model ? "tokenizer" : "model"} (${model}); this one is ` +
      `${identity.model}. Open the model that it was saved with, or start anew.`,
    { path, got: model, expected: identity.model },
  );
}

/**
 * The number, among a model's adapters, of the one that a saved session ran with, under whatever name it was opened.
 * Throws WRONG_MODEL where it is not there.
 */
export function savedAdapter(
  path: string,
  saved: AdapterIdentity | null,
  adapters: readonly AdapterIdentity[],
): { adapter?: number } {
  if (!saved) return {};
  const adapter = adapters.findIndex(({ fingerprint }) => fingerprint === saved.fingerprint);
  if (adapter >= 0) return { adapter };
  const another = adapters.some(({ name }) => name === saved.name);
  throw new MillraceError(
    "WRONG_MODEL",
    `${path} is a session that ran with the adapter "${saved.name}", and ` +
      `${another ? "the one that the model was opened with under that name is another" : "the model was opened without it"}. ` +
      "Open the model with the adapter that it was saved with.",
    { path, adapter: saved.name, fingerprint: saved.fingerprint },
  );
}

/** What a stream is made of, from a file that is whole. Throws BAD_FORMAT, and what `checkTokens` throws. */
export function readStream(
  path: string,
  file: SessionFile,
  manifest: SessionManifest,
  { pool, layout }: Place,
  checkTokens: (tokens: Int32Array) => void,
): Required<Pick<StreamParts, "cache" | "waiting" | "recent" | "lastAppend" | "spoken">> {
  const [recent, waiting] = [new Int32Array(manifest.recent), new Int32Array(manifest.waiting)];
  for (const tokens of [recent, waiting]) {
    if (tokens.byteLength > file.body.left) throw damaged(path, "it has fewer tokens than it claims");
    file.body.read(tokens);
    checkTokens(tokens);
  }
  const cache = SequenceCache.restore(pool, layout, { header: manifest.header, bytes: file.body });
  const end = cache.nextPosition;
  if (cache.length !== end || recent.length > end || end + waiting.length > MOST_TOKENS) {
    cache.dispose();
    throw damaged(path, "its tokens do not add up");
  }
  const kept = RecentTokens.from(REMEMBERED, end, recent);
  const lastAppend = Math.min(manifest.lastAppend ?? end, end + waiting.length);
  return { cache, waiting, recent: kept, lastAppend, spoken: Spoken.all(manifest.before) };
}

const bytesOf = (values: Int32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
