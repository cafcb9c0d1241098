/**
 * Errors as the AI SDK tells them apart: by marker symbols, so that none of its packages is needed to make them. The
 * `MillraceError` behind one is its `cause`.
 */
import { MillraceError } from "../errors.js";

/** An error that `AISDKError.isInstance` accepts, and that of the class called `name`. */
export class SdkError extends Error {
  override readonly name: string;

  constructor(name: string, cause: MillraceError, fields: Readonly<Record<string, unknown>>) {
    super(cause.message, { cause });
    this.name = name;
    Object.assign(this, {
      [Symbol.for("vercel.ai.error")]: true,
      [Symbol.for(`vercel.ai.error.${name}`)]: true,
      ...fields,
    });
  }
}

/** For content that no text model takes. */
export function unsupported(functionality: string, message: string): SdkError {
  const cause = new MillraceError("INVALID_ARGUMENT", message, { name: "prompt", got: functionality });
  return new SdkError("AI_UnsupportedFunctionalityError", cause, { functionality });
}

/** For an argument of the SDK's call that is wrong. */
export function invalidArgument(argument: string, message: string, reason?: unknown): SdkError {
  const cause = new MillraceError("INVALID_ARGUMENT", message, { name: argument }, { cause: reason });
  return new SdkError("AI_InvalidArgumentError", cause, { argument });
}

/** What is common to calls of all kinds of models; what was asked may be long and is in no error. */
interface AnyCall {
  readonly abortSignal?: AbortSignal | undefined;
  readonly prompt?: unknown;
  readonly values?: unknown;
}

/**
 * What ended a call, as the SDK expects it.
 *   - the caller's signal: what it was aborted with, an AbortError unless the caller chose otherwise
 *   - errors that are the SDK's already: as they are
 *   - all others: an `APICallError` that is not worth a retry, since nothing here fails by chance
 */
export function sdkError(
  error: unknown,
  modelId: string,
  { abortSignal, prompt: _, values: __, ...settings }: AnyCall,
): unknown {
  if (abortSignal?.aborted) return abortSignal.reason;
  if (error instanceof SdkError) return error;
  const cause = MillraceError.from(error);
  return new SdkError("AI_APICallError", cause, {
    url: `millrace:${modelId}`,
    requestBodyValues: settings,
    isRetryable: false,
    data: cause.toJSON(),
  });
}
