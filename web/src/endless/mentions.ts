/** What the log has said of things and where they are, so that the page can propose a question about what is long past. */
import { PLACES, THINGS } from "../../../src/world/vocabulary.js";

const THING = new Set(THINGS);
const PLACE = new Set(PLACES.map(({ name }) => name));

export class Mentions {
  /** Things by when they were mentioned last, longest ago first. */
  readonly #last = new Map<string, { readonly at: number; readonly isPlaced: boolean }>();
  /** The beginning of a sentence that has not ended. */
  #open = "";

  /** Reads on: `text` begins at token `at` of the stream. */
  read(at: number, text: string): void {
    const unread = this.#open + text;
    const sentences = unread.match(/[^.!?]*[.!?]+["\s]+/g) ?? [];
    this.#open = unread.slice(sentences.join("").length);
    for (const sentence of sentences) {
      const words = sentence.toLowerCase().match(/[a-z]+/g) ?? [];
      const isPlaced = words.some((word) => PLACE.has(word));
      for (const [i, word] of words.entries()) {
        const thing = `${word} ${words[i + 1]}`;
        if (!THING.has(thing)) continue;
        this.#last.delete(thing);
        this.#last.set(thing, { at, isPlaced });
      }
    }
  }

  /** The thing that was put somewhere before token `before` and not mentioned since, the longest ago; null: there is none. */
  oldest(before: number): string | null {
    for (const [thing, { at, isPlaced }] of this.#last) {
      if (at >= before) return null;
      if (isPlaced) return thing;
    }
    return null;
  }
}
