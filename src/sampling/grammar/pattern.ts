/**
 * Regular expressions and grammars in the words that xgrammar understands rightly. It takes characters above ASCII in a
 * class for bytes, and the pattern of a JSON string for what stands between the quotes: a quote that it allows would end
 * the string. Here classes are written out, and what JSON escapes is escaped.
 */
import { MillraceError } from "../../errors.js";
import type { FormatSpec, JsonSchema } from "./format.js";

/** Characters above ASCII that a class may have; each becomes an alternative. */
const MOST_WIDE = 512;

/** `spec` with its expressions rewritten. Throws INVALID_ARGUMENT for classes that cannot be. */
export function portable(spec: FormatSpec): FormatSpec {
  switch (spec.type) {
    case "regex":
      return { ...spec, pattern: portableRegex(spec.pattern, false) };
    case "grammar":
      return { ...spec, ebnf: portableGrammar(spec.ebnf) };
    case "json-schema":
      return { ...spec, schema: portableSchema(spec.schema) as JsonSchema };
    case "structure":
      return { ...spec, tag: JSON.stringify(portableTag(JSON.parse(spec.tag))) };
    default:
      return spec;
  }
}

/** What a class holds: ASCII by code, and characters above it. */
interface CharacterClass {
  readonly negated: boolean;
  readonly ascii: boolean[];
  readonly wide: readonly string[];
  /** Where it ends in the text, behind its bracket. */
  readonly end: number;
}

const SHORT: Readonly<Record<string, RegExp>> = { d: /[0-9]/, w: /\w/, s: /[\t\n\v\f\r ]/ };
const CONTROL: Readonly<Record<string, string>> = {
  n: "\n",
  r: "\r",
  t: "\t",
  f: "\f",
  v: "\v",
  b: "\b",
  "0": "\0",
};

/** An expression; `inJson`: of what stands between the quotes of a JSON string. */
function portableRegex(pattern: string, inJson: boolean): string {
  let out = "";
  for (let i = 0; i < pattern.length; ) {
    const c = String.fromCodePoint(pattern.codePointAt(i)!);
    if (c === "[") {
      const found = readClass(pattern, i);
      out += writeClass(found, inJson, escapeRegex, "(", "|", ")");
      i = found.end;
    } else if (c === ".") {
      out += inJson ? '[^"\\\\]' : "[^\\n\\r]";
      i++;
    } else if (c === "\\") {
      const negative = /^[DWS]$/.test(pattern[i + 1] ?? "") ? pattern[i + 1]! : null;
      if (negative) {
        const found = readClass(`[^\\${negative.toLowerCase()}]`, 0);
        out += writeClass(found, inJson, escapeRegex, "(", "|", ")");
        i += 2;
      } else if (/^[dws]$/.test(pattern[i + 1] ?? "")) {
        const found = readClass(`[\\${pattern[i + 1]}]`, 0);
        out += writeClass(found, inJson, escapeRegex, "(", "|", ")");
        i += 2;
      } else if (/^[A-Zac-eg-mo-qyz1-9bB]$/.test(pattern[i + 1] ?? "") && !/^[cxu]$/.test(pattern[i + 1]!)) {
        // Boundaries, references and the like: the compiler says what it thinks of them.
        out += pattern.slice(i, i + 2);
        i += 2;
      } else {
        const { character, end } = readEscape(pattern, i);
        out += literal(character, inJson);
        i = end;
      }
    } else {
      out += /[\^$*+?()|{}\]]/.test(c) ? c : literal(c, inJson);
      i += c.length;
    }
  }
  return out;
}

const literal = (character: string, inJson: boolean): string => {
  if (!inJson) return escapeRegex(character);
  const written = JSON.stringify(character).slice(1, -1);
  return written.length === character.length ? escapeRegex(written) : `(${escapeRegex(written)})`;
};

const escapeRegex = (text: string): string =>
  text
    .replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")
    .replace(/[\n\r\t\f\v]/g, (c) => `\\${"nrtfv"["\n\r\t\f\v".indexOf(c)]}`);

/** Characters above ASCII, which need no escape. */
const quoteEbnf = (wide: string): string => `"${wide}"`;

/** Classes outside of texts and comments. */
function portableGrammar(ebnf: string): string {
  let out = "";
  for (let i = 0; i < ebnf.length; ) {
    const skipped = /^(?:"(?:[^"\\\n]|\\.)*"|#[^\n]*|[^"#[]+)/s.exec(ebnf.slice(i))?.[0];
    if (skipped !== undefined) {
      out += skipped;
      i += skipped.length;
    } else if (ebnf[i] === "[") {
      const found = readClass(ebnf, i);
      const source = ebnf.slice(i, found.end);
      out += found.wide.length === 0 ? source : writeClass(found, false, quoteEbnf, "(", " | ", ")");
      i = found.end;
    } else out += ebnf[i++];
  }
  return out;
}

