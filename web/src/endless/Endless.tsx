import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Composer } from "../chat/Composer.js";
import { bytes, count } from "../format.js";
import {
  type Entry,
  entries,
  info,
  memory,
  pause,
  problem,
  question,
  report,
  start,
  state,
  stop,
} from "./endless.js";

const MEMORIES = ["1.5 MiB", "2 MiB", "4 MiB", "16 MiB"];
const SUGGESTIONS = ["What is the weather like?", "What is happening at the pier?", "Who is the baker?"];

/** The log that writes itself, and what is asked about it. */
export function Endless({ model }: { readonly model: string }) {
  const list = useRef<HTMLDivElement>(null);
  const follows = useSignal(true);
  const shown = entries.value;
  useEffect(() => {
    if (follows.value && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [shown]);
  const isOn = state.value !== "off" && state.value !== "failed";

  return (
    <section class="endless" aria-label="The endless log">
      <header class="controls">
        {isOn ? (
          <>
            <button
              type="button"
              onClick={() => pause(state.value === "running")}
              disabled={state.value === "starting"}
            >
              {state.value === "paused" ? "Go on" : "Pause"}
            </button>
            <button type="button" class="quiet" onClick={stop}>
              End
            </button>
          </>
        ) : (
          <>
            <label>
              Memory{" "}
              <select
                value={memory.value}
                onChange={({ currentTarget }) => {
                  memory.value = currentTarget.value;
                }}
              >
                {MEMORIES.map((size) => (
                  <option key={size}>{size}</option>
                ))}
              </select>
            </label>
            <button type="button" onClick={() => start(model)}>
              Start the log
            </button>
          </>
        )}
        {report.value && info.value && (
          <span class="figures" aria-live="off">
            {count(report.value.seen)} tokens in {bytes(report.value.bytes)} of{" "}
            {bytes(info.value.memory_bytes)}
          </span>
        )}
      </header>
      {problem.value !== null && (
        <p class="problem" role="alert">
          {problem.value}
        </p>
      )}
      <div
        class="log"
        ref={list}
        onScroll={({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) => {
          follows.value = scrollHeight - scrollTop - clientHeight < 60;
        }}
      >
        {shown.length === 0 && (
          <p class="lead">
            The log of a small harbour town, written by the model without end. Its memory stays as large as it
            is now; what leaves it is put on disk, and comes back when a question is about it. Ask at any
            time.
          </p>
        )}
        {shown.map((entry) => (
          <LogEntry key={entry.id} entry={entry} />
        ))}
      </div>
      {isOn && (
        <>
          <div class="chips">
            {SUGGESTIONS.map((text) => (
              <button key={text} type="button" class="chip" onClick={() => question(text)}>
                {text}
              </button>
            ))}
          </div>
          <Composer
            label="Question about the log"
            placeholder="Ask about the log"
            busy={false}
            onSend={question}
            onStop={() => {}}
          />
        </>
      )}
    </section>
  );
}

function LogEntry({ entry: { kind, text, blocks } }: { readonly entry: Entry }) {
  if (kind === "log") return <p class="told">{text}</p>;
  return (
    <div class={`turn ${kind === "answer" ? "assistant" : "user"}`}>
      <p class="plain">{text === "" ? "…" : text}</p>
      {blocks && blocks.length > 0 && (
        <details class="blocks">
          <summary>
            {blocks.length === 1 ? "One stored block" : `${blocks.length} stored blocks`} came back from disk
          </summary>
          <ul>
            {blocks.map(({ first, last, text: said }) => (
              <li key={first}>
                <span>
                  tokens {count(first)} to {count(last)}
                </span>
                <q>{said}</q>
              </li>
            ))}
          </ul>
        </details>
      )}
    </div>
  );
}
