/**
 * Models on the Hugging Face hub, by name: listed with `@huggingface/hub`, fetched with ranged requests so that a cut
 * connection resumes, checked against the hub's own hashes, and kept in a cache folder that also serves offline.
 *
 *   hf:owner/repo                  the repository's safetensors, or its only (or Q4_K_M) GGUF model
 *   hf:owner/repo:Q8_0             the GGUF model with this quantisation in its name
 *   hf:owner/repo/path/file.gguf   this file (all parts of a split one)
 *   hf:owner/repo@revision...      any of these at a branch, tag or commit
 *
 * Models that come in the box (boxed.ts) are found by name too: boxed:harbour.
 */
import { boxedModelPath } from "./boxed.js";
import type { HubOptions } from "./hub-options.js";
import { parseHubSource } from "./hub-source.js";

/**
 * The local path of a model: `source` itself where it is a path, else the cached or downloaded file or folder.
 *
 * Throws INVALID_ARGUMENT (a source that cannot be read as one, an ambiguous one, a box that does not hold it), FILE_NOT_FOUND (the repository has
 * no such file; the message lists what it has), DOWNLOAD_FAILED (network, access, wrong size or hash, disk; what has
 * arrived is kept and the next call goes on from there), ABORTED.
 */
export async function resolveModelPath(source: string, options: HubOptions = {}): Promise<string> {
  if (!source.startsWith("hf:")) return boxedModelPath(source) ?? source;
  const wanted = parseHubSource(source);
  // Loaded only when needed: the hub's library takes longer to load than a small model.
  const { Download } = await import("./hub-download.js");
  return new Download(wanted, options).run();
}

export type { HubOptions, HubProgress } from "./hub-options.js";
