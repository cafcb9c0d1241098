/** What callers ask of a model, checked and brought into the form in which it travels to the engine's worker. */
import { MillraceError } from "../errors.js";
import { type AnswerFormat, checkedFormat } from "../sampling/grammar/format.js";
import { SAMPLING_OPTION_NAMES, type SamplingOptions, validateSamplingOptions } from "../sampling/options.js";
import type { ChatMessage } from "../tokenizer/chat.js";
import type { Tool, ToolChoice } from "../tokenizer/tools/contract.js";
import { invalid, oneOf, refuseUnknown, wholeNumber } from "./options.js";
import type { AnswerParameters, ModelInfo, Prompt, RenderOptions } from "./protocol.js";
import { type ToolUse, toolUse } from "./tool-use.js";

/** How one answer is made. */
export interface AnswerOptions extends SamplingOptions {
  /**
   * Most tokens to generate. Default: as many as the context holds. Infinity needs a policy such as `window`, and an
   * answer that is iterated is then not kept for its `result` as well: see `Generation`.
   */
  readonly maxTokens?: number;
  /** Text that ends the answer and is no part of it. */
  readonly stop?: string | readonly string[];
  /** Go on past the model's end tokens. Default false. */
  readonly ignoreEos?: boolean;
  /** Hold the answer to a form: JSON, a schema, a grammar, a regular expression. Needs a bounded `maxTokens`. */
  readonly format?: AnswerFormat;
  /**
   * Functions that the model may call: its calls come as `toolCalls` of pieces and result, and are no part of the text.
   * `Model.generate` tells the model of them; in a session, `append` does (`chat: { tools }`).
   */
  readonly tools?: readonly Tool[];
  /** Default "auto". */
  readonly toolChoice?: ToolChoice;
  /** With `toolChoice` "required" or strict tools: whether more than one call may be made. Default true. */
  readonly parallelToolCalls?: boolean;
  /** Ends the generation with ABORTED, after what came before. */
  readonly signal?: AbortSignal;
}

/** The names in `AnswerOptions`, to be refused with a caller's own. */
export const ANSWER_OPTIONS: readonly (keyof AnswerOptions)[] = [
  "maxTokens",
  "stop",
  "ignoreEos",
  "format",
  "tools",
  "toolChoice",
  "parallelToolCalls",
  "signal",
  ...SAMPLING_OPTION_NAMES,
];
const RENDER_OPTIONS: readonly (keyof RenderOptions)[] = ["addGenerationPrompt", "tools", "variables"];

/** What can be continued: text, token ids, or a conversation. */
export type PromptInput = string | readonly number[] | Int32Array | readonly ChatMessage[];

/** What an answer's options come to. */
export interface CheckedAnswer {
  readonly parameters: AnswerParameters;
  /** Null where there are no tools. */
  readonly tools: ToolUse | null;
}

/** Throws INVALID_ARGUMENT for wrong options; unknown ones are the caller's to refuse. */
export function checkedAnswer(options: AnswerOptions, info: ModelInfo): CheckedAnswer {
  const { maxTokens, stop = [], ignoreEos = false, signal, format: asked, ...rest } = options;
  const { tools: listed, toolChoice, parallelToolCalls, ...sampling } = rest;
  validateSamplingOptions(sampling, info.vocabularySize);
  if (maxTokens !== Number.POSITIVE_INFINITY) wholeNumber("maxTokens", maxTokens, 1);
  const stops = typeof stop === "string" ? [stop] : stop;
  if (!Array.isArray(stops) || stops.some((text) => typeof text !== "string" || text === "")) {
    throw invalid("stop", stop, "a text or a list of texts, none of them empty");
  }
  if (typeof ignoreEos !== "boolean") throw invalid("ignoreEos", ignoreEos, "true or false");
  checkSignal(signal);
  const own = asked === undefined ? null : checkedFormat(asked);
  const tools = toolUse(
    {
      ...(own && { format: own }),
      ...(listed === undefined ? {} : { tools: listed }),
      ...(toolChoice === undefined ? {} : { toolChoice }),
      ...(parallelToolCalls === undefined ? {} : { parallelToolCalls }),
    },
    info,
  );
  const format = tools ? tools.format : own;
  if (format && ignoreEos) {
    throw invalid("ignoreEos", ignoreEos, "false, since an answer with a format ends when that is complete");
  }
  if (format && maxTokens === Number.POSITIVE_INFINITY) {
    throw invalid("maxTokens", maxTokens, "a whole number, since an answer with a format has an end");
  }
  const parameters = {
    sampling,
    stop: [...stops],
    ignoreEos,
    ...(maxTokens === undefined ? {} : { maxTokens }),
    ...(format ? { format } : {}),
  };
  return { parameters, tools };
}

