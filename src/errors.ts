/**
 * The one table of error codes. Every error that Millrace throws on purpose is a `MillraceError` whose `code`
 * is a key of `ERRORS`; docs/errors.md is tied to this table by a test.
 *
 * A message says what was got, what was expected and what to do; `details` carries the numbers.
 */
export const ERRORS = {
  INVALID_ARGUMENT: { exit: 2, summary: "An option or argument has a value that is not accepted." },
  FILE_NOT_FOUND: { exit: 3, summary: "A model file or folder does not exist or cannot be read." },
  BAD_FORMAT: { exit: 4, summary: "A file is truncated, corrupt or not of the format its name claims." },
  UNSUPPORTED_FORMAT: { exit: 4, summary: "A file's format or format version is not one Millrace reads." },
  UNSUPPORTED_TENSOR_TYPE: { exit: 4, summary: "A tensor is stored in a type Millrace has no kernel for." },
  UNSUPPORTED_ARCHITECTURE: {
    exit: 4,
    summary: "No file in src/models/ carries the checkpoint's architecture.",
  },
  MISSING_TENSOR: { exit: 4, summary: "The checkpoint lacks a tensor that its architecture needs." },
  MISSING_METADATA: { exit: 4, summary: "The checkpoint lacks a metadata key that its architecture needs." },
  WRONG_MODEL: { exit: 4, summary: "A saved session belongs to another model, tokenizer or adapter." },
  BAD_SHAPE: { exit: 4, summary: "A tensor's shape contradicts the checkpoint's metadata." },
  BAD_TOKENIZER: {
    exit: 4,
    summary: "The tokenizer data in the checkpoint is missing parts or contradictory.",
  },
  UNSUPPORTED_TOKENIZER: {
    exit: 4,
    summary: "The checkpoint names a tokenizer or pre-tokeniser not known here.",
  },
  BAD_TEMPLATE: { exit: 4, summary: "The chat template is missing or failed to render the messages." },
  DOWNLOAD_FAILED: {
    exit: 5,
    summary: "A file could not be downloaded; what has arrived is kept for a resume.",
  },
  WRITE_FAILED: { exit: 5, summary: "A file could not be written; what was there before is untouched." },
  IN_USE: { exit: 5, summary: "Another process is at work on the same file or folder." },
  BACKEND_UNAVAILABLE: { exit: 6, summary: "The backend asked for cannot run on this machine." },
  SELF_CHECK_FAILED: {
    exit: 6,
    summary: "A backend's small sums disagree with the known answers; it is not used.",
  },
  OUT_OF_BUDGET: { exit: 7, summary: "Something does not fit the byte budget; nothing was allocated." },
  PROMPT_TOO_LONG: { exit: 7, summary: "A prompt needs more cache than the budget or the context allows." },
  INVALID_TOKEN: { exit: 2, summary: "A token id lies outside the model's vocabulary." },
  BAD_LOGITS: { exit: 9, summary: "The model's output holds NaN or infinity, or leaves no token to choose." },
  TRAINING_DIVERGED: {
    exit: 9,
    summary: "A loss, a gradient or a weight became NaN or infinite; the last good checkpoint is kept.",
  },
  ABORTED: { exit: 130, summary: "The caller's AbortSignal ended the work." },
  DEADLINE_PASSED: { exit: 124, summary: "A request's deadline passed while it waited for its turn." },
  CLOSED: { exit: 8, summary: "The model was closed before or during the call." },
  WORKER_CRASHED: { exit: 9, summary: "The engine's worker ended unexpectedly; the process itself goes on." },
  INTERNAL: { exit: 10, summary: "A state that should be impossible; please report it." },
} as const satisfies Record<string, { exit: number; summary: string }>;

/** The codes of `ERRORS`: stable, to be told apart by. */
export type ErrorCode = keyof typeof ERRORS;

/** Values that an error may carry across the worker boundary. */
export type ErrorDetails = Record<string, string | number | boolean | null | readonly (string | number)[]>;

/** The only error class that Millrace throws on purpose. */
export class MillraceError extends Error {
  override readonly name = "MillraceError";

  constructor(
    /** A key of `ERRORS`: stable across versions, made to be switched on. */
    readonly code: ErrorCode,
    message: string,
    /** The numbers behind the message. */
    readonly details: ErrorDetails = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /** Process exit code of the CLI for this error. */
  get exitCode(): number {
    return ERRORS[this.code].exit;
  }

  /** Plain form that survives structured clone; `fromJSON` reads it back. */
  toJSON(): { code: ErrorCode; message: string; details: ErrorDetails } {
    return { code: this.code, message: this.message, details: this.details };
  }

  static fromJSON(json: { code: ErrorCode; message: string; details: ErrorDetails }): MillraceError {
    return new MillraceError(json.code, json.message, json.details);
  }

  /** `error` itself when it is ours, otherwise an INTERNAL error that keeps it as its cause. */
  static from(error: unknown): MillraceError {
    if (error instanceof MillraceError) return error;
    const message = error instanceof Error ? error.message : String(error);
    return new MillraceError("INTERNAL", message, {}, { cause: error });
  }
}
