import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Composer } from "../chat/Composer.js";
import { bytes, count } from "../format.js";
import {
  type Entry,
  type Exchange,
  entries,
  exchanges,
  info,
  longAgo,
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
          <div class="welcome">
            <h2>A log without end</h2>
            <p class="lead">
              The model writes the log of a small harbour town, on and on. Its memory never grows; what leaves
              it is put on disk, and comes back when a question is about it. Ask at any time.
            </p>
          </div>
        )}
        {shown.map((entry) => (
          <LogEntry key={entry.id} entry={entry} />
        ))}
      </div>
      {exchanges.value.length > 0 && <Answers list={exchanges.value} />}
      {isOn && (
        <>
          <div class="chips">
            {longAgo.value !== null && (
              <button
                type="button"
                class="chip"
                title="Nothing was said of it for so long that memory no longer holds it"
                onClick={() => question(`Where is the ${longAgo.value} now?`)}
              >
                Where is the {longAgo.value} now?
              </button>
            )}
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

function LogEntry({ entry: { kind, text } }: { readonly entry: Entry }) {
  return kind === "log" ? <p class="told">{text}</p> : <p class="mark">Asked here: {text}</p>;
}

/** What was asked, and answered: it stands still while the log runs on. */
function Answers({ list }: { readonly list: readonly Exchange[] }) {
  const box = useRef<HTMLOListElement>(null);
  const last = list.at(-1);
  useEffect(() => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [last?.id, last?.answer]);
  return (
    <ol class="answers" ref={box} aria-label="Answers" aria-live="polite" aria-busy={!last?.isAnswered}>
      {list.map((exchange) => (
        <Answered key={exchange.id} exchange={exchange} />
      ))}
    </ol>
  );
}

function Answered({ exchange: { question, answer, blocks } }: { readonly exchange: Exchange }) {
  return (
    <li class="exchange">
      <p class="asked">{question}</p>
      <p class="answer">{answer === "" ? "…" : answer}</p>
      {blocks.length > 0 && (
        <details
          class="blocks"
          onToggle={({ currentTarget }) => currentTarget.scrollIntoView({ block: "nearest" })}
        >
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
    </li>
  );
}
