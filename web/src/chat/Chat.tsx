import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Bubble } from "./Bubble.js";
import { Composer } from "./Composer.js";
import { again, ask, current, stop, unkept, writing } from "./conversations.js";

/** What people ask of the model that comes in the box; others know more. */
const SUGGESTIONS = [
  "Mara put the brass key in the boathouse. Where is the brass key?",
  "What is happening at the pier?",
  "Who are you?",
];

export function Chat() {
  const turns = current.value?.turns ?? [];
  const isWriting = writing.value !== null;
  const end = useRef<HTMLDivElement>(null);
  const follows = useSignal(true);
  const last = turns.at(-1);
  useEffect(() => {
    if (follows.value) end.current?.scrollIntoView({ block: "end" });
  }, [last?.id, last?.content]);

  return (
    <section class="chat" aria-label="Conversation">
      <div
        class="turns"
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
                  <button type="button" onClick={() => ask(text)}>
                    {text}
                  </button>
                </li>
              ))}
            </ul>
          </div>
        )}
        <ol>
          {turns.map((turn) => (
            <Bubble key={turn.id} turn={turn} onAgain={isWriting ? null : (text) => again(turn.id, text)} />
          ))}
        </ol>
        <div ref={end} />
      </div>
      {unkept.value !== null && <p class="problem">{unkept.value}</p>}
      <Composer label="Message" placeholder="Ask something" busy={isWriting} onSend={ask} onStop={stop} />
    </section>
  );
}
