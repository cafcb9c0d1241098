import { show, versionsOf } from "./conversations.js";
import type { Turn } from "./tree.js";

/** Leads to what stood here before a question was asked in other words, or an answer made anew. */
export function Versions({ turn, isBusy }: { readonly turn: Turn; readonly isBusy: boolean }) {
  const all = versionsOf(turn);
  if (all.length < 2) return null;
  const at = all.findIndex(({ id }) => id === turn.id);
  const step = (by: number, words: string, label: string) => {
    const other = isBusy ? undefined : all[at + by];
    // Not "disabled": what cannot be pressed any more would lose the focus.
    return (
      <button
        type="button"
        class="quiet"
        aria-label={label}
        aria-disabled={other === undefined}
        onClick={() => other && show(other)}
      >
        {words}
      </button>
    );
  };
  return (
    <span class="versions">
      {step(-1, "‹", "Version before")}
      <span>
        {at + 1} of {all.length}
      </span>
      {step(1, "›", "Next version")}
    </span>
  );
}
