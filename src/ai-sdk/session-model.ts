/**
 * The AI SDK's language model over one endless session. The SDK sends the whole conversation with every call; what stands
 * in the session already is recognised and not run again, so that a call costs what is new in it, however long the
 * stream has become.
 */
import type { GenerateOptions } from "../engine/model.js";
import type { RenderOptions } from "../engine/protocol.js";
import { MillraceError } from "../errors.js";
import type { Session } from "../session/session.js";
import { continuation, type Exchange, type Standing, standing } from "./conversation.js";
import { invalidArgument } from "./errors.js";
import { languageModel } from "./model.js";
import type { Turn } from "./parts.js";
import { type TemplateMessage, templateMessages } from "./prompt.js";
import type { Said } from "./reader.js";
import { settingsOf } from "./settings.js";
import type { CallOptions, SdkModel, SdkPrompt, Warning } from "./specification.js";

/** What `millraceSession` may be told. */
export interface SessionModelOptions {
  /** What the SDK shall call the model. Default "session". */
  readonly modelId?: string;
  /**
   * Messages that stand in the session already, in the SDK's form for providers: of a conversation that was saved with
   * it. Default: none.
   */
  readonly history?: SdkPrompt;
}

/**
 * A model of the AI SDK that is backed by a session: one conversation, one call at a time.
 *
 * The conversation of a call must go on from what stands in the session. Only the last exchange may be taken back, by
 * `Session.rewind`: to answer again, to ask something else in its place, and where an answer was broken off. All else
 * that differs is an InvalidArgumentError that says where, and so is taking back what something was appended after
 * directly; the session then stays as it is.
 *
 * What is appended to the session directly, between calls, is part of the stream and not of the conversation. The
 * session stays the caller's to close.
 */
export function millraceSession(session: Session, options: SessionModelOptions = {}): SdkModel {
  const { modelId = "session", history = [] } = options;
  const conversation = new Conversation(session, templateMessages(history));
  return languageModel(modelId, (call) => conversation.ask(call));
}

/** A call that the session is busy with. */
interface Busy {
  readonly signal: AbortSignal | undefined;
  /** It has changed the session; a call that was refused has not. */
  changed: boolean;
}

class Conversation {
  readonly #session: Session;
  #standing: Standing;
  #busy: Busy | null = null;
  /** Where the session stood after the last call; known some time after its end. */
  #end: Promise<number | null> = Promise.resolve(null);
  /** The tools that the model was last told of. */
  #tools: string | null = null;

  constructor(session: Session, history: readonly TemplateMessage[]) {
    this.#session = session;
    this.#standing = { settled: history, last: null };
  }

  /** Brings the session to where the call's conversation ends, and asks for an answer. */
  async ask(call: CallOptions): Promise<Turn> {
    const { options, warnings } = settingsOf(call);
    const messages = templateMessages(call.prompt);
    const busy = this.#enter(options.signal);
    try {
      const notes: Warning[] = [...warnings, ...this.#notes(options)];
      const { left, numAppended } = await this.#follow(messages, options, busy);
      if (left === "approximate") notes.push(APPROXIMATE);
      const { adapter: _, chat: __, ...answer } = options;
      const asked = this.#standing.last!.asked!;
      return {
        generation: this.#session.generate(answer),
        warnings: notes,
        // Where nothing was appended, the last token is run for its logits.
        promptTokens: () => ({ total: asked, cached: asked - Math.max(1, numAppended) }),
        ended: (said) => this.#leave(busy, said),
      };
    } catch (error) {
      this.#leave(busy, null);
      throw error;
    }
  }

  /** Brings the session to the end of `messages`; tells what is left of it before what it took back. */
  async #follow(
    messages: readonly TemplateMessage[],
    options: GenerateOptions,
    busy: Busy,
  ): Promise<{ readonly left: "exact" | "approximate"; readonly numAppended: number }> {
    const next = continuation(this.#standing, messages);
    let left: "exact" | "approximate" = "exact";
    if (next.type !== "go on") left = await this.#goBack(next.backTo);
    busy.changed = true;
    if (next.type === "again") {
      this.#standing.last!.said = null;
      return { left, numAppended: 0 };
    }
    const settled = next.type === "go on" ? standing(this.#standing) : this.#standing.settled;
    const from = await this.#position();
    const exchange: Exchange = { messages: next.missing, from, asked: null, said: null };
    this.#standing = { settled, last: exchange };
    const { chat, signal } = options;
    const numAppended = await this.#session.append(next.missing, {
      chat: { ...chat, ...toolsOf(options) },
      ...(signal ? { signal } : {}),
    });
    exchange.asked = from + numAppended;
    return { left, numAppended };
  }

  async #goBack(to: number): Promise<"exact" | "approximate"> {
    const [end, now] = [await this.#end, await this.#position()];
    if (end !== null && now !== end) {
      throw invalidArgument(
        "prompt",
        `The conversation takes back its last exchange, and ${now - end} tokens were appended to the session since. Go on ` +
          "from that exchange instead.",
      );
    }
    try {
      return await this.#session.rewind(to);
    } catch (error) {
      throw invalidArgument(
        "prompt",
        `The conversation takes back its last exchange, and the session cannot: ${MillraceError.from(error).message}`,
        error,
      );
    }
  }

  /** Tokens in the session, those that wait included; what was asked of it before has taken effect. */
  async #position(): Promise<number> {
    await this.#session.inspect();
    const { seen, waiting } = this.#session.report;
    return seen + waiting;
  }

  /** Throws INVALID_ARGUMENT while another call is under way that nobody has given up. */
  #enter(signal: AbortSignal | undefined): Busy {
    if (this.#busy && !this.#busy.signal?.aborted) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The session is busy with another call; read that answer to its end, or abort it, before asking again. Calls that " +
          "shall run at once need sessions of their own (see Session.fork).",
      );
    }
    if (this.#busy) this.#leave(this.#busy, null);
    this.#busy = { signal, changed: false };
    return this.#busy;
  }

  #leave(busy: Busy, said: Said | null): void {
    if (this.#busy !== busy) return;
    this.#busy = null;
    if (!busy.changed) return;
    if (this.#standing.last) this.#standing.last.said = said;
    this.#end = this.#position().catch(() => null);
  }

  #notes(options: GenerateOptions): Warning[] {
    const notes: Warning[] = [];
    if (options.adapter !== undefined) {
      const details = "A session runs with the adapter that it was opened with.";
      notes.push({ type: "unsupported", feature: "providerOptions.millrace.adapter", details });
    }
    const tools = JSON.stringify(options.tools ?? []);
    if (this.#tools !== null && this.#tools !== tools) notes.push(OTHER_TOOLS);
    this.#tools = tools;
    return notes;
  }
}

const APPROXIMATE: Warning = {
  type: "other",
  message:
    "The session went back to before its last exchange, and its cache policy had let go of older tokens since: they do not " +
    "come back.",
};

const OTHER_TOOLS: Warning = {
  type: "other",
  message:
    "The tools differ from those of the last call. Most templates tell of tools at the start of the conversation only, which " +
    "stands in the session already.",
};

/** Tools as templates expect them. */
function toolsOf({ tools }: GenerateOptions): Pick<RenderOptions, "tools"> {
  if (!tools || tools.length === 0) return {};
  return { tools: tools.map(({ strict: _, ...tool }) => ({ type: "function", function: tool })) };
}
