/** Which format of calls a model was taught, as its chat template shows. */
import type { ToolFormat } from "./contract.js";
import { hermes } from "./hermes.js";
import { json } from "./json.js";
import { llama3 } from "./llama3.js";
import { mistral } from "./mistral.js";

export const TOOL_FORMATS = { hermes, llama3, mistral, json } as const satisfies Record<string, ToolFormat>;

export type ToolFormatName = keyof typeof TOOL_FORMATS;

/** Whether the template itself tells the model of tools. Where it does not, `renderChat` does, in Hermes's way. */
export const knowsTools = (template: string): boolean => /\btools\b/.test(template);

/** The format that models of this template answer in. */
export function toolFormatOf(template: string): ToolFormatName {
  if (!knowsTools(template) || template.includes("<tool_call>")) return "hermes";
  if (template.includes("[TOOL_CALLS]")) return "mistral";
  if (template.includes("<|python_tag|>") || template.includes("ipython")) return "llama3";
  return "json";
}
