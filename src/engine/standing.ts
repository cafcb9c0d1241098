/** Where a request, or what is asked of a session, stands among those of others: whose it is, how urgent, and until when it is of use. */
import { type ErrorDetails, MillraceError } from "../errors.js";
import { parseDuration } from "./duration.js";
import { invalid } from "./options.js";

/** What `Model.generate`, and a session's `append`, `score` and `generate`, may be told of their standing. None of it changes what is answered, only when. */
export interface StandingOptions {
  /**
   * Whose request this is: a name of your choice. Clients who wait at the same time get equal shares of the model, by
   * tokens, however many requests each of them sends. Requests without one count together as one client.
   */
  readonly client?: string;
  /**
   * Higher ones go first; a level that waits long for its turn counts as a higher one, so none is forgotten. Where a
   * higher one finds no room, lower ones that run are put away on disk until there is, and go on where they stood.
   * Whole numbers from -100 to 100. Default 0. At -100 a request also stands still while others run, but for a tenth of
   * the time: for work that nobody waits for.
   */
  readonly priority?: number;
  /**
   * How long the answer is of use: milliseconds, or "30s", from when the generation starts. A request that is still
   * waiting then fails with DEADLINE_PASSED; one that runs ends with what it has said, and finish reason "deadline".
   * Default: for ever.
   */
  readonly deadline?: number | string;
}

/** The names in `StandingOptions`, to be refused with a caller's own. */
export const STANDING_OPTIONS: readonly (keyof StandingOptions)[] = ["client", "priority", "deadline"];

const MOST_PRIORITY = 100;
const MOST_CLIENT = 256;

/** What travels to the worker. */
export interface Standing {
  readonly client?: string;
  readonly priority?: number;
  /** Milliseconds since the epoch, on the clock that a process's threads share: see `sharedNow`. */
  readonly deadline?: number;
}

/** A standing with its deadline on this thread's clock, which is the engine's. */
export function onEngineClock(standing: Standing = {}): Standing {
  const { deadline, ...rest } = standing;
  return deadline === undefined ? rest : { ...rest, deadline: deadline - performance.timeOrigin };
}

/** Milliseconds since the epoch; all threads of a process read the same, and it never goes back. */
export const sharedNow = (): number => performance.timeOrigin + performance.now();

/** Checks at once; what it returns is called when the time begins to run. Throws INVALID_ARGUMENT. */
export function standing({ client, priority, deadline }: StandingOptions): () => Standing {
  if (
    client !== undefined &&
    !(typeof client === "string" && client !== "" && client.length <= MOST_CLIENT)
  ) {
    throw invalid("client", client, `a text of 1 to ${MOST_CLIENT} characters`);
  }
  if (priority !== undefined && !(Number.isInteger(priority) && Math.abs(priority) <= MOST_PRIORITY)) {
    throw invalid("priority", priority, `a whole number from -${MOST_PRIORITY} to ${MOST_PRIORITY}`);
  }
  const ms = deadline === undefined ? undefined : parseDuration(deadline, "deadline");
  return () => ({
    ...(client === undefined ? {} : { client }),
    ...(priority === undefined ? {} : { priority }),
    ...(ms === undefined ? {} : { deadline: sharedNow() + ms }),
  });
}

/** DEADLINE_PASSED for what was asked `askedAt`, on this thread's clock, and never came to its end; `left`: how that stands. */
export function tooLate(
  what: "request" | "answer" | "append",
  askedAt: number,
  details: ErrorDetails = {},
  left = "nothing of it was run",
): MillraceError {
  const waitedMs = Math.round(performance.now() - askedAt);
  return new MillraceError(
    "DEADLINE_PASSED",
    `The ${what}'s deadline passed while it waited for its turn, ${waitedMs} ms long: ${left}. Allow it more time, or let fewer wait.`,
    { waitedMs, ...details },
  );
}
