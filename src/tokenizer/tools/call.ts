/** What all formats of calls have in common: a JSON object with a name and arguments. */
import type { Tool, ToolCall, ToolStructure } from "./contract.js";

/** The call that an object stands for: its arguments under "arguments" or "parameters"; null where it is none. */
export function callOf(value: unknown, names: ReadonlySet<string>): ToolCall | null {
  if (typeof value !== "object" || value === null) return null;
  const { name, arguments: given, parameters = {} } = value as Record<string, unknown>;
  if (typeof name !== "string" || !names.has(name)) return null;
  let input = given ?? parameters;
  // Some models write the arguments as text of JSON, as OpenAI's API does.
  if (typeof input === "string") {
    try {
      input = JSON.parse(input);
    } catch {
      return null;
    }
  }
  if (typeof input !== "object" || input === null || Array.isArray(input)) return null;
  return { name, arguments: JSON.stringify(input) };
}

/** The calls in JSON text: an object, or a list of them; null where anything in it is no call. */
export function callsIn(text: string, names: ReadonlySet<string>): ToolCall[] | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const calls = (Array.isArray(value) ? value : [value]).map((item) => callOf(item, names));
  return calls.length > 0 && calls.every((call) => call !== null) ? calls : null;
}

/** A call of each of `tools` as a structural tag, between `before` and `after`. */
export function callTags(
  tools: readonly Tool[],
  key: "arguments" | "parameters",
  before = "",
  after = "",
): ToolStructure[] {
  return tools.map(({ name, parameters = { type: "object", properties: {} } }) => ({
    type: "tag",
    begin: `${before}{"name": ${JSON.stringify(name)}, "${key}": `,
    content: { type: "json_schema", json_schema: { type: "object", ...parameters } },
    end: `}${after}`,
  }));
}

/** One of `tags`, or several with a separator between them. */
export function oneOrSeveral(
  tags: readonly ToolStructure[],
  separator: string,
  several: boolean,
): ToolStructure {
  if (!several) return tags.length === 1 ? tags[0]! : { type: "or", elements: tags };
  return { type: "tags_with_separator", tags, separator, at_least_one: true };
}

/** Where the JSON object or list ends that `text` begins with: behind its last bracket, or -1 where that is to come. */
export function jsonEnd(text: string): number {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (inString) {
      if (c === "\\") i++;
      else if (c === '"') inString = false;
    } else if (c === '"') inString = true;
    else if (c === "{" || c === "[") depth++;
    else if ((c === "}" || c === "]") && --depth === 0) return i + 1;
  }
  return -1;
}
