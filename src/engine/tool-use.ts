/** What a caller's tools come to: what the model is told, what its answer is held to, and who takes its calls out. */
import { MillraceError } from "../errors.js";
import { type AnswerFormat, checkedSchema, type FormatSpec } from "../sampling/grammar/format.js";
import type { Tool, ToolChoice, ToolParser, ToolStructure } from "../tokenizer/tools/contract.js";
import { templateTool } from "../tokenizer/tools/conversation.js";
import { TOOL_FORMATS } from "../tokenizer/tools/resolve.js";
import { invalid, refuseUnknown } from "./options.js";
import type { ModelInfo } from "./protocol.js";

/** The part of an answer's options that is about tools. */
export interface ToolOptions {
  readonly tools?: readonly Tool[];
  readonly toolChoice?: ToolChoice;
  readonly parallelToolCalls?: boolean;
  readonly format?: AnswerFormat;
}

export interface ToolUse {
  /** The tools as chat templates expect them. */
  readonly told: readonly unknown[];
  /** What the answer is held to, the caller's format included; null: nothing. */
  readonly format: FormatSpec | null;
  /** Takes calls out of the answer; null where none are to be made. */
  readonly parser: (() => ToolParser) | null;
}

/**
 * Null where there are no tools. Throws INVALID_ARGUMENT for what are none, for a choice that none of them answers to, and
 * for a format beside calls that are required.
 */
export function toolUse(options: ToolOptions, { tokenizer }: Pick<ModelInfo, "tokenizer">): ToolUse | null {
  const { toolChoice = "auto", parallelToolCalls = true, format = null } = options;
  const tools = checkedTools(options.tools ?? []);
  const named = typeof toolChoice === "object" && toolChoice !== null ? toolChoice : null;
  if (named) refuseUnknown("toolChoice", named, ["name"]);
  else if (typeof toolChoice !== "string" || !["auto", "none", "required"].includes(toolChoice)) {
    throw invalid("toolChoice", toolChoice, '"auto", "none", "required" or { name } of a tool');
  }
  if (typeof parallelToolCalls !== "boolean") {
    throw invalid("parallelToolCalls", parallelToolCalls, "true or false");
  }
  const isForced = named !== null || toolChoice === "required";
  const callable = named ? tools.filter(({ name }) => name === named.name) : tools;
  if (isForced && callable.length === 0) {
    const names = tools.map(({ name }) => `"${name}"`).join(", ");
    throw invalid(
      "toolChoice",
      toolChoice,
      tools.length > 0 ? `one of the tools ${names}` : "tools to choose of",
    );
  }
  if (tools.length === 0) return null;
  if (tokenizer.toolFormat === null)
    throw invalid("tools", `${tools.length} tools`, "none, since the model has no tokenizer");
  if (isForced && format) {
    throw invalid("format", format, "none where a call is required, since calls have a form of their own");
  }
  const told = tools.map(templateTool);
  if (toolChoice === "none") return { told, format, parser: null };
  const { calls, among, parser } = TOOL_FORMATS[tokenizer.toolFormat];
  const several = parallelToolCalls && !named;
  const structure = (tag: ToolStructure): FormatSpec => ({
    type: "structure",
    tag: JSON.stringify({ type: "structural_tag", format: tag }),
  });
  const heldTo = (): FormatSpec | null => {
    if (isForced) return structure(calls(callable, several));
    // What stands beside something else must have an end of its own: one call.
    if (format) return structure({ type: "or", elements: [calls(tools, false), structureOf(format)] });
    const mixed = tools.some(({ strict }) => strict) ? among(tools, several) : null;
    return mixed && structure(mixed);
  };
  const names = new Set(tools.map(({ name }) => name));
  return { told, format: heldTo(), parser: () => parser(names) };
}

/** `tools` as plain data. */
function checkedTools(tools: unknown): Tool[] {
  if (!Array.isArray(tools))
    throw invalid("tools", tools, "a list of tools: { name, description, parameters }");
  const seen = new Set<string>();
  return tools.map((tool: Record<string, unknown>, i) => {
    refuseUnknown(`tools[${i}]`, tool, ["name", "description", "parameters", "strict"]);
    const { name, description, parameters, strict } = tool;
    if (typeof name !== "string" || !/^[\w.:-]{1,128}$/.test(name)) {
      throw invalid(`tools[${i}].name`, name, 'at most 128 letters, digits, "_", "-", "." and ":"');
    }
    if (seen.has(name)) throw invalid(`tools[${i}].name`, name, "a name of its own");
    seen.add(name);
    if (description !== undefined && typeof description !== "string") {
      throw invalid(`tools[${i}].description`, description, "a text");
    }
    if (strict !== undefined && typeof strict !== "boolean") {
      throw invalid(`tools[${i}].strict`, strict, "true or false");
    }
    const schema = parameters === undefined ? undefined : checkedSchema(`tools[${i}].parameters`, parameters);
    if (typeof schema === "boolean")
      throw invalid(`tools[${i}].parameters`, schema, "the schema of an object");
    return {
      name,
      ...(description === undefined ? {} : { description }),
      ...(schema === undefined ? {} : { parameters: schema }),
      ...(strict === undefined ? {} : { strict }),
    };
  });
}

/** A format as a part of a structural tag. */
function structureOf(format: AnswerFormat): ToolStructure {
  switch (format.type) {
    case "json":
      return { type: "json_schema", json_schema: { type: ["object", "array"] } };
    case "json-schema":
      return { type: "json_schema", json_schema: format.schema };
    case "grammar":
      return { type: "grammar", grammar: format.ebnf };
    case "regex":
      return { type: "regex", pattern: format.pattern };
    default:
      throw new MillraceError("INTERNAL", `A format that nobody knows: ${JSON.stringify(format)}.`);
  }
}
