import { type Signal, signal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { useFocusAfter } from "../focus.js";
import { keep, read } from "../storage.js";

interface Props {
  readonly label: string;
  readonly placeholder: string;
  /** What is typed is kept by this name until it is sent: over other views, and reloads of this tab. */
  readonly draft: string;
  /** An answer is under way, which can be stopped. */
  readonly busy: boolean;
  readonly onSend: (text: string) => void;
  readonly onStop: () => void;
}

const drafts = new Map<string, Signal<string>>();

function draftOf(name: string): Signal<string> {
  const draft = drafts.get(name) ?? signal(read(`millrace.draft.${name}`, "", "sessionStorage"));
  drafts.set(name, draft);
  return draft;
}

/** Where a person writes. Enter sends, Shift with Enter begins a line, Escape stops. */
export function Composer({ label, placeholder, draft, busy, onSend, onStop }: Props) {
  const text = draftOf(draft);
  const area = useRef<HTMLTextAreaElement>(null);
  const form = useFocusAfter<HTMLFormElement>(busy, () => area.current?.focus());
  const type = (typed: string) => {
    text.value = typed;
    keep(`millrace.draft.${draft}`, typed === "" ? null : typed, "sessionStorage");
  };
  useLayoutEffect(() => {
    if (!area.current) return;
    area.current.style.height = "";
    if (text.value !== "") area.current.style.height = `${area.current.scrollHeight + 2}px`;
  }, [text.value]);

  const send = () => {
    const said = text.value.trim();
    if (said === "" || busy) return;
    type("");
    onSend(said);
  };

  return (
    <form
      ref={form}
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={area}
        aria-label={label}
        placeholder={placeholder}
        rows={1}
        enterkeyhint="send"
        value={text.value}
        onInput={({ currentTarget }) => type(currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape" && busy) onStop();
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          send();
        }}
      />
      {busy ? (
        <button key="stop" type="button" class="stop" onClick={onStop}>
          Stop
        </button>
      ) : (
        <button key="send" type="submit" aria-disabled={text.value.trim() === ""}>
          Send
        </button>
      )}
    </form>
  );
}
