/** Tokens that stand outside ordinary text: finding their names in a text, and knowing which of them end an answer. */

/** A part of a text: ordinary text, or the token that a special name stands for. */
export type Fragment = string | number;

/**
 * Names of tokens that end an answer in models whose files do not say so. `<|end|>` is left out where `<|return|>`
 * and `<|call|>` exist: there it ends a part of an answer only.
 */
const END_OF_GENERATION_NAMES: readonly string[] = [
  "</s>",
  "<eos>",
  "<EOT>",
  "_<EOT>",
  "[EOT]",
  "[EOS]",
  "<|eot_id|>",
  "<|eom_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<end_of_turn>",
  "<end_of_utterance>",
  "<turn|>",
  "<｜end▁of▁sentence｜>",
  "<|fim_pad|>",
  "<|repo_name|>",
  "<|file_sep|>",
];

/** The end-of-generation ids: those that the file names (`declared`) and those with well-known names. */
export function endOfGenerationIds(
  declared: readonly (number | null)[],
  idOf: (piece: string) => number | undefined,
): Set<number> {
  const ids = new Set(declared.filter((id) => id !== null));
  const endIsInner = idOf("<|return|>") !== undefined && idOf("<|call|>") !== undefined;
  for (const name of END_OF_GENERATION_NAMES) {
    const id = idOf(name);
    if (id !== undefined && !(endIsInner && name === "<|end|>")) ids.add(id);
  }
  return ids;
}

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  id?: number;
}

/**
 * Finds the names of special tokens in a text: the leftmost first, and of those that begin at one place the longest.
 * `stripRight` says for which tokens the white space behind them belongs to them. Time is linear in the text for
 * names of bounded length.
 */
export class SpecialMatcher {
  readonly #root: TrieNode = { next: new Map() };
  readonly #stripRight: (id: number) => boolean;

  constructor(names: Iterable<readonly [name: string, id: number]>, stripRight: (id: number) => boolean) {
    this.#stripRight = stripRight;
    for (const [name, id] of names) {
      if (name === "") continue;
      let node = this.#root;
      for (let i = 0; i < name.length; i++) {
        const unit = name.charCodeAt(i);
        let next = node.next.get(unit);
        if (next === undefined) {
          next = { next: new Map() };
          node.next.set(unit, next);
        }
        node = next;
      }
      node.id ??= id;
    }
  }

  /** The parts of `text` in order; no part is empty text. */
  split(text: string): Fragment[] {
    const root = this.#root.next;
    const fragments: Fragment[] = [];
    let begun = 0;
    let at = 0;
    while (root.size > 0 && at < text.length) {
      let node = root.get(text.charCodeAt(at));
      let end = -1;
      let id = -1;
      for (let i = at + 1; node !== undefined; i++) {
        if (node.id !== undefined) {
          end = i;
          id = node.id;
        }
        node = i < text.length ? node.next.get(text.charCodeAt(i)) : undefined;
      }
      if (end < 0) {
        at++;
        continue;
      }
      if (at > begun) fragments.push(text.slice(begun, at));
      fragments.push(id);
      if (this.#stripRight(id)) while (/^[ \t\n\v\f\r]$/.test(text.charAt(end))) end++;
      at = end;
      begun = end;
    }
    if (begun < text.length) fragments.push(text.slice(begun));
    return fragments;
  }
}
