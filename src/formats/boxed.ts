/** The models that come in the box: files in models/ of the package, so that Millrace does its work with no download. */
import { fileURLToPath } from "node:url";
import { MillraceError } from "../errors.js";

const FOLDER = new URL("../../models/", import.meta.url);

/** By name; models/README.md says how each was trained. The first is what opens where no model is named. */
export const BOXED_MODELS = ["harbour", "harbour-small"] as const;

/** Source of the model that opens where none is named. */
export const DEFAULT_MODEL = `boxed:${BOXED_MODELS[0]}`;

/** The file that "boxed:NAME" means, or null where `source` is no such name. Throws INVALID_ARGUMENT for others. */
export function boxedModelPath(source: string): string | null {
  if (!source.startsWith("boxed:")) return null;
  const name = BOXED_MODELS.find((boxed) => source === `boxed:${boxed}`);
  if (name) return fileURLToPath(new URL(`${name}.gguf`, FOLDER));
  const known = BOXED_MODELS.map((boxed) => `"boxed:${boxed}"`).join(", ");
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `Got the source ${JSON.stringify(source)}; the models in the box are ${known}.`,
    { source, known: [...BOXED_MODELS] },
  );
}
