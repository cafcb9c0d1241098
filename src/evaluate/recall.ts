/** How much of what a log has said a model still knows, by how far back that is, under different cache policies. */

import type { CodecName } from "../cache/codecs/contract.js";
import type { PolicySpec } from "../cache/policies/resolve.js";
import { full } from "../engine/policies.js";
import { MillraceError } from "../errors.js";
import type { Model } from "../session/model.js";
import type { RecallOptions } from "../session/recall.js";
import type { Session } from "../session/session.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { BOS, USER } from "../world/control.js";
import { grade } from "../world/questions.js";
import type { QuestionOptions } from "../world/world.js";
import { MOST_ANSWER_TOKENS } from "./answers.js";
import { median } from "./median.js";
import {
  type HeldOutQuestion,
  heldOutSeed,
  type TokenPiece,
  tokenPieces,
  worldToken,
} from "./world-stream.js";

/** A cache that is examined. */
export interface Examinee {
  readonly name: string;
  readonly policy: PolicySpec;
  readonly codec: CodecName;
  /** Tokens that it was cut to; null where it has its size from elsewhere. */
  readonly budget: number | null;
  readonly recall?: RecallOptions;
  /** Of the session; default: what the policy needs. */
  readonly memory?: number | string;
}

/** Questions whose facts lie from `from` to below `to` tokens back. */
export interface Bucket {
  readonly from: number;
  readonly to: number;
  questions: number;
  right: number;
}

/** What became of one cache's examination. */
export interface RecallResult {
  readonly name: string;
  readonly policy: PolicySpec;
  readonly budget: number | null;
  readonly questions: number;
  readonly right: number;
  /** In 1, 2 and 5 times powers of ten, nearest first; those with questions in them. */
  readonly buckets: readonly Bucket[];
  /** Of the log, questions and answers left out; of the whole stream where `tokens` is less than was asked for. */
  readonly perplexity: number;
  /** Tokens read. */
  readonly tokens: number;
  /** Tokens kept, on average over the heads, and bytes that the cache took, when a question was asked. */
  readonly kept: number;
  readonly bytes: number;
  /** From a question's last token to the first one of its answer, in milliseconds: the median. */
  readonly firstTokenMs: number;
  /** Why it did not read to the end: PROMPT_TOO_LONG where the cache keeps everything. */
  readonly ended: { readonly code: string; readonly message: string } | null;
}

export interface ExamOptions {
  readonly signal?: AbortSignal;
  /** Told after every question, or stretch of the stream. */
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Asks every question in a session of its own, which has read the log before it and nothing else. The log's perplexity
 * is measured on the way. Throws what sessions throw.
 */
export async function examineWindows(
  model: Model,
  tokenizer: Tokenizer,
  examinees: readonly Examinee[],
  questions: readonly HeldOutQuestion[],
  { signal, onProgress }: ExamOptions = {},
): Promise<RecallResult[]> {
  const user = worldToken(tokenizer, USER);
  const results: RecallResult[] = [];
  for (const [i, examinee] of examinees.entries()) {
    const tallies = new Tallies();
    for (const [j, { prompt, question, distance }] of questions.entries()) {
      await using session = model.session(sessionOptions(examinee));
      const asked = prompt.lastIndexOf(user);
      tallies.read(await session.score(prompt.slice(0, asked), withSignal(signal)));
      const answer = await ask(session, prompt.slice(asked), signal);
      await tallies.answered(distance, grade(question, answer.text), session, answer.firstTokenMs);
      onProgress?.(i * questions.length + j + 1, examinees.length * questions.length);
    }
    results.push(tallies.result(examinee, null));
  }
  return results;
}

export interface StreamOptions extends ExamOptions {
  /** Length of the stream. */
  readonly tokens: number;
  /** Which stream; none that models are trained on. */
  readonly seed: number;
  readonly questions: QuestionOptions;
  /**
   * Examine also a cache that keeps everything of the last so many tokens and knows nothing before them, by the questions
   * whose facts lie there: what there is to be reached. Null: none.
   */
  readonly beside: number | null;
}

/**
 * Reads one endless log through all caches side by side. Every question is asked aside, in a fork or before a rewind, and
 * the right answer goes into the stream: so all read the same tokens, whatever they answer. Throws what sessions throw.
 */
export async function examineStream(
  model: Model,
  tokenizer: Tokenizer,
  examinees: readonly Examinee[],
  { tokens, seed, questions, beside, signal, onProgress }: StreamOptions,
): Promise<RecallResult[]> {
  const bos = worldToken(tokenizer, BOS);
  const candidates: Candidate[] = await Promise.all(
    examinees.map((examinee) => CacheCandidate.admit(model, examinee)),
  );
  if (beside !== null) candidates.push(new LastTokens(model, bos, beside));
  try {
    let log: number[] = [bos];
    let question: TokenPiece | null = null;
    for (const piece of tokenPieces(tokenizer, { seed: heldOutSeed(seed), questions })) {
      if (piece.kind === "log") for (const id of piece.tokens) log.push(id);
      if (piece.kind === "question") question = piece;
      if (log.length >= STRETCH || piece.kind === "question") {
        await Promise.all(candidates.map((candidate) => candidate.read(log, signal)));
        log = [];
      }
      if (piece.kind === "answer" && question) {
        const [asked, answer] = [question, piece];
        // One after the other: a first token's time is its own.
        for (const candidate of candidates) await candidate.examine(asked, answer, signal);
        onProgress?.(Math.min(piece.at, tokens), tokens);
        question = null;
      }
      if (piece.at >= tokens || candidates.every(({ ended }) => ended)) break;
    }
    return candidates.map((candidate) => candidate.result());
  } finally {
    await Promise.all(candidates.map((candidate) => candidate.close()));
  }
}

/** Tokens of log that are read at once. */
const STRETCH = 1024;
/** A cache of so many times the tokens of a turn still holds what stood before it when the turn is through. */
const LARGE = 4;

/** What is on its way through the stream. */
interface Candidate {
  /** It cannot read on. */
  readonly ended: boolean;
  read(log: readonly number[], signal: AbortSignal | undefined): Promise<void>;
  examine(question: TokenPiece, answer: TokenPiece, signal: AbortSignal | undefined): Promise<void>;
  result(): RecallResult;
  close(): Promise<void>;
}

class CacheCandidate implements Candidate {
  readonly #session: Session;
  #full: MillraceError | null = null;
  readonly #examinee: Examinee;
  readonly #most: number;
  readonly #tallies = new Tallies();

