/** Tools: functions that a model may ask its caller to call. */

/** A function that the model may call. */
export interface Tool {
  /** Letters, digits, "_", "-", "." and ":"; at most 128 of them. */
  readonly name: string;
  /** What it does, for the model. */
  readonly description?: string;
  /** JSON Schema of its arguments, an object. Default: an object without properties. */
  readonly parameters?: { readonly [keyword: string]: unknown };
  /** Hold the arguments to the schema also where the model is free to call or not. Default false. */
  readonly strict?: boolean;
}

/**
 * Whether the model calls.
 *   "auto"      as it likes; its calls are parsed, and held to their schemas where tools are `strict`
 *   "none"      tools are told to the model, and what it says is text
 *   "required"  at least one call, and nothing else
 *   { name }    one call of this tool
 */
export type ToolChoice = "auto" | "none" | "required" | { readonly name: string };

/** A call that the model made. */
export interface ToolCall {
  readonly name: string;
  /** The arguments as JSON text, as the model wrote them: an object, not checked against the tool's schema. */
  readonly arguments: string;
}

/** What a stretch of an answer turns out to be. */
export interface Parsed {
  /** Text that is no part of a call. */
  readonly text: string;
  /** Calls that have become complete. */
  readonly calls: readonly ToolCall[];
}

/** Takes calls out of an answer as it streams in, whatever it is cut into. Text that may become a call is held back. */
export interface ToolParser {
  push(text: string): Parsed;
  /** The end: what was held back. */
  flush(): Parsed;
}

/** A structural tag of xgrammar: what calls look like, for constrained decoding. */
export type ToolStructure = { readonly type: string; readonly [key: string]: unknown };

/** How a family of models writes calls. */
export interface ToolFormat {
  /** `names`: tools that may be called; a call of anything else is text. */
  parser(names: ReadonlySet<string>): ToolParser;
  /** One call or more (`several`) and nothing else. */
  calls(tools: readonly Tool[], several: boolean): ToolStructure;
  /** Any text with calls in it; null where calls have no mark that tells them from text. */
  among(tools: readonly Tool[], several: boolean): ToolStructure | null;
}
