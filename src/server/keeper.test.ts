import { describe, expect, it } from "vitest";
import { MillraceError, type Model } from "../index.js";
import { type Clock, Keeper, pauseAfter } from "./keeper.js";

/** A clock that stands until it is told to go on. */
class ManualClock implements Clock {
  #now = 0;
  #timers: { at: number; action: () => void }[] = [];

  now = () => this.#now;

  after = (ms: number, action: () => void) => {
    const timer = { at: this.#now + ms, action };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  };

  async pass(ms: number): Promise<void> {
    this.#now += ms;
    const due = this.#timers.filter(({ at }) => at <= this.#now);
    this.#timers = this.#timers.filter(({ at }) => at > this.#now);
    for (const { action } of due) action();
    await settled();
  }
}

/** Everything that is ready to run has run. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

const CRASH = new MillraceError("WORKER_CRASHED", "gone");
const PATIENCE_MS = 5000;

function fakeModel() {
  let end = (_error: MillraceError) => {};
  const ended = new Promise<MillraceError>((resolve) => {
    end = resolve;
  });
  let closed = 0;
  const model = { ended, close: async () => void closed++, usage: async () => ({}) } as unknown as Model;
  return { model, end, closed: () => closed };
}

function bench(open: () => Promise<Model> = async () => fakeModel().model) {
  const clock = new ManualClock();
  const first = fakeModel();
  const told: string[] = [];
  const keeper = new Keeper(
    first.model,
    open,
    {
      failed: (error, crashed, retry) => told.push(`${crashed ? "crash" : error.code} ${retry}`),
      reopened: () => told.push("reopened"),
    },
    PATIENCE_MS,
    clock,
  );
  return { clock, first, told, keeper };
}

const never = new AbortController().signal;
const ENGINE_CRASHED = { status: 503, code: "engine_crashed" };

describe("an engine that crashes", () => {
  it("is opened again, and who waits gets the new one", async () => {
    const second = fakeModel();
    const { clock, first, told, keeper } = bench(async () => second.model);
    expect([keeper.model, keeper.health]).toEqual([
      first.model,
      { state: "ready", crashes: 0, retryInMs: null },
    ]);
    first.end(CRASH);
    await settled();
    expect(() => keeper.model).toThrow(expect.objectContaining(ENGINE_CRASHED));
    expect(await keeper.usage()).toBeNull();
    expect(keeper.health).toEqual({ state: "waiting", crashes: 1, retryInMs: 0 });
    const waiting = keeper.ready(never);
    await clock.pass(0);
    await waiting;
    expect([keeper.model, keeper.health.state]).toEqual([second.model, "ready"]);
    expect(told).toEqual(["crash 0", "reopened"]);
    await keeper.close();
    expect([first.closed(), second.closed()]).toEqual([0, 1]);
  });

  it("waits longer each time it fails in a row, and at most a minute", async () => {
    expect([1, 2, 3, 4, 9, 100].map(pauseAfter)).toEqual([0, 1000, 2000, 4000, 60_000, 60_000]);
    let fails = 2;
    const models = [fakeModel(), fakeModel()];
    const { clock, first, told, keeper } = bench(async () => {
      if (fails-- > 0) throw new MillraceError("OUT_OF_BUDGET", "full");
      return models[-fails - 1]!.model;
    });
    first.end(CRASH);
    await settled();
    await clock.pass(0);
    await clock.pass(1000);
    await clock.pass(2000);
    expect(told).toEqual(["crash 0", "OUT_OF_BUDGET 1000", "OUT_OF_BUDGET 2000", "reopened"]);
    // It crashes at once; then after it has run well.
    models[0]!.end(CRASH);
    await settled();
    await clock.pass(4000);
    await clock.pass(60_000);
    models[1]!.end(CRASH);
    await settled();
    expect(told.slice(4)).toEqual(["crash 4000", "reopened", "crash 0"]);
    await keeper.close();
  });

  it("lets nobody wait in vain, and says when to come back", async () => {
    const { clock, first, keeper } = bench(async () => {
      throw new MillraceError("OUT_OF_BUDGET", "full");
    });
    first.end(CRASH);
    await settled();
    for (const pause of [0, 1000, 2000, 4000]) await clock.pass(pause);
    expect(keeper.health.retryInMs).toBe(8000);
    await expect(keeper.ready(never)).rejects.toMatchObject({
      ...ENGINE_CRASHED,
      headers: { "Retry-After": "8" },
    });
    await keeper.close();
  });

  it("lets nobody wait longer than so long, nor who has gone", async () => {
    const { clock, first, keeper } = bench(() => new Promise(() => {}));
    first.end(CRASH);
    await settled();
    await clock.pass(0);
    expect(keeper.health.state).toBe("reopening");
    const gone = new AbortController();
    const left = expect(keeper.ready(gone.signal)).rejects.toMatchObject(ENGINE_CRASHED);
    const late = expect(keeper.ready(never)).rejects.toMatchObject({ headers: { "Retry-After": "1" } });
    gone.abort();
    await left;
    await clock.pass(PATIENCE_MS);
    await late;
  });

  it("stays away where nothing opens it again, or who opened it closes it", async () => {
    const told: unknown[] = [];
    const first = fakeModel();
    const listener = { failed: (...what: unknown[]) => told.push(what), reopened: () => {} };
    const keeper = new Keeper(first.model, null, listener, PATIENCE_MS, new ManualClock());
    first.end(CRASH);
    await settled();
    expect(told).toEqual([[CRASH, true, null]]);
    const refused = expect(keeper.ready(never)).rejects;
    await refused.toMatchObject({ ...ENGINE_CRASHED, headers: {} });
    const closed = bench();
    closed.first.end(new MillraceError("CLOSED", "closed"));
    await settled();
    expect([closed.told, closed.keeper.model]).toEqual([[], closed.first.model]);
  });

  it("is not opened any more once the server ends", async () => {
    const { clock, first, told, keeper } = bench();
    first.end(CRASH);
    await settled();
    await keeper.close();
    await clock.pass(10);
    expect([told, keeper.health.state]).toEqual([["crash 0"], "waiting"]);
  });
});
