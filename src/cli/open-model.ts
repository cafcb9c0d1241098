/** Opening a model for a command: progress bars, Ctrl-C, and what is to be said about the backend. */
import type { OpenOptions } from "../engine/open.js";
import { type Model, open } from "../session/model.js";
import { onInterrupt } from "./interrupt.js";
import { phaseBars } from "./progress.js";
import { say } from "./terminal.js";

/** `open` with a bar on standard error; Ctrl-C ends it with ABORTED. Throws as `open`. */
export async function openModel(source: string, options: OpenOptions): Promise<Model> {
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  using bars = phaseBars(source);
  const model = await open(source, { ...options, signal: abort.signal, onProgress: bars.update });
  const { reason } = model.info.backend;
  if (reason !== null) say(`millrace: ${reason}`);
  return model;
}
