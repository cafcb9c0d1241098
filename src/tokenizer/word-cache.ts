import { IdList } from "./id-list.js";

const MAX_WORDS = 2 ** 16;
const MAX_LENGTH = 64;

/** Remembers the ids of short words, since text is made of few of them. Holds a bounded number; then begins anew. */
export class WordCache {
  readonly #encode: (word: string, into: IdList) => void;
  readonly #words = new Map<string, Int32Array>();
  readonly #list = new IdList();

  constructor(encode: (word: string, into: IdList) => void) {
    this.#encode = encode;
  }

  encode(word: string, into: IdList): void {
    if (word.length > MAX_LENGTH) {
      this.#encode(word, into);
      return;
    }
    let ids = this.#words.get(word);
    if (ids === undefined) {
      this.#list.clear();
      this.#encode(word, this.#list);
      ids = this.#list.toArray();
      if (this.#words.size >= MAX_WORDS) this.#words.clear();
      this.#words.set(word, ids);
    }
    into.append(ids);
  }
}
