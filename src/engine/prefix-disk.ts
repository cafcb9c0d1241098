/** Where prefixes go that memory has no room for: a tier below the prefix tree, in a folder of this model and cache alone. */
import { join } from "node:path";
import { PrefixTier } from "../cache/tiers/prefix-tier.js";
import { MillraceError } from "../errors.js";
import { makeFolder } from "../formats/cache-folder.js";
import { ownFolder } from "../formats/folder-owner.js";
import { fingerprintOf, type PrefixSource, type PrefixStore, partsOf } from "./prefix-file.js";

/**
 * Puts a tier of at most `diskBytes` below the tree, with what an earlier one left there. Resolves with what ends it; its
 * files stay. Throws INVALID_ARGUMENT where another model that is open uses the folder, OUT_OF_BUDGET where two blocks do not
 * fit, WRITE_FAILED.
 */
export async function openPrefixDisk(
  { folder, diskBytes }: PrefixStore & { readonly diskBytes: number },
  source: PrefixSource,
): Promise<() => Promise<void>> {
  const { tree, adapters } = source;
  const fingerprint = fingerprintOf(source);
  const home = join(folder, `${fingerprint.slice(0, 32)}.blocks`);
  const owner = await makeFolder(home, 0o700)
    .then(() => ownFolder(home))
    .catch((cause: unknown) => {
      const message = `${home}, where prefixes were to be kept, cannot be used (${(cause as Error).message}).`;
      throw new MillraceError("WRITE_FAILED", message, { path: home }, { cause });
    });
  if (!owner) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Another model that is open keeps its prefixes in ${folder}; give each a folder of its own.`,
      { name: "prefixCache.folder", got: folder },
    );
  }
  try {
    const tier = new PrefixTier({
      folder: home,
      fingerprint,
      budgetBytes: diskBytes,
      block: tree.block,
      payloadBytes: tree.pages.blockBytes,
      nameOf(namespace) {
        const [adapter, scope] = partsOf(namespace);
        return JSON.stringify([adapter === null ? null : adapters[adapter]!.fingerprint, scope]);
      },
    });
    tree.below = tier;
    return async () => {
      tree.below = null;
      await tier.dispose();
      await owner.release();
    };
  } catch (error) {
    await owner.release();
    throw error;
  }
}
