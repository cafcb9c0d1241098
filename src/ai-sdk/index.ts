/**
 * Millrace as a provider of the AI SDK (`ai`), in this process.
 *
 * ```ts
 * import { generateText } from "ai";
 * import { open } from "millrace";
 * import { millrace } from "millrace/ai-sdk";
 *
 * await using model = await open();
 * const { text } = await generateText({ model: millrace(model), prompt: "Where is the Grey Heron?" });
 * ```
 */
export { millraceEmbedding } from "./embedding-model.js";
export { millrace } from "./model.js";
export { asV3 } from "./previous.js";
export type { MillraceEmbeddingOptions, MillraceProviderOptions } from "./provider-options.js";
export { millraceSession, type SessionModelOptions } from "./session-model.js";
