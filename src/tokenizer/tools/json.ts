/** Calls as most other models write them: JSON with a name and arguments, an object or a list, in a fence or not. */
import { bareParser } from "./bare.js";
import { callTags, oneOrSeveral } from "./call.js";
import type { ToolFormat } from "./contract.js";

export const json: ToolFormat = {
  parser: (names) => bareParser(names, ["```json", "```"], "```"),
  calls: (tools, several) => oneOrSeveral(callTags(tools, "arguments"), "\n", several),
  among: () => null,
};
