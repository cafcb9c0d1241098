/** Calls as Llama 3.1 and later write them: `{"name": ..., "parameters": ...}` and nothing else, "; " between several. */
import { bareParser } from "./bare.js";
import { callTags, oneOrSeveral } from "./call.js";
import type { ToolFormat } from "./contract.js";

export const llama3: ToolFormat = {
  parser: (names) => bareParser(names, ["<|python_tag|>"]),
  calls: (tools, several) => oneOrSeveral(callTags(tools, "parameters"), "; ", several),
  among: () => null,
};
