/** Tokens of all answers of a batch, in the words of OpenAI's batches. */

/** The `usage` of answers of any endpoint. */
interface AnswerUsage {
  readonly prompt_tokens?: number;
  readonly prompt_tokens_details?: { readonly cached_tokens?: number };
  readonly completion_tokens?: number;
  readonly input_tokens?: number;
  readonly input_tokens_details?: { readonly cached_tokens?: number };
  readonly output_tokens?: number;
}

export class BatchUsage {
  #input = 0;
  #cached = 0;
  #output = 0;

  /** @param body Of one answer. */
  add(body: unknown): void {
    const { usage } = body as { readonly usage?: AnswerUsage };
    this.#input += usage?.prompt_tokens ?? usage?.input_tokens ?? 0;
    this.#output += usage?.completion_tokens ?? usage?.output_tokens ?? 0;
    const { cached_tokens = 0 } = usage?.prompt_tokens_details ?? usage?.input_tokens_details ?? {};
    this.#cached += cached_tokens;
  }

  toJSON() {
    return {
      input_tokens: this.#input,
      input_tokens_details: { cached_tokens: this.#cached },
      output_tokens: this.#output,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: this.#input + this.#output,
    };
  }
}
