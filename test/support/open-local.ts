/** Real models behind a message channel in this very thread: see local-thread.ts. */
import { loadModel } from "../../src/engine/load.js";
import { type OpenOptions, openOn, openParameters } from "../../src/engine/open.js";
import { boxedModelPath, DEFAULT_MODEL } from "../../src/formats/boxed.js";
import { type Model, makeModel } from "../../src/session/model.js";
import { localThread } from "./local-thread.js";

/** The model in the box, or the file at `path`, on the reference backend, which needs no build. */
export function openLocal(options: OpenOptions = {}, path = boxedModelPath(DEFAULT_MODEL)!): Promise<Model> {
  return openOn(
    localThread(loadModel),
    openParameters(path, { backend: "reference", ...options }),
    {},
    makeModel,
  );
}
