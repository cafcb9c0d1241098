/** Follows what the server does, for as long as the page is open. */
import { signal } from "@preact/signals";
import { type Load, watchLoad } from "../api/live.js";

/** Events that charts show; one comes every half second. */
export const HISTORY = 120;

export const load = signal<Load | null>(null);
/** Tokens a second and milliseconds between tokens, oldest first. */
export const history = signal<readonly { readonly rate: number; readonly gap: number | null }[]>([]);
export const isConnected = signal(false);

export async function follow(): Promise<never> {
  for (;;) {
    try {
      for await (const event of watchLoad(new AbortController().signal)) {
        isConnected.value = true;
        load.value = event;
        const rate = event.models.reduce((sum, { tokens_per_second }) => sum + tokens_per_second, 0);
        history.value = [...history.value, { rate, gap: event.gap_ms?.p99 ?? null }].slice(-HISTORY);
      }
    } catch {
      // It is tried again: a server that is restarted comes back.
    }
    isConnected.value = false;
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
