import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { useFocusAfter } from "../focus.js";
import { chosen, conversations, remove, rename, startNew, titleOf, writing } from "./conversations.js";
import type { Conversation } from "./tree.js";

interface Props {
  /** On a phone it lies over the page while it is open. */
  readonly open: boolean;
  readonly onChoose: (what: { readonly isNew: boolean }) => void;
}

/** What was talked about, newest first. */
export function Conversations({ open, onChoose }: Props) {
  const first = useRef<HTMLButtonElement>(null);
  const list = useFocusAfter<HTMLUListElement>(conversations.value.length, (part) =>
    (part.querySelector<HTMLElement>("[aria-current] .title") ?? first.current)?.focus(),
  );
  useEffect(() => {
    if (open) first.current?.focus();
  }, [open]);

  return (
    <nav id="conversations" class={open ? "conversations open" : "conversations"} aria-label="Conversations">
      <button
        ref={first}
        type="button"
        class="new"
        onClick={() => {
          startNew();
          onChoose({ isNew: true });
        }}
      >
        New conversation
      </button>
      <ul ref={list}>
        {conversations.value.map((one) => (
          <One
            key={one.id}
            conversation={one}
            onChoose={() => {
              chosen.value = one.id;
              onChoose({ isNew: false });
            }}
          />
        ))}
      </ul>
    </nav>
  );
}

interface OneProps {
  readonly conversation: Conversation;
  readonly onChoose: () => void;
}

/** A conversation of the list; what can be done with it is beside the one that is shown. */
function One({ conversation, onChoose }: OneProps) {
  const isNaming = useSignal(false);
  const { id } = conversation;
  const title = titleOf(conversation);
  const isShown = id === chosen.value;
  const item = useFocusAfter<HTMLLIElement>(isNaming.value, (part) =>
    part.querySelector<HTMLElement>(".rename")?.focus(),
  );
  if (isNaming.value)
    return (
      <li ref={item}>
        <Title
          title={title}
          onDone={(text) => {
            isNaming.value = false;
            if (text !== null && text !== title) rename(id, text);
          }}
        />
      </li>
    );
  return (
    <li ref={item} aria-current={isShown ? "true" : undefined}>
      <button type="button" class="title" title={title} onClick={onChoose}>
        {title}
        {writing.value.has(id) && (
          <>
            <span class="hidden"> (being answered)</span>
            <span class="thinking" aria-hidden="true">
              {" "}
              …
            </span>
          </>
        )}
      </button>
      {isShown && (
        <>
          <button
            type="button"
            class="quiet rename"
            aria-label={`Rename "${title}"`}
            title="Rename"
            onClick={() => {
              isNaming.value = true;
            }}
          >
            ✎
          </button>
          <button
            type="button"
            class="quiet delete"
            aria-label={`Delete "${title}"`}
            title="Delete"
            onClick={() => {
              if (confirm(`Delete "${title}"?`)) remove(id);
            }}
          >
            ×
          </button>
        </>
      )}
    </li>
  );
}

/** Enter and leaving keep the new title, Escape the old one. */
function Title({
  title,
  onDone,
}: {
  readonly title: string;
  readonly onDone: (text: string | null) => void;
}) {
  const box = useRef<HTMLInputElement>(null);
  const isDone = useRef(false);
  useEffect(() => box.current?.select(), []);
  // Going away, the box loses the focus once more.
  const done = (text: string | null) => {
    if (!isDone.current) onDone(text);
    isDone.current = true;
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        done(box.current?.value ?? null);
      }}
    >
      <input
        ref={box}
        aria-label="Title"
        maxLength={80}
        defaultValue={title}
        onBlur={() => done(box.current?.value ?? null)}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          // It closes this, and not what lies around it.
          event.stopPropagation();
          done(null);
        }}
      />
    </form>
  );
}