  private constructor(examinee: Examinee, session: Session, most: number) {
    this.#examinee = examinee;
    this.#session = session;
    this.#most = most;
  }

  get ended(): boolean {
    return this.#full !== null;
  }

  /** Opens its session, with room for the fork that answers. */
  static async admit(model: Model, examinee: Examinee): Promise<CacheCandidate> {
    const options = sessionOptions(examinee);
    const { memoryBytes, pageBytes } = await (async () => {
      await using alone = model.session(options);
      return await alone.opened;
    })();
    const session = model.session({ ...options, memory: 2 * memoryBytes + 2 * pageBytes });
    const { capacity } = await session.opened;
    // What keeps everything could read on in the fork's memory; its own ends here.
    return new CacheCandidate(
      examinee,
      session,
      capacity === Number.POSITIVE_INFINITY ? capacity : model.info.context,
    );
  }

  async read(log: readonly number[], signal: AbortSignal | undefined): Promise<void> {
    if (log.length === 0 || !this.#hasRoom(log.length)) return;
    this.#tallies.read(await this.#session.score(log, withSignal(signal)));
  }

  async examine(question: TokenPiece, answer: TokenPiece, signal: AbortSignal | undefined): Promise<void> {
    const turn = [...question.tokens, ...answer.tokens];
    if (!this.#hasRoom(turn.length + MOST_ANSWER_TOKENS)) return;
    const { distance, question: asked } = question;
    if (asked && distance !== null && distance > 0) {
      const { session, forget } = await this.#aside(question.tokens.length + MOST_ANSWER_TOKENS);
      const { text, firstTokenMs } = await ask(session, question.tokens, signal);
      await this.#tallies.answered(distance, grade(asked, text), session, firstTokenMs);
      await forget();
    }
    await this.#session.append(turn, withSignal(signal));
  }

  /** Where a question, at most `tokens` long with its answer, can be asked; and what leaves no trace of it. */
  async #aside(tokens: number): Promise<{ readonly session: Session; forget(): Promise<unknown> }> {
    const session = this.#session;
    const { seen, waiting, kept } = session.report;
    if (this.#examinee.recall && kept >= LARGE * tokens) {
      // A fork copies all that lies on disk. What the policy lets go of meanwhile is older, and is found there.
      return { session, forget: () => session.rewind(seen + waiting) };
    }
    const fork = await session.fork();
    return { session: fork, forget: () => fork.close() };
  }

  result(): RecallResult {
    return this.#tallies.result(this.#examinee, this.#full);
  }

  close(): Promise<void> {
    return this.#session.close();
  }

  #hasRoom(tokens: number): boolean {
    const { seen, waiting } = this.#session.report;
    if (this.#full === null && seen + waiting + tokens > this.#most) {
      const message = `It keeps everything, and the model's context of ${this.#most} tokens is full.`;
      this.#full = new MillraceError("PROMPT_TOO_LONG", message, { seen, capacity: this.#most });
    }
    return this.#full === null;
  }
}

/** Reads the last tokens anew for every question that they can answer. */
class LastTokens implements Candidate {
  readonly ended = false;
  readonly #model: Model;
  readonly #bos: number;
  readonly #count: number;
  readonly #tallies = new Tallies();
  #last: number[] = [];

