/** What the server does at the moment: /v1/live. */
import type { Load } from "../../../src/server/schemas/live.js";
import { events } from "./http.js";

export type { Load };

export const watchLoad = (signal: AbortSignal): AsyncGenerator<Load, void> =>
  events<Load>("v1/live", { signal });
