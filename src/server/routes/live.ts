/** GET /v1/live: what the server does, twice a second, for the page. */
import { setTimeout as pause } from "node:timers/promises";
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { ServerContext, ServerEnv } from "../context.js";
import { event, eventStream, STREAM_HEADERS } from "../event-stream.js";
import { errors } from "../schemas/common.js";
import { load } from "../schemas/live.js";

const EVERY_MS = 500;

const live = createRoute({
  method: "get",
  path: "/v1/live",
  summary: "What the server does at the moment, as events without end",
  responses: {
    200: { description: "Two events a second.", content: { "text/event-stream": { schema: load } } },
    ...errors,
  },
});

export function addLive(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  app.openapi(live, async (c) => {
    const work = c.get("work");
    work.withoutEnd();
    return c.body(await eventStream(work, loads(context, work.signal)), 200, STREAM_HEADERS);
  });
}

async function* loads(
  { models, metrics, works }: ServerContext,
  signal: AbortSignal,
): AsyncGenerator<string, void> {
  const before = new Map<string, number>();
  let then = performance.now();
  const gaps = metrics.watchGaps();
  try {
    while (!signal.aborted && !works.draining) {
      const usages = await Promise.all(
        models.list.map(async (served) => ({ served, usage: await served.usage() })),
      );
      const now = performance.now();
      const list = usages.flatMap(({ served: { name }, usage }) => {
        // An engine that has crashed has nothing to tell until it is back, and then begins to count anew.
        if (usage === null) {
          before.delete(name);
          return [];
        }
        const ran = usage.ran - (before.get(name) ?? usage.ran);
        before.set(name, usage.ran);
        return {
          name,
          tokens_per_second: (1000 * ran) / Math.max(1, now - then),
          running: usage.running,
          waiting: usage.waiting,
          used_bytes: usage.used * usage.pageBytes,
          cached_bytes: (usage.prefix?.evictable ?? 0) * usage.pageBytes,
          cache_bytes: usage.pages * usage.pageBytes,
        };
      });
      then = now;
      yield event({ gap_ms: gaps.take(), resident_bytes: process.memoryUsage.rss(), models: list });
      // Ends early, and quietly, when the request does.
      await pause(EVERY_MS, undefined, { signal }).catch(() => {});
    }
  } finally {
    gaps.stop();
  }
}
