/** GET /health, GET /metrics */
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import type { ServerContext, ServerEnv } from "../context.js";
import { answer } from "../schemas/common.js";

const status = z
  .object({
    status: z.enum(["ok", "failing", "draining"]).openapi({ description: "failing: an engine has crashed." }),
    models: z.array(
      z.object({
        id: z.string(),
        ok: z.boolean(),
        state: z.enum(["ready", "reopening", "waiting", "crashed"]).openapi({
          description:
            "After a crash an engine is opened again; waiting: after a pause, where it crashes often.",
        }),
        crashes: z.int().openapi({ description: "Since the server started." }),
        retry_in_seconds: z.number().optional().openapi({ description: "Until it is opened again." }),
      }),
    ),
    requests: z.int().openapi({ description: "Under way." }),
    sessions: z.int(),
  })
  .openapi("Health");

const health = createRoute({
  method: "get",
  path: "/health",
  summary: "Whether the server can answer",
  responses: { 200: answer(status, "It can."), 503: answer(status, "It cannot, or will not soon.") },
});

const metrics = createRoute({
  method: "get",
  path: "/metrics",
  summary: "Figures for Prometheus",
  responses: {
    200: { description: "Text format 0.0.4.", content: { "text/plain": { schema: z.string() } } },
  },
});

/** How long an engine may take to say that it is there, in milliseconds. */
const PATIENCE_MS = 5000;

export function addHealth(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  const { models, works, sessions } = context;
  app.openapi(health, async (c) => {
    const states = await Promise.all(
      models.list.map(async (served) => {
        const ok = await answers(served.usage());
        const { state, crashes, retryInMs } = served.health;
        const retry = retryInMs === null ? {} : { retry_in_seconds: Math.round(retryInMs) / 1000 };
        return { id: served.name, ok, state, crashes, ...retry };
      }),
    );
    const allOk = states.every(({ ok }) => ok);
    const state = works.draining ? "draining" : allOk ? "ok" : "failing";
    const body = { status: state, models: states, requests: works.size, sessions: sessions.size } as const;
    return state === "ok" ? c.json(body, 200) : c.json(body, 503);
  });
  app.openapi(metrics, async (c) => {
    const text = await context.metrics.text();
    return c.text(text, 200, { "Content-Type": context.metrics.registry.contentType });
  });
}

/** Whether `promise` comes to anything but null; an engine in a long step is no dead one. */
async function answers(promise: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, PATIENCE_MS, true);
  });
  try {
    return await Promise.race([promise.then((usage) => usage !== null), late]);
  } finally {
    clearTimeout(timer);
  }
}
