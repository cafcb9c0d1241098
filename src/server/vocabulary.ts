/** Token ids as text, for log-probabilities. */
import type { Model } from "../index.js";

/** Texts that are remembered. */
const MAX_REMEMBERED = 10_000;

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export interface TokenText {
  /** What it reads like on its own; see `isWhole`. */
  readonly token: string;
  /** What it adds to a text in UTF-8; a control token's name. */
  readonly bytes: number[];
}

/** What each token of a model reads like on its own. */
export class Vocabulary {
  readonly #model: Pick<Model, "tokenBytes">;
  readonly #texts = new Map<number, TokenText>();

  constructor(model: Pick<Model, "tokenBytes">) {
    this.#model = model;
  }

  /** One per id, in their order. */
  async texts(ids: readonly number[]): Promise<TokenText[]> {
    return Promise.all(ids.map((id) => this.#texts.get(id) ?? this.#ask(id)));
  }

  async #ask(id: number): Promise<TokenText> {
    const bytes = await this.#model.tokenBytes(id);
    const text = { token: readable(bytes), bytes: [...bytes] };
    if (this.#texts.size >= MAX_REMEMBERED) this.#texts.clear();
    this.#texts.set(id, text);
    return text;
  }
}

/** Whether the token is whole characters; one that is not reads as OpenAI writes it, with its bytes as "\xe2\x82". */
export const isWhole = ({ token, bytes }: TokenText): boolean =>
  Buffer.from(token).equals(Uint8Array.from(bytes));

function readable(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes);
  } catch {
    return Array.from(bytes, (byte) =>
      byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`,
    ).join("");
  }
}
