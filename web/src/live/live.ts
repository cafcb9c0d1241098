/** Follows what the server does, for as long as the page is open. */
import { batch, signal } from "@preact/signals";
import { ServerError } from "../api/http.js";
import { type Load, watchLoad } from "../api/live.js";

/** Events that charts show; one comes every half second. */
export const HISTORY = 120;
const TRY_AGAIN_MS = 2000;

export const load = signal<Load | null>(null);
/** Tokens a second and milliseconds between tokens, oldest first. */
export const history = signal<readonly { readonly rate: number; readonly gap: number | null }[]>([]);
export const isConnected = signal(false);
/** Why the server does not answer; null while it does, or has not been asked. */
export const trouble = signal<ServerError | null>(null);
/** The reader wants figures that stand still. */
export const isHeld = signal(false);

let again: () => void = () => {};

/** Does not wait any longer to try again. */
export const tryAgain = (): void => again();

export async function follow(): Promise<never> {
  for (;;) {
    try {
      for await (const event of watchLoad(new AbortController().signal)) batch(() => take(event));
    } catch (error) {
      // It is tried again: a server that is restarted comes back.
      trouble.value = error instanceof ServerError ? error : new ServerError(0, null, String(error));
    }
    isConnected.value = false;
    await new Promise<void>((resolve) => {
      again = resolve;
      setTimeout(resolve, TRY_AGAIN_MS);
    });
  }
}

function take(event: Load): void {
  isConnected.value = true;
  trouble.value = null;
  if (isHeld.value) return;
  load.value = event;
  const rate = event.models.reduce((sum, { tokens_per_second }) => sum + tokens_per_second, 0);
  history.value = [...history.value, { rate, gap: event.gap_ms?.p99 ?? null }].slice(-HISTORY);
}
