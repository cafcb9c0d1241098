/**
 * Batches over HTTP: files of requests that are answered in the server's spare time. What is known of one is a record on
 * the disk, its answers a journal beside; so a server that was ended, in whatever way, goes on where it stopped.
 */
import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { Logger } from "pino";
import { RecordFolder } from "../batch/folder.js";
import { answerRecord, answerRecords, isFailure, Journal } from "../batch/journal.js";
import { type BatchLine, readLinesOf } from "../batch/lines.js";
import { AHEAD, type Answerer, PAGE, runBatch } from "../batch/run.js";
import { makeFolder } from "../formats/cache-folder.js";
import { Lock } from "../formats/lock.js";
import { MillraceError } from "../index.js";
import { BatchUsage } from "./batch-usage.js";
import { ApiError } from "./errors.js";
import { FileStore, type KeptFile, withoutPath } from "./files.js";
import { newId, now } from "./identity.js";
import type { ServerLimits } from "./options.js";
import type { Batch, BatchError, NewBatch } from "./schemas/batches.js";
import { Slots } from "./slots.js";
import { Suspects } from "./suspects.js";

/** What the disk knows of a batch. */
interface BatchRecord {
  readonly id: string;
  /** As it is answered. */
  readonly batch: Batch;
  /** Batches have the order of these. */
  readonly order: number;
  /** How long its files of answers are kept, in seconds; null: as long as all files. */
  readonly outputSeconds: number | null;
  /** Ids that its files of answers will have, so that one who writes them twice writes the same. */
  readonly outputId: string;
  readonly errorId: string;
  /** What it comes to when it has its files. */
  readonly end: "completed" | "expired" | "cancelled" | "failed";
}

interface Entry {
  readonly owner: string;
  readonly folder: RecordFolder<BatchRecord>;
  record: BatchRecord;
  /** Ends what is done for it: somebody cancelled it, or its time is over. */
  readonly stop: AbortController;
  readonly suspects: Suspects;
  /** Times in a row that it could not go on for what time does not mend, and the lines that were answered then. */
  stuck: { times: number; readonly answered: number };
}

/** What a store of batches works with. */
export interface BatchParts {
  /** Where everything lies: a folder per owner. */
  readonly folder: string;
  readonly limits: ServerLimits;
  readonly logger: Logger;
  /** Answers requests of `owner`, behind everybody who waits. */
  readonly answerer: (owner: string) => Answerer;
  /** Crashes of engines so far. */
  readonly crashes: () => number;
  /** Requests that run at once, in all models. */
  readonly sequences: number;
  /** Whether this owner can still ask: batches of keys that were taken away do not go on. */
  readonly isOwner: (owner: string) => boolean;
}

const ANSWERS = ".answers";
/** Errors of a file's lines that are told. */
const MOST_ERRORS = 100;
/** How often it is looked for what has expired, in milliseconds. */
const SWEEP_MS = 30_000;
/** Times in a row, without an answer between, that a failure of the server's own is tried again. */
const MOST_TIMES = 3;
/** Prompts that are measured at once: requests that somebody waits for have their turns between. */
const MEASURING = 2;

const OPEN: readonly Batch["status"][] = ["validating", "in_progress", "finalizing", "cancelling"];

export class BatchStore {
  readonly files: FileStore;
  readonly #parts: BatchParts;
  readonly #entries = new Map<string, Entry>();
  readonly #driving = new Set<Promise<void>>();
  readonly #closing = new AbortController();
  readonly #slots: Slots;
  #order = 0;
  #started: Promise<void> | null = null;
  #lock: Lock | null = null;
  #sweep: NodeJS.Timeout | null = null;
  /** Files are read and checked one after another. */
  #validating: Promise<unknown> = Promise.resolve();

  constructor(parts: BatchParts) {
    this.#parts = parts;
    this.files = new FileStore(parts.limits, (owner) => join(parts.folder, owner, "files"));
    this.#slots = new Slots(parts.limits.runningBatches);
  }

  /**
   * Reads what is in the folder and goes on with the batches there; resolves when they can be asked for. Rejects with
   * IN_USE where another server has the folder, and WRITE_FAILED. Idempotent.
   */
  start(): Promise<void> {
    this.#started ??= this.#start();
    return this.#started;
  }

