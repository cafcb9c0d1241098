import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { focusComposer } from "../focus.js";
import { Bubble } from "./Bubble.js";
import { Composer } from "./Composer.js";
import { ask, chosen, shown, stop, unkept, writing } from "./conversations.js";

/** What people ask of the model that comes in the box; others know more. */
const SUGGESTIONS = [
  "Mara put the brass key in the boathouse. Where is the brass key?",
  "What is happening at the pier?",
  "Who are you?",
];

const UNKEPT = {
  full: "This browser has no room left: what is said from now on is lost on reload. Delete conversations to make room.",
  forbidden: "This browser keeps nothing for this page: what is said here is lost on reload.",
};

export function Chat() {
  const turns = shown.value;
  const isBusy = writing.value.has(chosen.value);
  const list = useRef<HTMLElement>(null);
  const follows = useSignal(true);
  const last = turns.at(-1);
  useEffect(() => {
    follows.value = true;
  }, [chosen.value, turns.length]);
  useEffect(() => {
    if (follows.value && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [last?.id, last?.content, last?.end]);

  return (
    <div class="chat">
      <section
        ref={list}
        class="turns"
        tabIndex={turns.length === 0 ? undefined : 0}
        aria-label="What was said"
        onScroll={({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) => {
          follows.value = scrollHeight - scrollTop - clientHeight < 60;
        }}
      >
        {turns.length === 0 && (
          <div class="welcome">
            <h2>Ask something</h2>
            <ul>
              {SUGGESTIONS.map((text) => (
                <li key={text}>
                  <button
                    type="button"
                    onClick={({ currentTarget }) => {
                      if (currentTarget.matches(":focus-visible")) focusComposer();
                      void ask(text);
                    }}
                  >
                    {text}
                  </button>
                </li>
              ))}
            </ul>
          </div>
        )}
        {/* What a place holds may change to another version; the place stays, and with it the focus. */}
        <ol>
          {turns.map((turn) => (
            <Bubble key={turn.parent ?? ""} turn={turn} isLast={turn === last} isBusy={isBusy} />
          ))}
        </ol>
      </section>
      {unkept.value !== null && (
        <p class="problem" role="status">
          {UNKEPT[unkept.value]}
        </p>
      )}
      <Composer
        label="Message"
        placeholder="Ask something"
        draft="chat"
        busy={isBusy}
        onSend={ask}
        onStop={() => stop(chosen.value)}
      />
    </div>
  );
}
