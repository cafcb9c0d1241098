import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";

interface Props {
  readonly label: string;
  readonly placeholder: string;
  /** An answer is under way, which can be stopped. */
  readonly busy: boolean;
  readonly onSend: (text: string) => void;
  readonly onStop: () => void;
}

/** Where a person writes. Enter sends, Shift with Enter begins a line, Escape stops. */
export function Composer({ label, placeholder, busy, onSend, onStop }: Props) {
  const text = useSignal("");
  const area = useRef<HTMLTextAreaElement>(null);

  const send = () => {
    const said = text.value.trim();
    if (said === "" || busy) return;
    text.value = "";
    if (area.current) area.current.style.height = "";
    onSend(said);
  };

  return (
    <form
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
        value={text.value}
        onInput={({ currentTarget }) => {
          text.value = currentTarget.value;
          currentTarget.style.height = "";
          currentTarget.style.height = `${currentTarget.scrollHeight}px`;
        }}
        onKeyDown={(event) => {
          if (event.key === "Escape" && busy) onStop();
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          send();
        }}
      />
      {busy ? (
        <button type="button" class="stop" onClick={onStop}>
          Stop
        </button>
      ) : (
        <button type="submit" disabled={text.value.trim() === ""}>
          Send
        </button>
      )}
    </form>
  );
}
