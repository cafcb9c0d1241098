/**
 * What goes wrong, in OpenAI's shape: `{ error: { message, type, param, code } }`. Clients switch on `code`; docs/server.md
 * lists them.
 */
import { HTTPException } from "hono/http-exception";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { ZodError } from "zod";
import { type ErrorCode, MillraceError } from "../index.js";
import { snake } from "./names.js";

/** The body of every answer that is an error. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    /** The field of the request that it is about. */
    readonly param: string | null;
    readonly code: string;
    /** The numbers behind the message, where there are some. */
    readonly details?: Readonly<Record<string, unknown>>;
  };
}

interface Extras {
  readonly param?: string | null;
  readonly headers?: Readonly<Record<string, string>>;
  readonly details?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** An answer that is an error; thrown anywhere below a route. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: ContentfulStatusCode;
  readonly code: string;
  readonly param: string | null;
  readonly headers: Readonly<Record<string, string>>;
  readonly details: Readonly<Record<string, unknown>> | null;

  constructor(status: ContentfulStatusCode, code: string, message: string, extras: Extras = {}) {
    super(message, { cause: extras.cause });
    this.status = status;
    this.code = code;
    this.param = extras.param ?? null;
    this.headers = extras.headers ?? {};
    this.details = extras.details ?? null;
  }

  get body(): ErrorBody {
    const { message, param, code } = this;
    const details = Object.entries(this.details ?? {}).map(([name, value]) => [snake(name), value]);
    return {
      error: {
        message,
        type: typeOf(this.status),
        param,
        code,
        ...(details.length > 0 ? { details: Object.fromEntries(details) } : {}),
      },
    };
  }
}

function typeOf(status: number): string {
  if (status === 401) return "authentication_error";
  if (status === 403) return "permission_error";
  if (status === 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

/** Status and code of each of our own errors, as clients of OpenAI's API know them where there is a word for it. */
const STATUS: Readonly<Record<ErrorCode, readonly [ContentfulStatusCode, string]>> = {
  INVALID_ARGUMENT: [400, "invalid_value"],
  INVALID_TOKEN: [400, "invalid_token"],
  PROMPT_TOO_LONG: [400, "context_length_exceeded"],
  BAD_TEMPLATE: [400, "bad_template"],
  UNSUPPORTED_TOKENIZER: [400, "unsupported_tokenizer"],
  FILE_NOT_FOUND: [404, "not_found"],
  BAD_FORMAT: [422, "bad_format"],
  UNSUPPORTED_FORMAT: [422, "unsupported_format"],
  WRONG_MODEL: [422, "wrong_model"],
  OUT_OF_BUDGET: [503, "out_of_memory"],
  CLOSED: [503, "closed"],
  WORKER_CRASHED: [503, "engine_crashed"],
  ABORTED: [503, "aborted"],
  DEADLINE_PASSED: [504, "deadline_passed"],
  WRITE_FAILED: [500, "write_failed"],
  IN_USE: [409, "in_use"],
  BAD_LOGITS: [500, "bad_logits"],
  INTERNAL: [500, "internal_error"],
  UNSUPPORTED_TENSOR_TYPE: [500, "unsupported_tensor_type"],
  UNSUPPORTED_ARCHITECTURE: [500, "unsupported_architecture"],
  MISSING_TENSOR: [500, "missing_tensor"],
  MISSING_METADATA: [500, "missing_metadata"],
  BAD_SHAPE: [500, "bad_shape"],
  BAD_TOKENIZER: [500, "bad_tokenizer"],
  DOWNLOAD_FAILED: [500, "download_failed"],
  BACKEND_UNAVAILABLE: [500, "backend_unavailable"],
  SELF_CHECK_FAILED: [500, "self_check_failed"],
  TRAINING_DIVERGED: [500, "training_diverged"],
};

/** `error` as an answer. What nobody foresaw says nothing of its inside; the log does. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof HTTPException) return fromHttp(error);
  if (!(error instanceof MillraceError) || error.code === "INTERNAL") {
    return new ApiError(
      500,
      "internal_error",
      "The server failed on this request; its log has the request's id.",
      {
        cause: error,
      },
    );
  }
  const [status, code] = STATUS[error.code];
  const { name, ...details } = error.details;
  return new ApiError(status, code, error.message, {
    param: typeof name === "string" ? paramOf(name) : null,
    cause: error,
    ...(Object.keys(details).length > 0 ? { details } : {}),
  });
}

/** What the API calls an option. */
const paramOf = (name: string): string => snake(name).replace(/^format\b/, "response_format");

function fromHttp({ status, message }: HTTPException): ApiError {
  if (status === 400) {
    return new ApiError(400, "invalid_json", "The body of the request is not valid JSON.");
  }
  if (status === 415) {
    return new ApiError(
      415,
      "unsupported_media_type",
      "Send a JSON body with the header Content-Type: application/json.",
    );
  }
  return new ApiError(status as ContentfulStatusCode, "invalid_request", message);
}

/** The first thing that is wrong with `value`, which `error` is about. */
export function fromZod(error: ZodError, value: unknown): ApiError {
  const issue = deepest(error.issues);
  const param = pathOf(issue.path);
  if (issue.code === "unrecognized_keys") {
    const key = pathOf([...issue.path, issue.keys[0]!]);
    return new ApiError(400, "unknown_parameter", `Unknown parameter: '${key}'.`, { param: key });
  }
  const named = param === "" ? "The body of the request" : `'${param}'`;
  const extras = { param: param === "" ? null : param };
  if (issue.code === "invalid_type" && issue.expected === "null") {
    return new ApiError(
      400,
      "unsupported_parameter",
      `${named} is not supported here: ${issue.message}.`,
      extras,
    );
  }
  if (issue.path.length > 0 && valueAt(value, issue.path) === undefined) {
    return new ApiError(400, "missing_required_parameter", `Missing required parameter: ${named}.`, extras);
  }
  const code = issue.code === "invalid_type" ? "invalid_type" : "invalid_value";
  return new ApiError(400, code, `${named} is not accepted: ${issue.message}.`, extras);
}

type Issue = ZodError["issues"][number];

/** Of a union, the branch that went furthest before it failed is the one that was meant. */
function deepest(issues: readonly Issue[]): Issue {
  const first = issues[0]!;
  if (first.code !== "invalid_union" || first.errors.length === 0) return first;
  const branches = first.errors.map((branch) => deepest(branch as Issue[]));
  const furthest = Math.max(...branches.map(({ path }) => path.length));
  if (furthest === 0) {
    const kinds = branches.flatMap((branch) => (branch.code === "invalid_type" ? [branch.expected] : []));
    const [only] = branches.filter(({ code }) => code !== "invalid_type");
    if (only) return { ...only, path: [...first.path, ...only.path] };
    return { ...first, message: `expected ${kinds.join(" or ")}` };
  }
  const branch = branches.find(({ path }) => path.length === furthest)!;
  return { ...branch, path: [...first.path, ...branch.path] };
}

const pathOf = (path: readonly PropertyKey[]): string =>
  path.reduce<string>((whole, part) => {
    if (typeof part === "number") return `${whole}[${part}]`;
    return whole === "" ? String(part) : `${whole}.${String(part)}`;
  }, "");

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (inner, part) =>
      typeof inner === "object" && inner !== null ? (inner as Record<PropertyKey, unknown>)[part] : undefined,
    value,
  );
}