  /** Ends what is under way; a server that starts goes on with it. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort();
    if (this.#sweep) clearInterval(this.#sweep);
    await this.#started?.catch(() => {});
    await Promise.all(this.#driving);
    await this.#lock?.[Symbol.asyncDispose]();
    this.#lock = null;
  }

  /** Batches that have not come to their end. */
  get numOpen(): number {
    return [...this.#entries.values()].filter(isOpen).length;
  }

  /** Throws 400 for a file that cannot be one, 404 for none, 409 for too many, 507. */
  async create(owner: string, request: NewBatch): Promise<Batch> {
    const file = this.files.get(owner, request.input_file_id);
    if (file.purpose !== "batch") {
      throw new ApiError(
        400,
        "invalid_value",
        `The file ${file.id} has the purpose '${file.purpose}'; expected one that was uploaded with 'batch'.`,
        { param: "input_file_id" },
      );
    }
    const { openBatches } = this.#parts.limits;
    const open = this.#of(owner).filter(isOpen).length;
    if (open >= openBatches) {
      throw new ApiError(
        409,
        "too_many_batches",
        `There are ${open} batches under way, as many as there may be; wait for one, or cancel one.`,
        { details: { open, limit: openBatches } },
      );
    }
    const created = now();
    const batch: Batch = {
      id: newId("batch_"),
      object: "batch",
      endpoint: request.endpoint,
      errors: null,
      input_file_id: file.id,
      completion_window: request.completion_window,
      status: "validating",
      output_file_id: null,
      error_file_id: null,
      created_at: created,
      in_progress_at: null,
      expires_at: created + secondsOf(request.completion_window),
      finalizing_at: null,
      completed_at: null,
      failed_at: null,
      expired_at: null,
      cancelling_at: null,
      cancelled_at: null,
      request_counts: { total: 0, completed: 0, failed: 0 },
      usage: null,
      metadata: request.metadata ?? null,
    };
    const record: BatchRecord = {
      id: batch.id,
      batch,
      order: ++this.#order,
      outputSeconds: request.output_expires_after?.seconds ?? null,
      outputId: newId("file-"),
      errorId: newId("file-"),
      end: "completed",
    };
    const entry = this.#entry(owner, record);
    await entry.folder.put(record).catch((error) => {
      throw withoutPath(error);
    });
    this.#entries.set(record.id, entry);
    this.#drive(entry);
    return batch;
  }

  /** All batches of `owner`, oldest first. */
  list(owner: string): Batch[] {
    return this.#of(owner).map(({ record }) => record.batch);
  }

  /** Throws 404 for one that is none, or somebody else's. */
  get(owner: string, id: string): Batch {
    return this.#get(owner, id).record.batch;
  }

  /** Lets what is under way of it end. Throws 404, and 409 for one that has come to its end. */
  async cancel(owner: string, id: string): Promise<Batch> {
    const entry = this.#get(owner, id);
    const { status } = entry.record.batch;
    if (status !== "cancelling") {
      if (status !== "validating" && status !== "in_progress") {
        throw new ApiError(409, "batch_not_open", `The batch is ${status} and cannot be cancelled.`, {
          details: { status },
        });
      }
      this.#turn(entry, "cancelled");
      // What cannot be written now is written with the next change.
      await this.#save(entry).catch((error) => this.#note(entry, error));
    }
    return entry.record.batch;
  }

  /** Whether a batch that is under way reads the file. */
  isInUse(owner: string, { id }: KeptFile): boolean {
    return this.#of(owner).some((entry) => isOpen(entry) && entry.record.batch.input_file_id === id);
  }

  async #start(): Promise<void> {
    const { folder, logger } = this.#parts;
    await makeFolder(folder, 0o700).catch(() => {});
    this.#lock = await Lock.take(folder, { lock: join(folder, "lock") });
    const names = await readdir(folder, { withFileTypes: true });
    for (const owner of names.filter((one) => one.isDirectory()).map(({ name }) => name)) {
      const { records, broken } = await this.#folderOf(owner).load();
      for (const path of [...broken, ...(await this.files.load(owner))]) {
        logger.error({ path }, "this file is damaged and left where it is");
      }
      records.sort((a, b) => a.order - b.order);
      for (const record of records) {
        this.#entries.set(record.id, this.#entry(owner, record));
        this.#order = Math.max(this.#order, record.order);
      }
    }
    await this.#expire();
    this.#sweep = setInterval(() => void this.#expire().catch(() => {}), SWEEP_MS).unref();
    for (const entry of this.#entries.values()) {
      if (isOpen(entry) && this.#parts.isOwner(entry.owner)) this.#drive(entry);
    }
  }

  /** Takes a batch to its end, whatever is in the way. */
  #drive(entry: Entry): void {
    const driving = this.#toItsEnd(entry).finally(() => this.#driving.delete(driving));
    this.#driving.add(driving);
  }

