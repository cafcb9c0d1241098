import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

interface Props {
  readonly text: string;
  readonly onAsk: (text: string) => void;
  readonly onCancel: () => void;
}

/** A question in other words. Enter asks it, Escape leaves it as it was. */
export function Edit({ text, onAsk, onCancel }: Props) {
  const said = useSignal(text);
  const box = useRef<HTMLTextAreaElement>(null);
  useEffect(() => box.current?.focus(), []);
  const send = () => {
    if (said.value.trim() !== "") onAsk(said.value.trim());
  };

  return (
    <form
      class="edit"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={box}
        aria-label="Question in other words"
        rows={Math.min(12, said.value.split("\n").length + 1)}
        value={said.value}
        onInput={({ currentTarget }) => {
          said.value = currentTarget.value;
        }}
        onKeyDown={(event) => {
          if (event.key === "Escape") onCancel();
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          send();
        }}
      />
      <button type="submit">Ask</button>
      <button type="button" class="quiet" onClick={onCancel}>
        Cancel
      </button>
    </form>
  );
}
