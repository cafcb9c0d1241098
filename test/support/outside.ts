/**
 * Real models and texts for tests, which are too large for the repository: in the folder $MILLRACE_TEST_DATA, else
 * beside the checkout. Tests skip what is not there.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

/** Where the file or folder `path` of the test data would be. */
export const outside = (path: string): string =>
  join(process.env.MILLRACE_TEST_DATA ?? resolve(import.meta.dirname, "../../../shared/data"), path);

/** A model of 260 thousand parameters that tells children's stories, and the story it must tell greedily. */
export const stories = {
  here: existsSync(outside("models/stories260K/stories260K.gguf")),
  path: outside("models/stories260K/stories260K.gguf"),
  golden(): { readonly prompt: number[]; readonly greedy_ids: number[]; readonly text: string } {
    return JSON.parse(readFileSync(outside("models/stories260K/golden.json"), "utf8")).stories260K;
  },
};
