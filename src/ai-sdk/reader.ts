/** Turns the pieces of an answer, as they come, into the SDK's parts. */
import { randomUUID } from "node:crypto";
import type { Piece } from "../engine/generation.js";
import type { StreamPart } from "./specification.js";

export interface SaidCall {
  readonly id: string;
  readonly name: string;
}

/** All that was said in an answer. */
export interface Said {
  readonly text: string;
  readonly toolCalls: readonly SaidCall[];
}

/** Reads one answer: blocks of text, and calls of tools between and after them. */
export class AnswerReader {
  #text = "";
  readonly #toolCalls: SaidCall[] = [];
  /** The block of text that is open. */
  #block: string | null = null;
  #numBlocks = 0;

  /** Parts that `piece` gives. */
  push({ text, toolCalls = [] }: Pick<Piece, "text" | "toolCalls">): StreamPart[] {
    const parts: StreamPart[] = [];
    if (text !== "") {
      if (this.#block === null) {
        this.#block = String(this.#numBlocks++);
        parts.push({ type: "text-start", id: this.#block });
      }
      this.#text += text;
      parts.push({ type: "text-delta", id: this.#block, delta: text });
    }
    for (const { name, arguments: input } of toolCalls) {
      const id = `call_${randomUUID()}`;
      this.#toolCalls.push({ id, name });
      parts.push(
        ...this.end(),
        { type: "tool-input-start", id, toolName: name },
        { type: "tool-input-delta", id, delta: input },
        { type: "tool-input-end", id },
        { type: "tool-call", toolCallId: id, toolName: name, input },
      );
    }
    return parts;
  }

  /** Closes what is open. */
  end(): StreamPart[] {
    const id = this.#block;
    this.#block = null;
    return id === null ? [] : [{ type: "text-end", id }];
  }

  /** What was said until now. */
  get said(): Said {
    return { text: this.#text, toolCalls: this.#toolCalls };
  }
}
