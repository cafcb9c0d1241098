/** What is asked of sessions: appends, answers and recalls, each from when its call comes until it ends. */

import type { Recalled } from "../../cache/tiers/recall.js";
import type { Emission } from "../../decoding/contract.js";
import { MillraceError } from "../../errors.js";
import type { Constraint } from "../../sampling/grammar/constraint.js";
import type { Engine } from "../engine.js";
import type { Language } from "../language.js";
import { Passing } from "../passing.js";
import {
  type AnswerParameters,
  type AppendParameters,
  type Calls,
  type GenerationEnd,
  MAX_UNREAD_PIECES,
  type Prompt,
  type Scores,
} from "../protocol.js";
import { onEngineClock } from "../standing.js";
import type { Answer } from "./answering.js";
import type { LiveSession } from "./live-session.js";
import { Questions } from "./recall.js";
import type { Sessions } from "./sessions.js";
import type { Stream } from "./stream.js";

export interface AskingParts {
  readonly sessions: Sessions;
  readonly engine: Engine;
  readonly language: Language;
  /** Tokens that the model is set up for. */
  readonly context: number;
}

/** A call that has not ended. It may be cancelled at any moment, also before its stream knows of it. */
interface Call {
  isCancelled: boolean;
  /** From when the stream knows of it. */
  cancel(): void;
  grant(pieces: number): void;
}

export class Asking {
  readonly #parts: AskingParts;
  readonly #calls = new Passing<Call>();

  constructor(parts: AskingParts) {
    this.#parts = parts;
  }

  /** Takes tokens in; resolves, with how many they are, once no more of them wait than may. Throws as `Stream.append`, ABORTED. */
  async append(id: number, parameters: AppendParameters): Promise<number> {
    const { tokens } = await this.#append(id, parameters, false);
    return tokens.length;
  }

  /** Likewise, with what the model gave to each token. */
  appendScored(id: number, parameters: AppendParameters): Promise<Scores> {
    return this.#append(id, parameters, true);
  }

