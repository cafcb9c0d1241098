import { useSignal } from "@preact/signals";
import DOMPurify from "dompurify";
import { marked } from "marked";
import { useMemo } from "preact/hooks";
import { count } from "../format.js";
import type { Turn } from "./conversations.js";

interface Props {
  readonly turn: Turn;
  /** Answers anew, a question with other words; null while another answer is under way. */
  readonly onAgain: ((text?: string) => void) | null;
}

/** A question or an answer, with what can be done about it. */
export function Bubble({ turn, onAgain }: Props) {
  const { role, content, end } = turn;
  const editing = useSignal<string | null>(null);
  const isAnswer = role === "assistant";

  return (
    <li class={`turn ${role}`} aria-label={isAnswer ? "Answer" : "Question"}>
      {editing.value === null ? (
        <Text content={content} marked={isAnswer} />
      ) : (
        <form
          class="edit"
          onSubmit={(event) => {
            event.preventDefault();
            const text = editing.value?.trim() ?? "";
            editing.value = null;
            if (text !== "") onAgain?.(text);
          }}
        >
          <textarea
            aria-label="Question in other words"
            value={editing.value}
            onInput={({ currentTarget }) => {
              editing.value = currentTarget.value;
            }}
          />
          <button type="submit">Ask</button>
          <button
            type="button"
            class="quiet"
            onClick={() => {
              editing.value = null;
            }}
          >
            Cancel
          </button>
        </form>
      )}
      {end === null && content === "" && <span class="thinking">…</span>}
      {isProblem(end) && (
        <p class="problem" role="alert">
          {end}
        </p>
      )}
      {editing.value === null && end !== null && (
        <div class="about">
          {isAnswer && <span>{figures(turn)}</span>}
          <button type="button" class="quiet" onClick={() => navigator.clipboard?.writeText(content)}>
            Copy
          </button>
          {onAgain && isAnswer && (
            <button type="button" class="quiet" onClick={() => onAgain()}>
              Answer again
            </button>
          )}
          {onAgain && !isAnswer && (
            <button
              type="button"
              class="quiet"
              onClick={() => {
                editing.value = content;
              }}
            >
              Edit
            </button>
          )}
        </div>
      )}
    </li>
  );
}

/** Answers are Markdown, of which nothing runs and nothing is fetched; questions are shown as they were written. */
function Text({ content, marked: isMarked }: { readonly content: string; readonly marked: boolean }) {
  const html = useMemo(() => {
    if (!isMarked) return null;
    const made = marked.parse(content, { async: false, breaks: true });
    return DOMPurify.sanitize(made, {
      FORBID_TAGS: ["img", "video", "audio", "style", "form"],
      FORBID_ATTR: ["style"],
    });
  }, [content, isMarked]);
  if (html === null) return <p class="plain">{content}</p>;
  // Cleaned just above.
  return <div class="text" dangerouslySetInnerHTML={{ __html: html }} />;
}

const isProblem = (end: string | null | undefined): end is string =>
  end !== null && end !== undefined && !["stop", "length", "stopped", "tool_calls"].includes(end);

function figures({ usage, end, firstMs, totalMs }: Turn): string {
  const parts: string[] = [];
  if (usage) {
    const { promptTokens, cachedTokens, completionTokens } = usage;
    const cached = cachedTokens > 0 ? `, ${count(cachedTokens)} of them known` : "";
    parts.push(`${count(promptTokens)} tokens read${cached}, ${count(completionTokens)} written`);
    const ms = (totalMs ?? 0) - (firstMs ?? 0);
    if (completionTokens > 1 && ms > 0) parts.push(`${count((completionTokens - 1) / (ms / 1000))} a second`);
  }
  if (firstMs !== undefined) parts.push(`first after ${count(firstMs)} ms`);
  if (end === "length") parts.push("cut at its longest");
  if (end === "stopped") parts.push("stopped");
  return parts.join(" · ");
}
