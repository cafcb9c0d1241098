/** Token ids as text, for log-probabilities. */
import type { Model } from "../index.js";

/** Texts that are remembered. */
const MAX_REMEMBERED = 10_000;

export interface TokenText {
  readonly token: string;
  /** UTF-8; null where it is no whole character. */
  readonly bytes: number[] | null;
}

/** What each token of a model reads like on its own. */
export class Vocabulary {
  readonly #model: Pick<Model, "detokenize">;
  readonly #texts = new Map<number, TokenText>();
  readonly #encoder = new TextEncoder();

  constructor(model: Pick<Model, "detokenize">) {
    this.#model = model;
  }

  /** One per id, in their order. */
  async texts(ids: readonly number[]): Promise<TokenText[]> {
    return Promise.all(ids.map((id) => this.#texts.get(id) ?? this.#ask(id)));
  }

  async #ask(id: number): Promise<TokenText> {
    const token = await this.#model.detokenize([id]);
    const bytes = token.includes("\ufffd") ? null : [...this.#encoder.encode(token)];
    const text = { token, bytes };
    if (this.#texts.size >= MAX_REMEMBERED) this.#texts.clear();
    this.#texts.set(id, text);
    return text;
  }
}