  #append(id: number, parameters: AppendParameters, scored: boolean): Promise<Scores> {
    const { session, prompt, standing } = parameters;
    return this.#follow(id, session, async ({ stream }, call, end) => {
      const { engine } = this.#parts;
      return engine.betweenSteps(() => {
        if (call.isCancelled) throw neverBegun();
        const tokens = this.#encode(stream, prompt);
        engine.checkTokens(tokens);
        const scores = { tokens, logprobs: new Float32Array(scored ? tokens.length : 0).fill(Number.NaN) };
        return new Promise<Scores>((resolve, reject) => {
          call.cancel = () => stream.abandon(id);
          stream.append(tokens, {
            id,
            scores: scored ? scores : null,
            standing: onEngineClock(standing),
            listener: {
              end: () => end(() => resolve(scores)),
              fail: (error) => end(() => reject(error)),
            },
          });
          if (tokens.length === 0) return;
          if (prompt instanceof Int32Array || typeof prompt === "string") {
            if (stream.transcript.before === "nothing") stream.transcript.before = "text";
          } else {
            stream.transcript.before = prompt.options.addGenerationPrompt === false ? "turn" : "answer";
          }
        });
      });
    });
  }

  /** Answers from where the session stands. Throws as `Stream.ask`, and INVALID_ARGUMENT for wrong options. */
  answer(
    id: number,
    { session: asked, answer: parameters, standing }: Calls["answer"]["parameters"],
    emit: (emission: Emission) => void,
  ): Promise<GenerationEnd> {
    return this.#follow(id, asked, async (session, call, end) => {
      const { stream } = session;
      if (parameters !== "resume") await this.#recallFor(session, call);
      const constraint = await this.#hold(session, parameters);
      const begin = () =>
        new Promise<GenerationEnd>((resolve, reject) => {
          stream.checkAskable();
          const answer = this.#prepare(session, parameters, constraint);
          session.unfinished = null;
          call.cancel = () => stream.breakOff();
          call.grant = (pieces) => stream.grant(pieces);
          const listener = {
            emit,
            end: (value: GenerationEnd) => end(() => resolve(value)),
            fail: (error: MillraceError) => end(() => reject(error)),
          };
          stream.ask(answer, MAX_UNREAD_PIECES, listener, onEngineClock(standing));
          if (call.isCancelled) stream.breakOff();
        });
      try {
        return await this.#parts.engine.betweenSteps(begin);
      } finally {
        constraint?.dispose();
      }
    });
  }

  /**
   * Brings back what a question is about, or what was appended last: the blocks that are most likely to be needed are
   * attended until the next recall. Throws INVALID_ARGUMENT where the session has no disk tier or nothing was asked.
   */
  async recall(id: number, question: Prompt | null): Promise<Recalled> {
    const session = await this.#parts.sessions.find(id);
    return session.standStill(async () => {
      const { recall, stream, home } = session;
      if (!recall) {
        throw new MillraceError(
          "INVALID_ARGUMENT",
          'The session has nowhere to recall from; open it with recall: { disk: "2 GiB" } or the like.',
        );
      }
      const ids = question === null ? stream.transcript.question() : this.#encode(stream, question);
      this.#parts.engine.checkTokens(ids);
      if (ids.length === 0) {
        throw new MillraceError("INVALID_ARGUMENT", "There is no question; append one, or give its text.");
      }
      return Questions.recall(home.questions, recall, stream, ids);
    });
  }

  /** Lets answer `id` give more pieces. Unknown ids are those that have ended. */
  grant(id: number, pieces: number): void {
    this.#calls.get(id)?.grant(pieces);
  }

  /** Breaks answer `id` off, or takes back what of append `id` has not been run. Unknown ids are those that have ended. */
  cancel(id: number): Promise<void> {
    return this.#parts.engine.betweenSteps(() => {
      const call = this.#calls.get(id);
      if (!call) return;
      call.isCancelled = true;
      call.cancel();
    });
  }

  /** Notes call `id` until `act` calls `end`, within the step that ends it, or has failed. */
  async #follow<T>(
    id: number,
    session: number,
    act: (session: LiveSession, call: Call, end: (then: () => void) => void) => Promise<T>,
  ): Promise<T> {
    const call: Call = { isCancelled: false, cancel: () => {}, grant: () => {} };
    this.#calls.set(id, call);
    try {
      return await act(await this.#parts.sessions.find(session), call, (then) => {
        this.#calls.delete(id);
        then();
      });
    } finally {
      this.#calls.delete(id);
    }
  }

  /** The answer that is asked for, or goes on. Throws INVALID_ARGUMENT for wrong options, and where there is none to go on with. */
  #prepare(
    { stream, unfinished }: LiveSession,
    parameters: AnswerParameters | "resume",
    constraint: Constraint | null,
  ): Answer {
    const { language, context } = this.#parts;
    const { transcript } = stream;
    const saved = parameters === "resume" ? unfinished : null;
    const asked = parameters === "resume" ? saved?.parameters : parameters;
    if (!asked) {
      throw new MillraceError("INVALID_ARGUMENT", "The session has no unfinished answer to go on with.");
    }
    const isText = saved !== null || transcript.before === "text";
    const stop = isText ? asked.stop : [...asked.stop, ...language.turnEnds()];
    const room = Number.isFinite(stream.capacity) ? stream.capacity - stream.length + 1 : context;
    const whole = { ...asked, stop, maxTokens: asked.maxTokens ?? Math.max(1, room) };
    return {
      parameters: whole,
      decoder: language.decoder(whole, transcript.tail(), saved?.decoder, constraint ?? undefined),
      promptTokens: saved?.promptTokens ?? transcript.numWaiting,
    };
  }

  /** Recalls for an answer where the session does so by itself. Throws as `Stream.checkAskable`. */
  async #recallFor(session: LiveSession, call: Call): Promise<void> {
    const { recall, home, stream } = session;
    if (!recall || !home.recall?.auto) return;
    const isEmpty = await this.#parts.engine.betweenSteps(() => {
      stream.checkAskable();
      if (recall.isEmpty) recall.heed(stream.transcript.question());
      return recall.isEmpty;
    });
    if (isEmpty) return;
    // What stands before the question is run without what the question brings back.
    await stream.idle();
    await session.standStill(async () => {
      stream.checkAskable();
      const question = stream.transcript.question();
      if (call.isCancelled || question.length === 0) return;
      await Questions.recall(home.questions, recall, stream, question);
    });
  }

  /** What holds an answer to its format, where it has one. */
  async #hold(session: LiveSession, parameters: AnswerParameters | "resume"): Promise<Constraint | null> {
    const { stream, unfinished } = session;
    const format = parameters === "resume" ? unfinished?.parameters.format : parameters.format;
    if (!format) return null;
    const accepted = parameters === "resume" ? unfinished?.decoder.accepted : undefined;
    return session.standStill(() => {
      stream.checkAskable();
      return this.#parts.language.hold(format, accepted);
    });
  }

  #encode({ transcript }: Stream, prompt: Prompt): Int32Array {
    const { language } = this.#parts;
    const tokens = language.encodeAfter(prompt, transcript.before);
    const [first] = tokens;
    // The end token that the model gave stands in the stream already.
    const closes = transcript.before === "answer" && typeof prompt === "object" && "messages" in prompt;
    const last = transcript.waiting.at(-1);
    const isEnd = first !== undefined && first === last && language.tokenizer?.eosIds.has(first);
    return closes && isEnd ? tokens.subarray(1) : tokens;
  }
}

const neverBegun = (): MillraceError =>
  new MillraceError("ABORTED", "The caller's signal ended the append: none of its tokens are in.", {
    taken: 0,
  });
