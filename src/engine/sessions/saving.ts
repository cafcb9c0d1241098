/** A session as a file: what is written of one, and what a file must hold to become one again. */
import { SequenceCache } from "../../cache/sequence.js";
import { MillraceError } from "../../errors.js";
import type { AdapterIdentity, ModelIdentity } from "../identity.js";
import type { Place } from "../task.js";
import type { Answer } from "./answering.js";
import { damaged, type SessionFile, writeSessionFile } from "./file.js";
import type { LiveSession } from "./live-session.js";
import { type SessionManifest, type UnfinishedAnswer, writeManifest } from "./manifest.js";
import { removeOldTiers, removeTier, saveTier } from "./recall.js";
import { RecentTokens } from "./recent-tokens.js";
import { Spoken } from "./spoken.js";
import { StreamState } from "./stream-state.js";
import { MOST_TOKENS, REMEMBERED, Transcript } from "./transcript.js";

/**
 * Writes a session that stands still to one file, and its tier to a folder beside that, in place of what was there, or fails
 * and leaves that. `check` is asked before the file takes its name, and may throw. Resolves with the file's bytes. Throws
 * WRITE_FAILED.
 */
export async function saveSession(
  path: string,
  session: LiveSession,
  identity: ModelIdentity,
  check: () => void,
): Promise<number> {
  const { stream, home, recall, adapter } = session;
  const tier = recall && home.recall && (await saveTier(recall, home.recall, path));
  try {
    const { transcript, answer } = stream;
    const { header, parts } = stream.cache.openSnapshot();
    const [recent, waiting] = [transcript.recent(), transcript.waiting.slice()];
    const manifest = writeManifest({
      identity,
      adapter,
      cache: home.cache,
      memoryBytes: home.fit.memoryBytes,
      header,
      before: transcript.before,
      recent: recent.length,
      waiting: waiting.length,
      lastAppend: transcript.lastAppend,
      said: transcript.said,
      unfinished: answer ? unfinished(answer) : session.unfinished,
      recall: tier,
    });
    const body = function* () {
      yield bytesOf(recent);
      yield bytesOf(waiting);
      yield* parts;
    };
    const bytes = await writeSessionFile(path, manifest, body(), check);
    removeOldTiers(path, tier);
    return bytes;
  } catch (error) {
    if (tier) removeTier(path, tier);
    throw error;
  }
}

const unfinished = ({ parameters, promptTokens, decoder }: Answer): UnfinishedAnswer => ({
  parameters,
  promptTokens,
  decoder: decoder.save(),
});

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

/** What a stream had seen, from a file that is whole. Throws BAD_FORMAT, OUT_OF_BUDGET, and what `checkTokens` throws. */
export function readState(
  path: string,
  file: SessionFile,
  manifest: SessionManifest,
  { pool, layout }: Place,
  checkTokens: (tokens: Int32Array) => void,
): StreamState {
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
  const { before, lastAppend = end, said = 0 } = manifest;
  const transcript = new Transcript({
    recent: RecentTokens.from(REMEMBERED, end, recent),
    waiting,
    lastAppend: Math.min(lastAppend, end + waiting.length),
    said: Math.min(said, end + waiting.length),
    spoken: Spoken.all(before),
  });
  return new StreamState(cache, transcript);
}

const bytesOf = (values: Int32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
