/** What a chat remembers: the conversation whole, given anew with every turn, or a session that lives on. */
import { stat } from "node:fs/promises";
import type { CodecName } from "../cache/codecs/contract.js";
import type { PolicySpec } from "../cache/policies/resolve.js";
import type { Generation, GenerationResult } from "../engine/generation.js";
import type { AnswerOptions } from "../engine/questions.js";
import { MillraceError } from "../errors.js";
import type { Model } from "../session/model.js";
import type { Session } from "../session/session.js";
import type { ChatMessage } from "../tokenizer/chat.js";
import { plural, printable, say } from "./terminal.js";

export interface Talk {
  /** Instructions that stand before the conversation; null for none. */
  system: string | null;
  /** Puts a message and gives the answer to it. Throws what keeps the message out; it is then not remembered. */
  ask(text: string, options: AnswerOptions): Promise<Generation>;
  /** The answer has ended: it is remembered. */
  heard(result: GenerationResult): Promise<void>;
  /** How much there is, for people; `last`: the last answer, where there is one. */
  describe(last?: GenerationResult): string;
  forget(): Promise<void>;
  /** The chat is over. */
  end(): Promise<void>;
}

/** Every turn is a request of its own with all that was said before. */
export class WholeTalk implements Talk {
  system: string | null;
  readonly #model: Model;
  readonly #request: { readonly adapter?: string };
  #turns: ChatMessage[] = [];
  #asked: ChatMessage | null = null;

  constructor(model: Model, system: string | null, request: { readonly adapter?: string }) {
    this.#model = model;
    this.#request = request;
    this.system = system;
  }

  async ask(text: string, options: AnswerOptions): Promise<Generation> {
    const system = this.system === null ? [] : [{ role: "system", content: this.system }];
    this.#asked = { role: "user", content: text };
    return this.#model.generate([...system, ...this.#turns, this.#asked], { ...options, ...this.#request });
  }

  async heard({ text }: GenerationResult): Promise<void> {
    if (this.#asked) this.#turns.push(this.#asked, { role: "assistant", content: text });
    this.#asked = null;
  }

  describe(last?: GenerationResult): string {
    const messages = plural(this.#turns.length, "message");
    if (!last) return messages;
    const { context, cache } = this.#model.info;
    const held = (last.usage.promptTokens + last.usage.generatedTokens).toLocaleString("en-US");
    const room =
      cache.policy.policy === "full"
        ? `of ${plural(context, "token")}`
        : `tokens, of which the cache kept ${last.cache.kept.toLocaleString("en-US")}`;
    return `${messages}, ${held} ${room}`;
  }

  async forget(): Promise<void> {
    this.#turns = [];
  }

  async end(): Promise<void> {}
}

/** How a fresh session is opened. */
export interface FreshSession {
  /** How it keeps what is said; chosen where no policy is named. */
  readonly cache: { readonly policy?: PolicySpec; readonly codec: CodecName };
  readonly adapter?: string;
}

/**
 * One session, restored from a file where that exists and saved there after every turn: whatever ends the program, at most
 * the turn under way is lost.
 */
export class SessionTalk implements Talk {
  system: string | null;
  readonly #model: Model;
  readonly #path: string;
  readonly #fresh: FreshSession;
  #session: Session;
  /** The file holds all that the session does. */
  #saved = false;

  private constructor(
    model: Model,
    path: string,
    fresh: FreshSession,
    session: Session,
    system: string | null,
  ) {
    this.#model = model;
    this.#path = path;
    this.#fresh = fresh;
    this.#session = session;
    this.system = system;
  }

  /**
   * Throws what `Model.restore` and `Model.session` throw, and INVALID_ARGUMENT for an adapter where the file has none.
   */
  static async open(
    model: Model,
    path: string,
    fresh: FreshSession,
    system: string | null,
  ): Promise<SessionTalk> {
    const isThere = await stat(path).then(
      () => true,
      (error: NodeJS.ErrnoException) => error.code !== "ENOENT",
    );
    const session = isThere ? await model.restore(path) : model.session(fresh);
    const { adapter } = await session.opened;
    if (fresh.adapter !== undefined && adapter === null) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `The conversation in ${path} runs without an adapter, and goes on so: leave --adapter out, or start another ` +
          "conversation in another file.",
        { path, option: "adapter" },
      );
    }
    return new SessionTalk(model, path, fresh, session, system);
  }

  async ask(text: string, options: AnswerOptions): Promise<Generation> {
    const { seen, waiting } = this.#session.report;
    const isFirst = seen + waiting === 0;
    const system = this.system === null || !isFirst ? [] : [{ role: "system", content: this.system }];
    this.#saved = false;
    await this.#session.append([...system, { role: "user", content: text }]);
    return this.#session.generate(options);
  }

  heard(): Promise<void> {
    return this.#keep();
  }

  describe(): string {
    const { seen, kept, waiting } = this.#session.report;
    return `${plural(seen + waiting, "token")} in ${this.#path}, ${(kept + waiting).toLocaleString("en-US")} of them kept`;
  }

  async forget(): Promise<void> {
    await this.#session.close();
    this.#session = this.#model.session(this.#fresh);
    this.#saved = false;
    await this.#session.opened;
    await this.#keep();
  }

  async end(): Promise<void> {
    if (!this.#saved) await this.#save();
    say(`Saved: ${this.describe()}.`);
  }

  /** Saves. A disk that is full for a while ends no conversation: it is told, and `end` throws where it stays so. */
  async #keep(): Promise<void> {
    try {
      await this.#save();
    } catch (error) {
      const { code, message } = MillraceError.from(error);
      if (code !== "WRITE_FAILED") throw error;
      say(`millrace: ${code}: ${printable(message)}`);
      say("The conversation goes on; it is saved after the next turn.");
    }
  }

  async #save(): Promise<void> {
    await this.#session.save(this.#path);
    this.#saved = true;
  }
}
