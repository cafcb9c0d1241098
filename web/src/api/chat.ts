/** Models and chat answers: /v1/models and /v1/chat/completions. */
import type { Tokens } from "../../../src/server/schemas/models.js";
import { events, json } from "./http.js";

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

export interface Sampling {
  readonly temperature: number;
  readonly topP: number;
  readonly maxTokens: number;
}

export interface Usage {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
}

/** What comes of an answer, bit by bit; the last has the reason why it ended and what it took. */
export interface AnswerPart {
  readonly text: string;
  readonly finish: string | null;
  readonly usage: Usage | null;
}

interface Chunk {
  readonly choices: readonly {
    readonly delta: { readonly content?: string | null };
    readonly finish_reason: string | null;
  }[];
  readonly usage?: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
}

export async function listModels(): Promise<readonly string[]> {
  const { data } = await json<{ data: readonly { readonly id: string }[] }>("v1/models");
  return data.map(({ id }) => id);
}

/** The control token of this name; null where the model has none. */
export async function controlToken(model: string, name: string): Promise<number | null> {
  const body = { text: name, add_special: false, parse_special: true };
  const { tokens } = await json<Tokens>(`v1/models/${encodeURIComponent(model)}/tokenize`, { body });
  return tokens.length === 1 ? tokens[0]! : null;
}

export async function* answer(
  model: string,
  messages: readonly Message[],
  { temperature, topP, maxTokens }: Sampling,
  signal: AbortSignal,
): AsyncGenerator<AnswerPart, void> {
  const body = {
    model,
    messages,
    temperature,
    top_p: topP,
    max_completion_tokens: maxTokens,
    stream: true,
    stream_options: { include_usage: true },
  };
  for await (const { choices, usage } of events<Chunk>("v1/chat/completions", { body, signal })) {
    const [choice] = choices;
    yield {
      text: choice?.delta.content ?? "",
      finish: choice?.finish_reason ?? null,
      usage: usage
        ? {
            promptTokens: usage.prompt_tokens,
            cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
            completionTokens: usage.completion_tokens,
          }
        : null,
    };
  }
}