  async #toItsEnd(entry: Entry): Promise<void> {
    const { signal } = this.#closing;
    while (isOpen(entry) && !signal.aborted) {
      try {
        await this.#step(entry);
      } catch (error) {
        if (signal.aborted) return;
        const { status } = entry.record.batch;
        const isRunning = status === "validating" || status === "in_progress";
        if (this.#isLasting(entry, error)) {
          this.#note(entry, error, "a batch cannot go on; it has failed");
          await this.#giveUp(entry, error);
          continue;
        }
        this.#note(entry, error);
        const ended = isRunning ? AbortSignal.any([signal, entry.stop.signal]) : signal;
        await pause(this.#parts.limits.batchRetryMs, undefined, { signal: ended }).catch(() => {});
      }
    }
  }

  /** Whether it is of no use to try again: what is damaged stays damaged, and a mistake in the server a mistake. */
  #isLasting(entry: Entry, error: unknown): boolean {
    if (error instanceof MillraceError && LASTING.includes(error.code)) return true;
    if (isPassing(error)) return false;
    const { completed, failed } = entry.record.batch.request_counts;
    const answered = completed + failed;
    const times = answered > entry.stuck.answered ? 1 : entry.stuck.times + 1;
    entry.stuck = { times, answered };
    return times >= MOST_TIMES;
  }

  /** Ends a batch that would get no further, with its answers so far where it has some. */
  async #giveUp(entry: Entry, error: unknown): Promise<void> {
    const { status } = entry.record.batch;
    const data = [{ ...reasonOf(error), line: null, param: null }];
    this.#change(entry, { errors: { object: "list", data } });
    if (status === "in_progress") return this.#turn(entry, "failed");
    this.#change(entry, { status: "failed", failed_at: now() });
    await this.#save(entry).catch((failure) => this.#note(entry, failure));
  }

  #step(entry: Entry): Promise<void> {
    switch (entry.record.batch.status) {
      case "validating":
        return this.#validate(entry);
      case "in_progress":
        return this.#run(entry);
      default:
        return this.#finish(entry);
    }
  }

  async #validate(entry: Entry): Promise<void> {
    const checked = this.#validating.then(() => this.#check(entry));
    this.#validating = checked.catch(() => {});
    const { lines, errors } = await checked;
    // It may have been cancelled in the meantime.
    if (entry.record.batch.status !== "validating") return;
    const counts = { total: lines.length, completed: 0, failed: 0 };
    if (errors.length > 0) {
      this.#change(entry, {
        status: "failed",
        failed_at: now(),
        errors: { object: "list", data: errors },
        request_counts: { ...counts, failed: 0 },
      });
    } else {
      const model = modelOf(lines);
      this.#change(entry, {
        status: "in_progress",
        in_progress_at: now(),
        request_counts: counts,
        ...(model === null ? {} : { model }),
      });
    }
    await this.#save(entry);
  }

  /** The lines of a batch's file, and what is wrong with them. */
  async #check(entry: Entry): Promise<{ lines: BatchLine[]; errors: BatchError[] }> {
    const { batch } = entry.record;
    const { batchLines } = this.#parts.limits;
    const lines = await this.#read(entry);
    const errors: BatchError[] = [];
    const wrong = (
      code: string,
      message: string,
      line: number | null = null,
      param: string | null = null,
    ) => {
      if (errors.length < MOST_ERRORS) errors.push({ code, message, line, param });
    };
    if (lines.length === 0) wrong("empty_file", "The file has no requests in it.");
    if (lines.length > batchLines) {
      wrong("too_many_requests", `The file has ${lines.length} requests; a batch has at most ${batchLines}.`);
    }
    for (const { number, request } of lines) {
      if (request instanceof MillraceError) {
        const { problem, param } = request.details as { problem: string; param: string | null };
        wrong(problem, request.message, number, param);
      } else if (request.url !== batch.endpoint) {
        const what = `Line ${number} is for ${request.url}; the batch is for ${batch.endpoint}.`;
        wrong("invalid_url", what, number, "url");
      }
    }
    return { lines, errors };
  }

  async #run(entry: Entry): Promise<void> {
    const { sequences, answerer, crashes } = this.#parts;
    const { owner, suspects } = entry;
    const signal = AbortSignal.any([this.#closing.signal, entry.stop.signal]);
    const slot = await this.#slots.take(owner, signal).catch(() => null);
    if (slot === null) return;
    using _slot = slot;
    const lines = await this.#read(entry);
    await using journal = await Journal.open(this.#answersOf(entry), lines);
    const count = () => {
      const completed = journal.answered.size - journal.failed;
      this.#change(entry, {
        request_counts: { total: lines.length, completed, failed: journal.failed },
      });
    };
    count();
    await runBatch({
      lines,
      journal,
      answerer: suspects.watch(answerer(owner), crashes),
      concurrency: AHEAD * sequences,
      measuring: MEASURING,
      page: PAGE,
      signal,
      onProgress: count,
    }).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
    if (entry.record.batch.status === "in_progress" && !signal.aborted) this.#turn(entry, "completed");
  }

  /** Makes files of the answers, and of what has none. May be done again, after a crash, from the start. */
  async #finish(entry: Entry): Promise<void> {
    const { owner, record } = entry;
    const { id, end, outputSeconds: seconds, batch } = record;
    await this.#save(entry);
    const lines = await this.#read(entry).catch(() => []);
    const path = this.#answersOf(entry);
    const usage = new BatchUsage();
    const answered = new Set<string>();
    const rows = async function* (failed: boolean): AsyncGenerator<Uint8Array, void> {
      // There is none where nothing ran.
      if ((await stat(path).catch(() => null)) === null) return;
      for await (const { end: _, ...row } of answerRecords(path)) {
        if (isFailure(row) !== failed) continue;
        answered.add(row.id);
        if (!failed) usage.add(row.response?.body);
        yield Buffer.from(`${JSON.stringify(row)}\n`);
      }
    };
    const failures = async function* (): AsyncGenerator<Uint8Array, void> {
      yield* rows(true);
      for (const line of lines) {
        const row = answerRecord(line, { response: null, error: UNANSWERED[end] });
        if (!answered.has(row.id)) yield Buffer.from(`${JSON.stringify(row)}\n`);
      }
    };
    const { outputId, errorId } = record;
    const output = { id: outputId, filename: `${id}_output.jsonl`, seconds };
    const error = { id: errorId, filename: `${id}_error.jsonl`, seconds };
    const outputFile = await this.files.writeOutput(owner, output, rows(false));
    const completed = answered.size;
    const errorFile = await this.files.writeOutput(owner, error, failures());
    const total = Math.max(batch.request_counts.total, lines.length);
    const ended: Batch = {
      ...batch,
      status: end,
      [`${end}_at` as const]: now(),
      output_file_id: outputFile?.id ?? null,
      error_file_id: errorFile?.id ?? null,
      request_counts: { total, completed, failed: total - completed },
      usage: usage.toJSON(),
    };
    // Nobody is told of an end that a crash could take back.
    await entry.folder.put({ ...record, batch: ended });
    await rm(path, { force: true });
    entry.record = { ...record, batch: ended };
  }

  /** Sends a batch towards its end; what is under way of it is ended. */
  #turn(entry: Entry, end: BatchRecord["end"]): void {
    entry.record = { ...entry.record, end };
    if (end === "cancelled") this.#change(entry, { status: "cancelling", cancelling_at: now() });
    else this.#change(entry, { status: "finalizing", finalizing_at: now() });
    entry.stop.abort();
  }

  /** Ends batches whose time is over, and forgets what ended long ago. */
  async #expire(): Promise<void> {
    const { fileSeconds } = this.#parts.limits;
    for (const entry of this.#entries.values()) {
      const { status, expires_at, created_at } = entry.record.batch;
      if (status === "validating" || status === "in_progress") {
        if (expires_at <= now()) this.#turn(entry, "expired");
      }
      const isOver = !isOpen(entry) || !this.#parts.isOwner(entry.owner);
      if (isOver && Math.max(expires_at, created_at + fileSeconds) <= now()) {
        this.#entries.delete(entry.record.id);
        await entry.folder.remove(entry.record.id, [ANSWERS]);
      }
    }
    await this.files.sweep((owner, file) => this.isInUse(owner, file));
  }

  #read({ owner, record: { batch } }: Entry): Promise<BatchLine[]> {
    const file = this.files.find(owner, batch.input_file_id);
    const gone = () => new MillraceError("FILE_NOT_FOUND", "The batch's file of requests is gone.");
    if (file === null) return Promise.reject(gone());
    return readLinesOf(this.files.pathOf(owner, file), this.#parts.limits.bodyBytes).catch(
      (error: NodeJS.ErrnoException) => {
        throw error.code === "ENOENT" ? gone() : error;
      },
    );
  }

  #change(entry: Entry, change: Partial<Batch>): void {
    entry.record = { ...entry.record, batch: { ...entry.record.batch, ...change } };
  }

  #save({ folder, record }: Entry): Promise<void> {
    return folder.put(record);
  }

  #note({ record: { id } }: Entry, error: unknown, what = "a batch cannot go on; it tries again"): void {
    this.#parts.logger.error({ batch: id, err: error }, what);
  }

  #entry(owner: string, record: BatchRecord): Entry {
    return {
      owner,
      folder: this.#folderOf(owner),
      record,
      stop: new AbortController(),
      suspects: new Suspects(),
      stuck: { times: 0, answered: 0 },
    };
  }

  #folderOf(owner: string): RecordFolder<BatchRecord> {
    return new RecordFolder(join(this.#parts.folder, owner, "batches"));
  }

  #answersOf({ folder, record }: Entry): string {
    return folder.path(record.id, ANSWERS);
  }

  #of(owner: string): Entry[] {
    return [...this.#entries.values()].filter((entry) => entry.owner === owner);
  }

  /** Those of others are unknown, too. */
  #get(owner: string, id: string): Entry {
    const entry = this.#entries.get(id);
    if (entry?.owner === owner) return entry;
    throw new ApiError(404, "batch_not_found", "There is no such batch.", { param: "id" });
  }
}

