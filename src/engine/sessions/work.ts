/** What is asked of a stream and has not ended, appends and an answer, and what of its tokens is to be run for that. */
import type { MillraceError } from "../../errors.js";
import type { Outputs, Phase } from "../../scheduler/contract.js";
import type { Answering } from "./answering.js";
import { type Append, Appends, type Stretch } from "./appends.js";
import type { Transcript } from "./transcript.js";

export class Work {
  /** The one under way; null where there is none. */
  answer: Answering | null = null;
  readonly #transcript: Transcript;
  readonly #mostHeldBack: number;
  readonly #appends = new Appends();

  /** `mostHeldBack`: see `StreamParts.heldBack`. */
  constructor(transcript: Transcript, mostHeldBack: number) {
    this.#transcript = transcript;
    this.#mostHeldBack = mostHeldBack;
  }

  /** Tokens that are to be run. */
  get left(): number {
    const { numWaiting, ran } = this.#transcript;
    if (this.#wantsLogits) return numWaiting;
    return Math.max(0, this.#appends.scoredEnd - 1 - ran, numWaiting - this.#heldBack);
  }

  /** Every token that is run gives logits. */
  get scores(): boolean {
    return this.#appends.scoredEnd > 0;
  }

  /** Of a step that takes `most` tokens. */
  outputs(most: number): Outputs {
    if (this.scores) return "all";
    return this.#wantsLogits && this.#transcript.numWaiting <= most ? "last" : "none";
  }

  get phase(): Phase {
    return this.#wantsLogits && this.#transcript.numWaiting === 1 ? "decode" : "prefill";
  }

  /** Whose tokens are run next. */
  get client(): string | undefined {
    return this.#appends.client ?? this.answer?.standing.client;
  }

  /** Of what is most urgent: what stands before that must run first. */
  get priority(): number | undefined {
    const { priority } = this.#appends;
    if (!this.answer) return priority;
    return Math.max(this.answer.standing.priority ?? 0, priority ?? Number.NEGATIVE_INFINITY);
  }

  get deadline(): number | undefined {
    const deadline = Math.min(this.#appends.deadline, this.answer?.standing.deadline ?? Infinity);
    return deadline === Infinity ? undefined : deadline;
  }

  /** Puts tokens at the end of the stream. */
  append(tokens: Int32Array, append: Append): void {
    const from = this.#transcript.length;
    this.#transcript.append(tokens);
    this.#appends.add(append, from, from + tokens.length);
    this.settle();
  }

  /** Notes what the model gave to the token at `position`, where that is asked for. */
  score(position: number, logits: Float32Array): void {
    this.#appends.score(position, logits);
  }

  /** Ends appends that are in: of which no more waits than may. */
  settle(): void {
    this.#appends.settle(this.#transcript.ran, this.#heldBack);
  }

  /** Takes back what of an append has not been run, and fails it with ABORTED; false where it has ended. */
  abandon(id: number): boolean {
    const { ran, numWaiting } = this.#transcript;
    return this.#takeBack(this.#appends.abandon(id, ran, numWaiting));
  }

  /** Likewise those whose deadline has passed, with DEADLINE_PASSED. */
  expireAppends(now: number): void {
    const { ran } = this.#transcript;
    while (this.#takeBack(this.#appends.expire(now, ran, this.#transcript.numWaiting)));
  }

  /** Fails appends that reach beyond the stream's end. */
  rewound(): void {
    this.#appends.rewind(this.#transcript.length);
    this.settle();
  }

  /** Fails all that is asked. What appends brought does not stay, save the first token and what was told to be in. */
  undo(error: MillraceError): void {
    const { from } = this.#appends;
    if (from !== null) {
      // One token must wait: else there would be nothing to go on from.
      const kept = Math.max(from, this.#transcript.ran + 1);
      this.#transcript.remove(kept, this.#transcript.length - kept);
      this.#appends.failAll(error, kept);
    }
    this.#failAnswer(error);
  }

  /** Fails all that is asked: the stream is at its end. */
  end(error: MillraceError): void {
    this.#failAnswer(error);
    this.#appends.failAll(error, null);
  }

  #failAnswer(error: MillraceError): void {
    const { answer } = this;
    this.answer = null;
    answer?.fail(error);
  }

  #takeBack(stretch: Stretch | null): boolean {
    if (!stretch) return false;
    this.#transcript.remove(stretch.from, stretch.count);
    // Those behind it may be in without a further step.
    this.settle();
    return true;
  }

  /** Tokens that wait for more: of what was appended last some, and one at least. */
  get #heldBack(): number {
    return Math.max(1, Math.min(this.#mostHeldBack, this.#transcript.length - this.#transcript.lastAppend));
  }

  get #wantsLogits(): boolean {
    return this.answer !== null && !this.answer.isPaused;
  }
}
