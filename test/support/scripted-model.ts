/** A model that says what a test tells it to, through real generations. */
import type { Emission } from "../../src/decoding/contract.js";
import type { Connection } from "../../src/engine/connection.js";
import { Generation } from "../../src/engine/generation.js";
import type { GenerateOptions, Model } from "../../src/engine/model.js";
import type { GenerationEnd, ModelInfo } from "../../src/engine/protocol.js";
import type { PromptInput } from "../../src/engine/questions.js";
import { MillraceError } from "../../src/errors.js";
import type { ToolCall } from "../../src/tokenizer/tools/contract.js";

export interface ScriptedCall {
  readonly prompt: PromptInput;
  readonly options: GenerateOptions;
}

export interface ScriptedModel extends Pick<Model, "generate" | "info"> {
  /** What it was asked, in order. */
  readonly calls: readonly ScriptedCall[];
  /** Whether each of its generations was cancelled. */
  readonly cancelled: readonly boolean[];
}

export interface ScriptedAnswer extends Partial<GenerationEnd> {
  /** One piece each. */
  readonly pieces: readonly string[];
  /** Come with a last piece without text. */
  readonly toolCalls?: readonly ToolCall[];
}

/** Answers the n-th call with what `script` says of it; an error ends it. */
export function scriptedModel(
  script: (call: ScriptedCall, n: number) => string | ScriptedAnswer | MillraceError,
): ScriptedModel {
  const calls: ScriptedCall[] = [];
  const cancelled: boolean[] = [];
  const connection = {
    hold: <T>(promise: Promise<T>) => promise,
    tell: (message: { type: string; id?: number }) => {
      if (message.type === "cancel") cancelled[message.id!] = true;
    },
  } as unknown as Connection;
  return {
    info: { path: "/models/scripted.gguf" } as ModelInfo,
    calls,
    cancelled,
    generate(prompt, options = {}) {
      const id = calls.length;
      calls.push({ prompt, options });
      cancelled.push(false);
      const said = script(calls[id]!, id);
      const ask = (onPiece: (piece: Emission) => void) => ({
        id,
        result: (async () => {
          await null;
          if (said instanceof MillraceError) throw said;
          const { pieces, toolCalls, ...end }: ScriptedAnswer =
            typeof said === "string" ? { pieces: [...said] } : said;
          for (const text of pieces) {
            if (cancelled[id]) break;
            onPiece({ text, tokens: [1] });
            await null;
          }
          const calling = { text: "", tokens: [], toolCalls };
          if (toolCalls && !cancelled[id]) onPiece(calling);
          return {
            ...END,
            finishReason: cancelled[id] ? "aborted" : "stop",
            generatedTokens: pieces.length,
            ...end,
          } as const;
        })(),
      });
      return new Generation(connection, { ask, answer: { sampling: {} } }, options.signal);
    },
  };
}

const END = {
  seed: 1,
  promptTokens: 10,
  cachedTokens: 4,
  prefillMs: 0,
  decodeMs: 0,
  queueMs: 0,
  cache: { seen: 10, kept: 10, merged: 0, demoted: 0, dropped: 0, bytes: 0, groups: [] },
};