/** A class that begins at `at`. */
function readClass(text: string, at: number): CharacterClass {
  const ascii: boolean[] = new Array(128).fill(false);
  const wide = new Set<string>();
  let i = at + 1;
  const negated = text[i] === "^";
  if (negated) i++;
  const one = (): { character: string; end: number } | RegExp => {
    if (text[i] !== "\\") {
      const character = String.fromCodePoint(text.codePointAt(i)!);
      return { character, end: i + character.length };
    }
    const short = SHORT[text[i + 1] ?? ""];
    if (short) return short;
    if (/^[DWS]$/.test(text[i + 1] ?? ""))
      throw refused(`\\${text[i + 1]} in a class`, "Write the class out");
    return readEscape(text, i);
  };
  while (i < text.length && text[i] !== "]") {
    const low = one();
    if (low instanceof RegExp) {
      for (let code = 0; code < 128; code++) ascii[code] ||= low.test(String.fromCharCode(code));
      i += 2;
      continue;
    }
    i = low.end;
    let high = low;
    if (text[i] === "-" && i + 1 < text.length && text[i + 1] !== "]") {
      i++;
      const upper = one();
      if (upper instanceof RegExp) throw refused("a range to a class of characters", "Write the class out");
      high = upper;
      i = upper.end;
    }
    const [from, to] = [low.character.codePointAt(0)!, high.character.codePointAt(0)!];
    if (from > to) throw refused(`the range ${low.character}-${high.character}`, "Put the lower end first");
    for (let code = from; code <= Math.min(to, 127); code++) ascii[code] = true;
    for (let code = Math.max(from, 128); code <= to; code++) {
      if (code >= 0xd800 && code <= 0xdfff) continue;
      wide.add(String.fromCodePoint(code));
      if (wide.size > MOST_WIDE) {
        throw refused(
          `a class with more than ${MOST_WIDE} characters above ASCII`,
          "Exclude characters instead",
        );
      }
    }
  }
  if (i >= text.length) throw refused("a class without an end", 'Close it with "]"');
  if (negated && wide.size > 0) {
    throw refused("a class that excludes characters above ASCII", "Exclude ASCII characters only");
  }
  return { negated, ascii, wide: [...wide], end: i + 1 };
}

/** The class, and beside it what it cannot hold, as alternatives. */
function writeClass(
  { negated, ascii, wide }: CharacterClass,
  inJson: boolean,
  write: (text: string) => string,
  open: string,
  or: string,
  close: string,
): string {
  const kept = [...ascii];
  const escaped: string[] = [];
  if (inJson) {
    for (let code = 0; code < 128; code++) {
      const character = String.fromCharCode(code);
      const written = JSON.stringify(character).slice(1, -1);
      if (written.length === 1) continue;
      // Where a class excludes, what it leaves is what needs no escape; else it is written as JSON writes it.
      if (!negated && ascii[code]) escaped.push(written);
      kept[code] = negated;
    }
  }
  let list = "";
  for (let code = 0; code < 128; code++) {
    if (kept[code]) list += `\\x${code.toString(16).padStart(2, "0")}`;
  }
  const alternatives = [
    ...(list === "" && !negated ? [] : [`[${negated ? "^" : ""}${list}]`]),
    ...[...wide, ...escaped].map(write),
  ];
  if (alternatives.length === 0) throw refused("an empty class", "Leave it out");
  return alternatives.length === 1 ? alternatives[0]! : open + alternatives.join(or) + close;
}

/** The character that an escape stands for. */
function readEscape(text: string, at: number): { character: string; end: number } {
  const match = /^\\(?:x([0-9a-f]{2})|u\{([0-9a-f]{1,6})\}|u([0-9a-f]{4})|U([0-9a-f]{8}))/i.exec(
    text.slice(at, at + 12),
  );
  const code = match && Number.parseInt(match[1] ?? match[2] ?? match[3] ?? match[4]!, 16);
  if (match && code !== null && code <= 0x10ffff) {
    return { character: String.fromCodePoint(code), end: at + match[0].length };
  }
  const next = text.codePointAt(at + 1);
  if (next === undefined) throw refused("a \\ at the end", "Write \\\\ for the character");
  const character = String.fromCodePoint(next);
  return { character: CONTROL[character] ?? character, end: at + 1 + character.length };
}

/** Keywords whose values are data, not schemas. */
const DATA = new Set(["const", "enum", "default", "examples"]);

function portableSchema(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(portableSchema);
  if (typeof schema !== "object" || schema === null) return schema;
  return Object.fromEntries(
    Object.entries(schema).map(([key, value]): [string, unknown] => {
      if (DATA.has(key)) return [key, value];
      if (key === "pattern" && typeof value === "string") return [key, portableRegex(value, true)];
      if (key === "patternProperties" && typeof value === "object" && value !== null) {
        const rewritten = Object.entries(value).map(([name, inner]) => [
          portableRegex(name, true),
          portableSchema(inner),
        ]);
        return [key, Object.fromEntries(rewritten)];
      }
      return [key, portableSchema(value)];
    }),
  );
}

/** The parts of a structural tag that are schemas, expressions or grammars. */
function portableTag(tag: unknown): unknown {
  if (Array.isArray(tag)) return tag.map(portableTag);
  if (typeof tag !== "object" || tag === null) return tag;
  const { type, json_schema: schema, pattern, grammar } = tag as Record<string, unknown>;
  if (type === "json_schema") return { ...tag, json_schema: portableSchema(schema) };
  if (type === "regex") return { ...tag, pattern: portableRegex(String(pattern), false) };
  if (type === "grammar") return { ...tag, grammar: portableGrammar(String(grammar)) };
  return Object.fromEntries(Object.entries(tag).map(([key, value]) => [key, portableTag(value)]));
}

function refused(what: string, advice: string): MillraceError {
  return new MillraceError(
    "INVALID_ARGUMENT",
    `The format's expression has ${what}, which cannot be held to. ${advice}.`,
    { name: "format", got: what },
  );
}
