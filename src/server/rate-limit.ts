/** How much one client may ask for in a minute. */
import { ApiError } from "./errors.js";

/** Clients that are remembered; beyond, those are forgotten that have all of their minute left. */
const MAX_CLIENTS = 10_000;

interface Bucket {
  /** What is left; below 0 where more was used than was foreseen. */
  left: number;
  /** When `left` was right, in milliseconds. */
  at: number;
}

/** A bucket per client that fills by `perMinute` a minute and holds as much. */
export class RateLimit {
  readonly perMinute: number;
  readonly #what: string;
  readonly #now: () => number;
  readonly #buckets = new Map<string, Bucket>();

  /** @param what What is counted, for messages: "requests". */
  constructor(what: string, perMinute: number, now: () => number = () => performance.now()) {
    this.perMinute = perMinute;
    this.#what = what;
    this.#now = now;
  }

  /** Takes `count`; may go below 0, for what is known only afterwards. */
  use(client: string, count: number): void {
    this.#bucket(client).left -= count;
  }

  /** Throws 429 where less than `count` is left. */
  check(client: string, count = 1): void {
    const { left } = this.#bucket(client);
    if (left >= count) return;
    const seconds = Math.ceil(((count - left) / this.perMinute) * 60);
    throw new ApiError(
      429,
      "rate_limit_exceeded",
      `More than ${this.perMinute} ${this.#what} in a minute; try again in ${seconds} s.`,
      {
        headers: { "Retry-After": String(seconds), ...this.headers(client) },
        details: { retryAfter: seconds },
      },
    );
  }

  /** What OpenAI's clients read of it. */
  headers(client: string): Record<string, string> {
    const left = Math.max(0, Math.floor(this.#bucket(client).left));
    return {
      [`x-ratelimit-limit-${this.#what}`]: String(this.perMinute),
      [`x-ratelimit-remaining-${this.#what}`]: String(left),
    };
  }

  #bucket(client: string): Bucket {
    const now = this.#now();
    let bucket = this.#buckets.get(client);
    if (bucket === undefined) {
      if (this.#buckets.size >= MAX_CLIENTS) this.#forget(now);
      bucket = { left: this.perMinute, at: now };
      this.#buckets.set(client, bucket);
    }
    bucket.left = this.#filled(bucket, now);
    bucket.at = now;
    return bucket;
  }

  #filled({ left, at }: Bucket, now: number): number {
    return Math.min(this.perMinute, left + ((now - at) / 60_000) * this.perMinute);
  }

  #forget(now: number): void {
    for (const [client, bucket] of this.#buckets) {
      if (this.#filled(bucket, now) >= this.perMinute) this.#buckets.delete(client);
    }
  }
}
