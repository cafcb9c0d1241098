/** Sentences from templates. */

/** A template cut at its slots: literal, slot name, literal, … */
export type Template = readonly string[];

/** "{who} went to {to}." and so on; a template begins in lower case and gets its capital when it is filled. */
export const templates = (...sources: readonly string[]): readonly Template[] =>
  sources.map((source) => source.split(/[{}]/));

/** Puts values into slots. A slot that has no value is a mistake in the template's caller. */
export function fill(template: Template, values: Readonly<Record<string, string>>): string {
  let text = template[0]!;
  for (let i = 1; i < template.length; i += 2) text += values[template[i]!]! + template[i + 1]!;
  return text;
}

/** First letter in upper case, also behind a quotation mark. */
export function capitalise(text: string): string {
  const at = text.startsWith('"') ? 1 : 0;
  return text.slice(0, at) + text.charAt(at).toUpperCase() + text.slice(at + 1);
}

/** Words and marks: near enough to the tokens of a tokenizer that knows the words whole. */
export function countWords(text: string): number {
  let count = 0;
  let inWord = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i) | 32;
    const letter = code >= 97 && code <= 122;
    if (letter ? !inWord : text.charCodeAt(i) !== 32) count++;
    inWord = letter;
  }
  return count;
}
