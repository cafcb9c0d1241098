import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Composer } from "../chat/Composer.js";
import { focusComposer, useFocusAfter } from "../focus.js";
import { bytes, count } from "../format.js";
import { reveal } from "../scroll.js";
import {
  type Entry,
  type Exchange,
  entries,
  exchanges,
  info,
  longAgo,
  memory,
  pause,
  placeInWords,
  problem,
  question,
  report,
  start,
  state,
  stop,
  writer,
} from "./endless.js";

const MEMORIES = ["1.5 MiB", "2 MiB", "4 MiB", "16 MiB"];
const SUGGESTIONS = ["What is the weather like?", "What is happening at the pier?", "Who is the baker?"];

/** The log that writes itself, and what is asked about it. */
export function Endless({ models }: { readonly models: readonly string[] }) {
  const list = useRef<HTMLDivElement>(null);
  const follows = useSignal(true);
  const entriesShown = entries.value;
  useEffect(() => {
    if (follows.value && list.current) list.current.scrollTop = list.current.scrollHeight;
  }, [entriesShown]);
  const isOn = state.value !== "off" && state.value !== "failed";
  const controls = useFocusAfter<HTMLElement>(isOn, (part) => {
    if (isOn) focusComposer();
    else part.querySelector<HTMLElement>(".start")?.focus();
  });
  // The model in the box has learned to write such a log; others may do what they can.
  const model = writer.value ?? models.find((name) => name.startsWith("harbour")) ?? models[0] ?? "default";

  return (
    <section class="endless" aria-label="The endless log">
      <header class="controls" ref={controls}>
        {isOn ? (
          <>
            <button
              key="pause"
              type="button"
              onClick={() => pause(state.value === "running")}
              aria-disabled={state.value === "starting" || state.value === "away"}
            >
              {state.value === "paused" ? "Go on" : "Pause"}
            </button>
            <button key="end" type="button" class="quiet" onClick={stop}>
              End
            </button>
          </>
        ) : (
          <>
            {models.length > 1 && (
              <label key="model">
                Model{" "}
                <select
                  value={model}
                  onChange={({ currentTarget }) => {
                    writer.value = currentTarget.value;
                  }}
                >
                  {models.map((name) => (
                    <option key={name}>{name}</option>
                  ))}
                </select>
              </label>
            )}
            <label key="memory">
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
            <button key="start" type="button" class="start" onClick={() => start(model)}>
              Start the log
            </button>
          </>
        )}
        {report.value && info.value && (
          <span class="figures">
            {count(report.value.seen)} tokens in {bytes(report.value.bytes)} of{" "}
            {bytes(info.value.memory_bytes)}
          </span>
        )}
      </header>
      {state.value === "away" && (
        <p class="problem">The log goes on when the server is back, and then answers what was asked.</p>
      )}
      {problem.value !== null && (
        <p class="problem" role="alert">
          {problem.value}
        </p>
      )}
      <div
        class="log"
        ref={list}
        // It never ends: it is read when the reader goes there.
        role="log"
        aria-live="off"
        aria-label="What the log says"
        tabIndex={entriesShown.length === 0 ? undefined : 0}
        onScroll={({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) => {
          follows.value = scrollHeight - scrollTop - clientHeight < 60;
        }}
      >
        {entriesShown.length === 0 && (
          <div class="welcome">
            <h2>A log without end</h2>
            <p class="lead">
              The model writes the log of a small harbour town, on and on. Its memory never grows; what leaves
              it is put on disk, and comes back when a question is about it. Ask at any time.
            </p>
          </div>
        )}
        {entriesShown.map((entry) => (
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
            draft="endless"
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
  // The question stays in sight, with as much of what belongs to it as there is room for.
  useEffect(() => {
    const newest = box.current?.lastElementChild;
    if (!box.current || !(newest instanceof HTMLElement)) return;
    box.current.scrollTop = newest.offsetTop;
    reveal(newest);
  }, [last?.id, last?.answer, last?.state]);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard.
    <ol class="answers" ref={box} aria-label="Answers" tabIndex={0}>
      {list.map((exchange) => (
        <Answered key={exchange.id} exchange={exchange} />
      ))}
    </ol>
  );
}

const ANSWER = { waiting: "…", answered: "There was no answer.", lost: "The log ended before the answer." };

function Answered({
  exchange: { question, answer, state, blocks, source },
}: {
  readonly exchange: Exchange;
}) {
  const isAnswered = state === "answered";
  return (
    <li class="exchange" aria-busy={state === "waiting"}>
      <p class="asked">{question}</p>
      <p class="answer">{answer || ANSWER[state]}</p>
      {isAnswered && source && (
        <p class="source">
          {placeInWords(source)} <q>{source.sentence}</q>
        </p>
      )}
      {isAnswered && !source && (
        <p class="unsaid">
          {blocks.length === 0
            ? "Nothing came back from disk for it: it is from what is in memory."
            : "None of what came back from disk says it in these words."}
        </p>
      )}
      {isAnswered && blocks.length > 0 && (
        <details class="blocks" onToggle={({ currentTarget }) => reveal(currentTarget)}>
          <summary>
            {blocks.length === 1 ? "The stored block" : `All ${blocks.length} stored blocks`} that came back
          </summary>
          <ul>
            {blocks.map((block) => (
              <li key={block.first} class={block === source?.block ? "says" : ""}>
                <span>
                  tokens {count(block.first)} to {count(block.last)}
                  {block === source?.block && ", which says it"}
                </span>
                <q>{block.text}</q>
              </li>
            ))}
          </ul>
        </details>
      )}
    </li>
  );
}
