/** Server-sent events that go as fast as their reader, and no faster. */
import { ApiError, toApiError } from "./errors.js";
import { gone, type Work } from "./work.js";

/** In milliseconds: a line that keeps proxies and clients from giving up comes after so long, or up to twice that, without any other. */
const HEARTBEAT_MS = 7500;
/** A reader may stand still so long, in milliseconds: an answer that nobody takes holds a place that others wait for. */
const STILL_MS = 60_000;
/** How long the first event may hold back the status of the answer, so that what is refused at once has its own. */
const STATUS_MS = 1000;

export const STREAM_HEADERS = {
  "Content-Type": "text/event-stream; charset=utf-8",
  "Cache-Control": "no-cache",
  // Proxies of the nginx kind would gather events otherwise.
  "X-Accel-Buffering": "no",
} as const;

/** One event that holds `value`. */
export const event = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`;
/** What OpenAI's streams end with. */
export const DONE = "data: [DONE]\n\n";

const HEARTBEAT = ": still here\n\n";

/**
 * `events` as the body of an answer. An event is asked for when the reader has taken the one before; `work` ends with the
 * stream, and is aborted when its reader goes away, or, where it has an end, takes nothing for a minute. What fails before the first event, within a second, is thrown; later,
 * it is the stream's last event.
 */
export async function eventStream(
  work: Work,
  events: AsyncGenerator<string, void>,
): Promise<ReadableStream<Uint8Array>> {
  const encoder = new TextEncoder();
  let next: Promise<IteratorResult<string, void>> | null = events.next();
  await within(STATUS_MS, next);
  work.stream();
  let controller: ReadableStreamDefaultController<Uint8Array>;
  let reading = false;
  let ended = false;
  let quiet = true;
  let stillMs = 0;

  const say = (text: string) => {
    quiet = false;
    controller.enqueue(encoder.encode(text));
  };
  // One for the whole stream: a timer for each event would cost as much as the event.
  const heart = setInterval(() => {
    // A reader that stands still finds one when it goes on, and no heap of them.
    if (quiet && reading && controller.desiredSize === 0) say(HEARTBEAT);
    quiet = true;
    stillMs = reading ? 0 : stillMs + HEARTBEAT_MS;
    if (stillMs >= STILL_MS && work.hasEnd) work.abort(stoodStill());
  }, HEARTBEAT_MS);
  heart.unref();
  const end = (failure: ApiError | null) => {
    if (ended) return;
    ended = true;
    clearInterval(heart);
    if (failure) say(event(failure.body));
    controller.close();
    work.end(failure);
    // It may stand at an event that nobody will ask for.
    events.return().catch(() => {});
  };
  // A reader that stands still would never learn of it.
  const onAbort = () => {
    if (!reading) end(work.reason);
  };
  work.signal.addEventListener("abort", onAbort);

  return new ReadableStream<Uint8Array>(
    {
      start(given) {
        controller = given;
      },
      async pull() {
        reading = true;
        stillMs = 0;
        next ??= events.next();
        try {
          const came = await next;
          if (ended) return;
          next = null;
          if (came.done) end(null);
          else say(came.value);
        } catch (error) {
          end(work.reason ?? toApiError(error));
        } finally {
          reading = false;
        }
      },
      async cancel() {
        ended = true;
        clearInterval(heart);
        const reason = gone();
        work.abort(reason);
        await events.return().catch(() => {});
        work.end(work.reason);
      },
    },
    { highWaterMark: 0 },
  );
}

const stoodStill = (): ApiError =>
  new ApiError(408, "reader_too_slow", `Nothing of the answer was taken for ${STILL_MS / 1000} s.`);

/** What `promise` comes to, or null where it takes longer than `ms`. */
async function within<T>(ms: number, promise: Promise<T>): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, ms, null);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
