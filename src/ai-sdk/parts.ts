/** One answer as the SDK's stream of parts; what is not streamed is gathered from the same parts. */
import { randomUUID } from "node:crypto";
import type { TokenScore } from "../decoding/contract.js";
import type { Generation, GenerationResult } from "../engine/generation.js";
import { finishReason, metadataOf, type PromptTokens, usageOf } from "./answer.js";
import { sdkError } from "./errors.js";
import { AnswerReader, type Said } from "./reader.js";
import type { CallOptions, Content, GenerateResult, StreamPart, Warning } from "./specification.js";

/** An answer that has been asked for. */
export interface Turn {
  readonly generation: Generation;
  readonly warnings: readonly Warning[];
  /** Tokens that the answer started from, once it has ended. */
  promptTokens(result: GenerationResult): PromptTokens;
  /** Told once what became of the answer: all that was said, or null where it did not come to its end. */
  ended?(said: Said | null): void;
}

/**
 * The parts of an answer, the first of them when the model has begun to speak: what is refused is thrown before any.
 * Ending the iteration early breaks off the answer. Throws what `sdkError` makes of what ended it.
 */
export async function* answerParts(
  turn: Turn,
  modelId: string,
  call: CallOptions,
): AsyncGenerator<StreamPart> {
  const { generation, warnings } = turn;
  const reader = new AnswerReader();
  const scores: TokenScore[] = [];
  let told = false;
  try {
    let next = await generation.next();
    yield { type: "stream-start", warnings: [...warnings] };
    yield { type: "response-metadata", id: randomUUID(), timestamp: new Date(), modelId };
    for (; !next.done; next = await generation.next()) {
      const piece = next.value;
      if (call.includeRawChunks) yield { type: "raw", rawValue: piece };
      if (piece.scores) scores.push(...piece.scores);
      yield* reader.push(piece);
    }
    yield* reader.end();
    const result = await generation.result;
    const { said } = reader;
    turn.ended?.(result.finishReason === "aborted" ? null : said);
    told = true;
    yield {
      type: "finish",
      finishReason: finishReason(result, said.toolCalls.length > 0),
      usage: usageOf(result, turn.promptTokens(result)),
      providerMetadata: metadataOf(result, result.scores && scores),
    };
  } catch (error) {
    throw sdkError(error, modelId, call);
  } finally {
    if (!told) turn.ended?.(null);
    await generation.return();
  }
}

/** The parts as a web stream that asks for the next one only when its reader does; cancelling breaks off the answer. */
export async function streamOf(
  turn: Turn,
  modelId: string,
  call: CallOptions,
): Promise<ReadableStream<StreamPart>> {
  const parts = answerParts(turn, modelId, call);
  let ahead: IteratorResult<StreamPart, void> | null = await parts.next();
  return new ReadableStream<StreamPart>(
    {
      async pull(controller) {
        const next = ahead ?? (await parts.next());
        ahead = null;
        if (next.done) controller.close();
        else controller.enqueue(next.value);
      },
      async cancel() {
        // First, since the parts may be waiting for a piece.
        await turn.generation.return();
        await parts.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
}

/** All parts gathered in one. Throws as `answerParts`. */
export async function gathered(turn: Turn, modelId: string, call: CallOptions): Promise<GenerateResult> {
  const content: Content[] = [];
  const texts = new Map<string, { type: "text"; text: string }>();
  const response: GenerateResult["response"] = {};
  let finish: Extract<StreamPart, { type: "finish" }> | null = null;
  for await (const part of answerParts(turn, modelId, call)) {
    switch (part.type) {
      case "text-start": {
        const text = { type: "text" as const, text: "" };
        texts.set(part.id, text);
        content.push(text);
        break;
      }
      case "text-delta":
        texts.get(part.id)!.text += part.delta;
        break;
      case "tool-call":
        content.push(part);
        break;
      case "response-metadata": {
        const { type: _, ...metadata } = part;
        Object.assign(response, metadata);
        break;
      }
      case "finish":
        finish = part;
        break;
    }
  }
  const { finishReason, usage, providerMetadata } = finish!;
  return {
    content,
    finishReason,
    usage,
    warnings: [...turn.warnings],
    response,
    ...(providerMetadata === undefined ? {} : { providerMetadata }),
  };
}
