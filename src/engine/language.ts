/** How a model speaks: text, conversations and options become token ids and decoders. */
import { createPlain, type PlainDecoder, type PlainState } from "../decoding/plain.js";
import { MillraceError } from "../errors.js";
import { type Candidates, createCandidates } from "../sampling/candidates.js";
import type { Constraint } from "../sampling/grammar/constraint.js";
import type { FormatSpec } from "../sampling/grammar/format.js";
import { Grammars, grammarVocabulary } from "../sampling/grammar/grammars.js";
import { createSampler } from "../sampling/sampler.js";
import { createStopMatcher } from "../sampling/stop.js";
import { type ChatMessage, chatFormat, renderChat } from "../tokenizer/chat.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { createDetokenizer } from "../tokenizer/detokenizer.js";
import type { AnswerParameters, Prompt, RenderOptions } from "./protocol.js";

type Conversation = Exclude<Prompt, string | Int32Array>;

/**
 * What stands in a stream before a prompt.
 *   "nothing"  the stream is empty
 *   "text"     text or token ids, no conversation
 *   "turn"     a conversation whose last turn is closed
 *   "answer"   a conversation whose last turn, the assistant's, is still open
 */
export type Before = "nothing" | "text" | "turn" | "answer";

/** What stands for earlier turns when a template is asked what comes after them. */
const EARLIER = "(earlier)";
const EARLIER_TURNS: readonly ChatMessage[] = [
  { role: "user", content: EARLIER },
  { role: "assistant", content: EARLIER },
];

const NO_END: ReadonlySet<number> = new Set();

export class Language {
  readonly tokenizer: Tokenizer | null;
  readonly #noTokenizer: MillraceError | null;
  readonly #vocabularySize: number;
  /** Shared by all samplers: they run one after another. */
  readonly #candidates: Candidates;
  readonly #grammars: Grammars;

  /** `tokenizer`: where there is none that can be used, what to throw when text is asked for. */
  constructor(tokenizer: Tokenizer | MillraceError, vocabularySize: number) {
    this.tokenizer = tokenizer instanceof MillraceError ? null : tokenizer;
    this.#noTokenizer = tokenizer instanceof MillraceError ? tokenizer : null;
    this.#vocabularySize = vocabularySize;
    this.#candidates = createCandidates(vocabularySize);
    this.#grammars = new Grammars(() => grammarVocabulary(this.needTokenizer(), vocabularySize));
  }

  /** Throws UNSUPPORTED_TOKENIZER where there is no tokenizer. */
  needTokenizer(): Tokenizer {
    if (this.tokenizer) return this.tokenizer;
    throw this.#noTokenizer;
  }

  /** Ids of a prompt that stands alone. Throws UNSUPPORTED_TOKENIZER, BAD_TEMPLATE. */
  encode(prompt: Prompt): Int32Array {
    if (prompt instanceof Int32Array) return prompt;
    if (typeof prompt === "string") return this.needTokenizer().encode(prompt);
    // The special tokens, BOS included, stand in the rendered text.
    return this.needTokenizer().encode(this.render(prompt), { addSpecial: false, parseSpecial: true });
  }

  /**
   * Ids of a prompt that goes on from what stands before it in a stream: BOS at the start only, no space put before
   * text, and of a conversation what its template writes after the earlier turns. Throws as `encode`.
   */
  encodeAfter(prompt: Prompt, before: Before): Int32Array {
    if (prompt instanceof Int32Array) return prompt;
    const tokenizer = this.needTokenizer();
    const continues = before !== "nothing";
    if (typeof prompt === "string") {
      if (continues) return tokenizer.encode(prompt, { addSpecial: false, continues });
      const ids = tokenizer.encode(prompt);
      return tokenizer.addsEos ? ids.subarray(0, -1) : ids;
    }
    const text = continues ? this.#renderAfter(prompt, before) : this.render(prompt);
    return tokenizer.encode(text, { addSpecial: false, parseSpecial: true, continues });
  }

  /** The prompt that the model's chat template makes of a conversation. */
  render({ messages, options }: Conversation): string {
    return renderChat(this.needTokenizer(), messages, options);
  }

  /** Stop strings of a conversation whose template has no token that ends a turn. */
  turnEnds(): readonly string[] {
    return this.tokenizer ? chatFormat(this.tokenizer).stop : [];
  }

  /** What holds an answer to `format`, from its beginning or after some tokens of it. Rejects as `Grammars.start`, `encode`. */
  hold(format: FormatSpec, accepted?: readonly number[]): Promise<Constraint> {
    return this.#grammars.start(format, accepted);
  }

  /** Ends what holds answers to formats. */
  dispose(): Promise<void> {
    return this.#grammars.dispose();
  }

  /**
   * What samples an answer. `after`: the tokens before it, at least as many of the last as penalties look at.
   * `constraint` holds it to its format. Throws INVALID_ARGUMENT for options or a state that are none.
   */
  decoder(
    parameters: Omit<AnswerParameters, "maxTokens"> & { readonly maxTokens: number },
    after: Int32Array,
    state?: PlainState,
    constraint?: Constraint,
  ): PlainDecoder {
    const { sampling, stop, ignoreEos, maxTokens } = parameters;
    if (stop.length > 0) this.needTokenizer();
    const { tokenizer } = this;
    // A format counts every space, the first one too.
    const begun = state?.detokenizer ?? (constraint ? { atStart: false, tail: [] } : null);
    return createPlain({
      sampler: createSampler(sampling, this.#vocabularySize, this.#candidates, constraint),
      ...(constraint ? { constraint } : {}),
      prompt: after,
      maxTokens,
      endIds: ignoreEos ? NO_END : (tokenizer?.eosIds ?? NO_END),
      detokenizer: tokenizer && createDetokenizer(tokenizer, begun ? { after, state: begun } : { after }),
      stop: stop.length > 0 ? createStopMatcher(stop) : null,
      ...(state ? { state } : {}),
    });
  }

  #renderAfter({ messages, options }: Conversation, before: Exclude<Before, "nothing">): string {
    if (before === "text") return this.#withoutBos(this.render({ messages, options }));
    const whole = this.render({ messages: [...EARLIER_TURNS, ...messages], options });
    if (before === "answer") {
      const at = whole.lastIndexOf(EARLIER);
      if (at >= 0) return whole.slice(at + EARLIER.length);
    } else {
      const earlier = this.render({
        messages: EARLIER_TURNS,
        options: { ...options, addGenerationPrompt: false } satisfies RenderOptions,
      });
      if (whole.startsWith(earlier)) return whole.slice(earlier.length);
    }
    throw new MillraceError(
      "BAD_TEMPLATE",
      "The model's chat template writes earlier turns anew with every message, so that a conversation cannot be " +
        "continued from where it stands. Append text instead of messages.",
    );
  }

  #withoutBos(text: string): string {
    const { bosId, addsBos } = this.needTokenizer();
    if (!addsBos || bosId === null) return text;
    const bos = this.needTokenizer().decode([bosId], { skipSpecial: false });
    return bos !== "" && text.startsWith(bos) ? text.slice(bos.length) : text;
  }
}
