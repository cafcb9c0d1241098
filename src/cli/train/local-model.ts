import { resolveModelPath } from "../../formats/hub.js";
import { onInterrupt } from "../interrupt.js";
import { phaseBars } from "../progress.js";

/** The path of a model, which is downloaded first where it lies on the hub; Ctrl-C ends that with ABORTED. */
export async function localModel(source: string): Promise<string> {
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  using bars = phaseBars(source);
  return resolveModelPath(source, {
    signal: abort.signal,
    onProgress: ({ received, total }) => {
      bars.update({ phase: "download", loadedBytes: received, totalBytes: total });
    },
  });
}
