// An engine's worker that fails as `workerData` says when it is first asked to generate: what a bug, a runaway or a
// full heap would do to the real one.
import { parentPort, workerData } from "node:worker_threads";
import { serve } from "../../dist/engine/host.js";
import { loadModel } from "../../dist/engine/load.js";

const failures = {
  exit: () => process.exit(7),
  throw: () => {
    throw new Error("a bug in the worker");
  },
  memory: () => {
    const hoard = [];
    for (;;) hoard.push(new Array(1000).fill(hoard.length));
  },
  hang: () => {
    for (;;);
  },
};

serve(parentPort, loadModel);
parentPort.on("message", (message) => {
  if (message.type === "call" && message.name === "generate") failures[workerData]();
});
