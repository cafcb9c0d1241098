/** What form an answer may be held to, and the checks of it that need no compiler. */
import { MillraceError } from "../../errors.js";

/** A JSON Schema: an object, or true for anything at all. */
export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

/**
 * The form that an answer is held to: tokens that would leave it cannot be drawn, and an end token only where it is
 * complete. An answer that ends for another reason ("length", "stop-string", ...) may be incomplete.
 *
 *   "json"         any JSON object or array
 *   "json-schema"  JSON that fits a schema. `strict` (default true): no properties and items but those that it names,
 *                  where it does not say itself. Draft 2020-12 as far as xgrammar knows it: `not`, `uniqueItems`,
 *                  `multipleOf`, `contains`, `dependent*` and `if` are not held to
 *   "grammar"      a context-free grammar in EBNF as of GBNF: rules `name ::= "text" [a-z]+ other*`, from `root` on
 *   "regex"        the whole answer fits an ECMAScript regular expression; no look-around, no references back
 *
 * JSON comes on one line, with ", " and ": " between its parts.
 */
export type AnswerFormat =
  | { readonly type: "json" }
  | { readonly type: "json-schema"; readonly schema: JsonSchema; readonly strict?: boolean }
  | { readonly type: "grammar"; readonly ebnf: string }
  | { readonly type: "regex"; readonly pattern: string };

/** What the compiler takes: an `AnswerFormat`, or text among which structures may stand (xgrammar's structural tags). */
export type FormatSpec = AnswerFormat | { readonly type: "structure"; readonly tag: string };

/** Characters of a schema or grammar. What people write is far below; what is above would be a burden to compile. */
const MOST_CHARACTERS = 2 ** 20;

const EXPECTED: Readonly<Record<AnswerFormat["type"], readonly string[]>> = {
  json: [],
  "json-schema": ["schema", "strict"],
  grammar: ["ebnf"],
  regex: ["pattern"],
};

/**
 * `format` with its schema as plain data. Throws INVALID_ARGUMENT (details: name, got, expected) for what is no format;
 * whether a schema, grammar or expression is sound, its compiler says: see `Grammars.start`.
 */
export function checkedFormat(format: unknown): AnswerFormat {
  const types = Object.keys(EXPECTED) as AnswerFormat["type"][];
  const list = types.map((type) => `"${type}"`).join(", ");
  if (typeof format !== "object" || format === null || Array.isArray(format)) {
    throw refused("format", typeof format, `an object whose type is one of ${list}`);
  }
  const given = format as Record<string, unknown>;
  const type = types.find((name) => name === given.type);
  if (type === undefined) throw refused("format.type", show(given.type), `one of ${list}`);
  const known = ["type", ...EXPECTED[type]];
  const unknown = Object.keys(given).find((name) => !known.includes(name));
  if (unknown !== undefined) throw refused("format", `the key "${unknown}"`, `only ${known.join(", ")}`);
  switch (type) {
    case "json":
      return { type };
    case "json-schema": {
      const { strict } = given;
      if (strict !== undefined && typeof strict !== "boolean") {
        throw refused("format.strict", show(strict), "true or false");
      }
      const schema = checkedSchema("format.schema", given.schema);
      return strict === undefined ? { type, schema } : { type, schema, strict };
    }
    case "grammar":
      return { type, ebnf: checkedText("format.ebnf", given.ebnf, "a grammar in EBNF") };
    case "regex":
      return { type, pattern: checkedText("format.pattern", given.pattern, "a regular expression") };
  }
}

/** A copy of a schema as JSON has it. Throws INVALID_ARGUMENT for what is none, or too large. */
export function checkedSchema(name: string, schema: unknown): JsonSchema {
  const expected = "a JSON Schema: an object, or true";
  if (schema === true) return schema;
  if (typeof schema !== "object" || schema === null || Array.isArray(schema)) {
    throw refused(name, show(schema), expected);
  }
  let text: string;
  try {
    text = JSON.stringify(schema);
  } catch (error) {
    throw refused(name, `an object that is no JSON (${(error as Error).message})`, expected);
  }
  checkLength(name, text);
  return JSON.parse(text) as JsonSchema;
}

function checkedText(name: string, value: unknown, what: string): string {
  if (typeof value !== "string" || value === "") throw refused(name, show(value), `${what}, not empty`);
  checkLength(name, value);
  return value;
}

function checkLength(name: string, text: string): void {
  if (text.length <= MOST_CHARACTERS) return;
  throw refused(name, `${text.length} characters`, `at most ${MOST_CHARACTERS}`);
}

function show(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" && value !== null ? "an object" : String(value);
}

function refused(name: string, got: string, expected: string): MillraceError {
  return new MillraceError("INVALID_ARGUMENT", `${name} is ${got}; expected ${expected}.`, {
    name,
    got,
    expected,
  });
}
