/** What makes requests that are wrong, and wants each refused. */
import { expect } from "vitest";
import type { TestRandom } from "./random.js";
import type { Asked } from "./server.js";

/** One of `from`. */
export const pick = <T>(random: TestRandom, from: readonly T[]): T => from[random.below(from.length)]!;

/** Fails unless `asked` is an error of the client's, in OpenAI's shape. */
export function expectRefused({ status, body }: Asked, what: () => unknown): void {
  const error = body?.error;
  const isShaped =
    typeof error?.message === "string" &&
    typeof error.code === "string" &&
    typeof error.type === "string" &&
    (error.param === null || typeof error.param === "string");
  if (status >= 400 && status < 500 && isShaped) return;
  expect.fail(`${JSON.stringify(what()).slice(0, 400)}: ${status} ${JSON.stringify(body)?.slice(0, 400)}`);
}

/** Random JSON; no request that is one. */
export function anything(random: TestRandom, depth: number): unknown {
  const kind = random.below(depth === 0 ? 5 : 7);
  switch (kind) {
    case 0:
      return null;
    case 1:
      return random.next() < 0.5;
    case 2:
      return (random.next() - 0.5) * 10 ** random.below(300);
    case 3:
      return pick(random, ["", "user", "\ud800", "\u0000", "__proto__", "x".repeat(500)]);
    case 4:
      return random.below(1000);
    case 5:
      return Array.from({ length: random.below(5) }, () => anything(random, depth - 1));
    default: {
      const entries = Array.from({ length: random.below(5) }, () => [
        pick(random, KEYS),
        anything(random, depth - 1),
      ]);
      return Object.fromEntries(entries);
    }
  }
}

const KEYS = [
  "model",
  "messages",
  "prompt",
  "role",
  "content",
  "__proto__",
  "constructor",
  "toString",
  "type",
  "",
];
