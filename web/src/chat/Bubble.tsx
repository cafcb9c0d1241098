import { useSignal } from "@preact/signals";
import { announce } from "../announce.js";
import { copy } from "../copy.js";
import { focusComposer, useFocusAfter } from "../focus.js";
import { count } from "../format.js";
import { Answer } from "./Answer.js";
import { again, isProblem } from "./conversations.js";
import { Edit } from "./Edit.js";
import type { Turn } from "./tree.js";
import { Versions } from "./Versions.js";

interface Props {
  readonly turn: Turn;
  /** The last that is shown. */
  readonly isLast: boolean;
  /** An answer is under way, so none can be asked for. */
  readonly isBusy: boolean;
}

/** A question or an answer, with what can be done about it. */
export function Bubble({ turn, isLast, isBusy }: Props) {
  const { role, content, end } = turn;
  const isEditing = useSignal(false);
  const item = useFocusAfter<HTMLLIElement>(isEditing.value, (part) =>
    part.querySelector<HTMLElement>(".to-edit")?.focus(),
  );
  const isAnswer = role === "assistant";
  const isComing = isAnswer && isBusy && isLast;
  // The button that was pressed is gone while an answer is written.
  const ask = (text?: string) => {
    const wasPressedByKey = document.activeElement?.matches(":focus-visible");
    isEditing.value = false;
    void again(turn, text);
    if (wasPressedByKey) focusComposer();
  };

  return (
    <li ref={item} class={`turn ${role}`} aria-label={isAnswer ? "Answer" : "Question"}>
      {isEditing.value ? (
        <Edit
          text={content}
          onAsk={ask}
          onCancel={() => {
            isEditing.value = false;
          }}
        />
      ) : isAnswer ? (
        <Answer content={content} />
      ) : (
        <p class="plain">{content}</p>
      )}
      {isComing && content === "" && (
        <span class="thinking" aria-hidden="true">
          …
        </span>
      )}
      {isProblem(end) && <p class="problem">{end}</p>}
      {!isEditing.value && !isComing && (
        <div class="about">
          {isAnswer && <span>{figures(turn)}</span>}
          <Versions turn={turn} isBusy={isBusy} />
          {content !== "" && <Copy text={content} />}
          {!isBusy && (isAnswer || isLast) && (
            <button type="button" class="quiet" onClick={() => ask()}>
              {isAnswer ? "Answer again" : "Answer"}
            </button>
          )}
          {!isBusy && !isAnswer && (
            <button
              type="button"
              class="quiet to-edit"
              onClick={() => {
                isEditing.value = true;
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

function Copy({ text }: { readonly text: string }) {
  const words = useSignal("Copy");
  return (
    <button
      type="button"
      class="quiet"
      onClick={async () => {
        words.value = (await copy(text)) ? "Copied" : "Not allowed here";
        announce(words.value);
        setTimeout(() => {
          words.value = "Copy";
        }, 2000);
      }}
    >
      {words.value}
    </button>
  );
}

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
  if (end === null) parts.push("not whole");
  return parts.join(" · ");
}