const isOpen = ({ record: { batch } }: Entry): boolean => OPEN.includes(batch.status);

/** What stays wrong however often it is tried. */
const LASTING: readonly string[] = ["FILE_NOT_FOUND", "BAD_FORMAT", "INVALID_ARGUMENT"];
/** What time mends: an engine comes back, a disk gets room again. */
const PASSING: readonly string[] = ["WORKER_CRASHED", "CLOSED", "WRITE_FAILED", "OUT_OF_BUDGET", "IN_USE"];

function isPassing(error: unknown): boolean {
  if (error instanceof ApiError) return error.code === "disk_full";
  if (error instanceof MillraceError) return PASSING.includes(error.code);
  // The system refused something.
  return error instanceof Error && "syscall" in error;
}

/** Why a batch failed, as its owner is told. The server's inside, its paths included, is for the log alone. */
function reasonOf(error: unknown): { readonly code: string; readonly message: string } {
  if (!(error instanceof MillraceError) || !LASTING.includes(error.code))
    return {
      code: "internal_error",
      message: "The server failed on this batch; its log has the batch's id.",
    };
  const message =
    error.code === "FILE_NOT_FOUND"
      ? error.message
      : "What the server has written down of the batch is damaged.";
  return { code: error.code.toLowerCase(), message };
}

/** What stands for the answers to requests that have none. */
const UNANSWERED = {
  completed: { code: "internal_error", message: "This request was not answered." },
  expired: {
    code: "batch_expired",
    message: "This request could not be executed before the completion window expired.",
  },
  cancelled: { code: "batch_cancelled", message: "This request was not executed: the batch was cancelled." },
  failed: { code: "batch_failed", message: "This request was not answered: the batch failed." },
} as const;

const secondsOf = (window: string): number => Number.parseInt(window, 10) * 3600;

/** The model that all lines name; null where they name several. */
function modelOf(lines: readonly BatchLine[]): string | null {
  const models = new Set(
    lines.map(({ request }) => (request instanceof MillraceError ? null : request.body.model)),
  );
  const [model] = models;
  return models.size === 1 && typeof model === "string" ? model : null;
}
