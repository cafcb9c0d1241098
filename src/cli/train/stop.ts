import { onInterrupt } from "../interrupt.js";
import { say } from "../terminal.js";

/** `stop` at Ctrl-C, and at SIGTERM, with which machines that are shared take a place back. */
export function onTrainingStop(stop: () => void): Disposable {
  return onInterrupt(() => {
    say("millrace: stopping after this step; Ctrl-C again to quit at once");
    stop();
  }, ["SIGINT", "SIGTERM"]);
}