/** Throws INVALID_ARGUMENT for what is no prompt, INVALID_TOKEN for ids outside the vocabulary. */
export function checkedPrompt(
  prompt: PromptInput,
  chat: RenderOptions | undefined,
  vocabularySize: number,
): Prompt {
  const isList = Array.isArray(prompt);
  if (isList && prompt.some((item) => typeof item === "object")) return conversation(prompt, chat ?? {});
  if (chat !== undefined) throw invalid("chat", chat, "a conversation as the prompt, or no such option");
  if (typeof prompt === "string") return prompt;
  if (isList || prompt instanceof Int32Array) {
    return checkedTokens(prompt as ArrayLike<unknown>, vocabularySize);
  }
  throw invalid("prompt", prompt, "a text, token ids or chat messages");
}

/** How a prompt is rendered so that the model is told of tools; text and ids are as they are. */
export function withTools(
  prompt: PromptInput,
  chat: RenderOptions | undefined,
  { told }: ToolUse,
): RenderOptions | undefined {
  if (chat?.tools !== undefined)
    throw invalid("chat.tools", chat.tools, "none beside tools, which are told too");
  const isConversation = Array.isArray(prompt) && prompt.some((item) => typeof item === "object");
  return isConversation ? { ...chat, tools: told } : chat;
}

/** Throws INVALID_ARGUMENT for what is no list, INVALID_TOKEN for ids outside the vocabulary. */
export function checkedTokens(tokens: ArrayLike<unknown>, vocabularySize: number): Int32Array {
  if (!Array.isArray(tokens) && !(tokens instanceof Int32Array)) {
    throw invalid("tokens", tokens, "a list of token ids");
  }
  const ids = new Int32Array(tokens.length);
  for (let at = 0; at < ids.length; at++) {
    const id = tokens[at];
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabularySize) {
      throw new MillraceError(
        "INVALID_TOKEN",
        `Token ${at} is ${String(id)}; this model's ids are whole numbers from 0 to ${vocabularySize - 1}.`,
        { at, got: String(id), vocabularySize },
      );
    }
    ids[at] = id;
  }
  return ids;
}

/** Throws INVALID_ARGUMENT for what are no messages, or unknown options. */
export function conversation(
  messages: readonly unknown[],
  options: RenderOptions,
): { messages: readonly ChatMessage[]; options: RenderOptions } {
  refuseUnknown("chat", options, RENDER_OPTIONS);
  const expected = "chat messages: a list of { role, content }, both strings";
  if (!Array.isArray(messages) || messages.length === 0) throw invalid("messages", messages, expected);
  for (const message of messages as readonly (Partial<ChatMessage> | null)[]) {
    if (typeof message?.role !== "string" || typeof message.content !== "string") {
      throw invalid("messages", message, expected);
    }
  }
  return { messages, options };
}

/** The adapter that a call names, as a part of its parameters. Throws INVALID_ARGUMENT for one that is not there. */
export function namedAdapter(name: unknown, { adapters }: ModelInfo): { adapter?: string } {
  if (name !== undefined && adapters.length === 0) {
    throw invalid("adapter", name, "none, since the model was opened without adapters");
  }
  const adapter = oneOf("adapter", name, adapters);
  return adapter === undefined ? {} : { adapter };
}

export function checkSignal(signal: unknown): void {
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw invalid("signal", signal, "an AbortSignal");
}