  constructor(model: Model, bos: number, count: number) {
    this.#model = model;
    this.#bos = bos;
    this.#count = count;
  }

  async read(log: readonly number[]): Promise<void> {
    this.#last = [...this.#last, ...log].slice(-this.#count);
  }

  async examine(question: TokenPiece, answer: TokenPiece, signal: AbortSignal | undefined): Promise<void> {
    const { distance, question: asked } = question;
    if (asked && distance !== null && distance > 0 && distance < this.#count) {
      await using session = this.#model.session({ cache: full() });
      await session.append([this.#bos, ...this.#last], withSignal(signal));
      const { text, firstTokenMs } = await ask(session, question.tokens, signal);
      await this.#tallies.answered(distance, grade(asked, text), session, firstTokenMs);
    }
    await this.read([...question.tokens, ...answer.tokens]);
  }

  result(): RecallResult {
    const name = `full, last ${this.#count}`;
    return this.#tallies.result({ name, policy: full(), codec: "f16", budget: this.#count }, null);
  }

  async close(): Promise<void> {}
}

/** What is counted of one cache. */
class Tallies {
  readonly #buckets = new Map<number, Bucket>();
  readonly #firstTokenMs: number[] = [];
  #loss = 0;
  #scored = 0;
  #tokens = 0;
  #kept = 0;
  #bytes = 0;

  read({ logprobs }: { readonly logprobs: Float32Array }): void {
    for (const logprob of logprobs) {
      if (Number.isNaN(logprob)) continue;
      this.#loss -= logprob;
      this.#scored++;
    }
    this.#tokens += logprobs.length;
  }

  async answered(distance: number, right: boolean, session: Session, firstTokenMs: number): Promise<void> {
    const { from, to } = bucketOf(distance);
    const bucket = this.#buckets.get(from) ?? { from, to, questions: 0, right: 0 };
    bucket.questions++;
    if (right) bucket.right++;
    this.#buckets.set(from, bucket);
    this.#firstTokenMs.push(firstTokenMs);
    const { groups } = await session.inspect();
    const lanes = groups.reduce((sum, group) => sum + group.lanes.length, 0);
    this.#kept += groups.reduce((sum, { kept, lanes: its }) => sum + (kept * its.length) / lanes, 0);
    this.#bytes += session.report.bytes;
  }

  result({ name, policy, budget }: Examinee, ended: MillraceError | null): RecallResult {
    const buckets = [...this.#buckets.values()].sort((a, b) => a.from - b.from);
    const questions = buckets.reduce((sum, bucket) => sum + bucket.questions, 0);
    return {
      name,
      policy,
      budget,
      questions,
      right: buckets.reduce((sum, bucket) => sum + bucket.right, 0),
      buckets,
      perplexity: Math.exp(this.#loss / this.#scored),
      tokens: this.#tokens,
      kept: this.#kept / questions,
      bytes: this.#bytes / questions,
      firstTokenMs: median(this.#firstTokenMs),
      ended: ended && { code: ended.code, message: ended.message },
    };
  }
}

/** The least distance apart: [0, 50), [50, 100), [100, 200), [200, 500), … */
export function bucketOf(distance: number): { readonly from: number; readonly to: number } {
  let [from, to] = [0, 50];
  for (let factor = 0; distance >= to; factor++) [from, to] = [to, to * [2, 2, 2.5][factor % 3]!];
  return { from, to };
}

/** Puts the question at the end of the stream and says, greedily, what the model answers. */
async function ask(
  session: Session,
  question: readonly number[],
  signal: AbortSignal | undefined,
): Promise<{ readonly text: string; readonly firstTokenMs: number }> {
  void session.append(question, withSignal(signal)).catch(() => {});
  const askedAt = performance.now();
  const answer = session.generate({ maxTokens: MOST_ANSWER_TOKENS, temperature: 0, ...withSignal(signal) });
  let firstTokenMs = Number.NaN;
  let text = "";
  for await (const piece of answer) {
    if (text === "") firstTokenMs = performance.now() - askedAt;
    text += piece.text;
  }
  return { text, firstTokenMs };
}

const withSignal = (signal: AbortSignal | undefined) => (signal ? { signal } : {});

function sessionOptions({ policy, codec, recall, memory }: Examinee) {
  return {
    cache: { policy, codec },
    ...(recall ? { recall } : {}),
    ...(memory === undefined ? {} : { memory }),
  };
}
