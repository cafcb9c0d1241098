/** Entry of the engine's worker thread. */
import { parentPort } from "node:worker_threads";
import { serve } from "./host.js";
import { loadModel } from "./load.js";

if (parentPort) serve(parentPort, loadModel);
