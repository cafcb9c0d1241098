import { signal } from "@preact/signals";

/** What a screen reader is told next; the page holds it in one place, out of sight. */
export const announced = signal("");

/** Tells it once: text that comes bit by bit is told when it is whole. */
export function announce(text: string): void {
  // The same words again are a change only where they differ.
  announced.value = text === announced.value ? `${text}\u00a0` : text;
}
