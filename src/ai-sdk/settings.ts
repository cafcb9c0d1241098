/** The SDK's settings in Millrace's words, with a warning for each that has no effect here. */
import type { GenerateOptions } from "../engine/model.js";
import type { AnswerFormat, JsonSchema } from "../sampling/grammar/format.js";
import type { Tool, ToolChoice } from "../tokenizer/tools/contract.js";
import { providerOptions } from "./provider-options.js";
import type { CallOptions, Warning } from "./specification.js";

type FunctionTool = Extract<NonNullable<CallOptions["tools"]>[number], { type: "function" }>;

export interface Settings {
  readonly options: GenerateOptions;
  readonly warnings: readonly Warning[];
}

/** Throws an InvalidArgumentError for provider options that are none; ranges are checked by `Model.generate`. */
export function settingsOf(call: CallOptions): Settings {
  const { variables, logitBias, ...own } = providerOptions(call);
  const warnings: Warning[] = [];
  const { temperature, topP, topK } = call;
  const narrows =
    topP !== undefined || topK !== undefined || own.minP !== undefined || own.typicalP !== undefined;
  if (narrows && temperature === undefined) {
    warnings.push({
      type: "compatibility",
      feature: "temperature",
      details:
        "Without a temperature Millrace takes the most probable token, which leaves nothing to narrow; 1 is used.",
    });
  }
  const thinking = thinkingVariables(call.reasoning, warnings);
  const options = {
    temperature: temperature ?? (narrows ? 1 : undefined),
    topP,
    topK,
    presencePenalty: call.presencePenalty,
    frequencyPenalty: call.frequencyPenalty,
    seed: call.seed,
    maxTokens: call.maxOutputTokens,
    stop: call.stopSequences,
    signal: call.abortSignal,
    logitBias: logitBias as GenerateOptions["logitBias"],
    ...own,
    format: own.format ?? formatOf(call.responseFormat),
    ...toolsOf(call, warnings),
    chat: { variables: { ...thinking, ...variables } },
  };
  return { options: withoutUndefined(options), warnings };
}

/** Without a schema, any JSON object or array. */
function formatOf(asked: CallOptions["responseFormat"]): AnswerFormat | undefined {
  if (asked?.type !== "json") return undefined;
  return asked.schema === undefined
    ? { type: "json" }
    : { type: "json-schema", schema: asked.schema as JsonSchema };
}

/** Tools that a provider runs itself are left out, with a warning: none does here. */
function toolsOf(
  { tools = [], toolChoice }: CallOptions,
  warnings: Warning[],
): Pick<GenerateOptions, "tools" | "toolChoice"> {
  const functions = tools.flatMap((tool): Tool[] => {
    if (tool.type === "function") return [functionTool(tool)];
    warnings.push({ type: "unsupported", feature: `provider tool ${tool.id}` });
    return [];
  });
  if (functions.length === 0) return {};
  return { tools: functions, ...(toolChoice === undefined ? {} : { toolChoice: choiceOf(toolChoice) }) };
}

function functionTool({ name, description, inputSchema, strict }: FunctionTool): Tool {
  return {
    name,
    ...(description === undefined ? {} : { description }),
    parameters: inputSchema as Readonly<Record<string, unknown>>,
    ...(strict === undefined ? {} : { strict }),
  };
}

const choiceOf = (choice: NonNullable<CallOptions["toolChoice"]>): ToolChoice =>
  choice.type === "tool" ? { name: choice.toolName } : choice.type;

/** Templates of models that think read these; what others make of them is nothing. */
function thinkingVariables(effort: CallOptions["reasoning"], warnings: Warning[]): Record<string, unknown> {
  if (effort === undefined || effort === "provider-default") return {};
  warnings.push({
    type: "compatibility",
    feature: "reasoning",
    details:
      "It reaches the chat template as enable_thinking and reasoning_effort; not every model's reads them.",
  });
  return effort === "none" ? { enable_thinking: false } : { enable_thinking: true, reasoning_effort: effort };
}

function withoutUndefined(
  options: { [K in keyof GenerateOptions]: GenerateOptions[K] | undefined },
): GenerateOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
