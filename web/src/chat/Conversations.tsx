import { chosen, conversations, remove, startNew, titleOf } from "./conversations.js";

interface Props {
  /** On a phone it lies over the page while it is open. */
  readonly open: boolean;
  readonly onChoose: () => void;
}

/** What was talked about, newest first. */
export function Conversations({ open, onChoose }: Props) {
  const choose = (id: string) => {
    chosen.value = id;
    onChoose();
  };
  return (
    <nav id="conversations" class={open ? "conversations open" : "conversations"} aria-label="Conversations">
      <button
        type="button"
        class="new"
        onClick={() => {
          startNew();
          onChoose();
        }}
      >
        New conversation
      </button>
      <ul>
        {conversations.value.map((one) => (
          <li key={one.id} aria-current={one.id === chosen.value ? "true" : undefined}>
            <button type="button" class="title" onClick={() => choose(one.id)}>
              {titleOf(one)}
            </button>
            <button
              type="button"
              class="quiet delete"
              aria-label={`Delete "${titleOf(one)}"`}
              onClick={() => {
                if (confirm(`Delete "${titleOf(one)}"?`)) remove(one.id);
              }}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
    </nav>
  );
}
