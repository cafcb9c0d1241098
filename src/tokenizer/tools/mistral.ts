/** Calls as Mistral's models write them: `[TOOL_CALLS]` and a list `[{"name": ..., "arguments": ...}]`. */
import { bareParser } from "./bare.js";
import { callTags, oneOrSeveral } from "./call.js";
import type { Tool, ToolFormat, ToolStructure } from "./contract.js";

export const mistral: ToolFormat = {
  parser: (names) => bareParser(names, ["[TOOL_CALLS]"]),
  // The mark is a control token of theirs, which is no text: what is held to be calls goes without.
  calls: (tools, several) =>
    several ? callList(tools) : oneOrSeveral(callTags(tools, "arguments", "[", "]"), "", false),
  among: () => null,
};

/** A list of calls: the library has no end for several tags. */
function callList(tools: readonly Tool[]): ToolStructure {
  const call = ({ name, parameters = { type: "object", properties: {} } }: Tool) => ({
    type: "object",
    properties: { name: { const: name }, arguments: { type: "object", ...parameters } },
    required: ["name", "arguments"],
  });
  return {
    type: "json_schema",
    json_schema: { type: "array", items: { anyOf: tools.map(call) }, minItems: 1 },
  };
}
