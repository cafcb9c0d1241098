import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { eventStream } from "./event-stream.js";
import { Work } from "./work.js";

describe("eventStream", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval"] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  /** A stream of what `push` says, and what its reader got. */
  async function open() {
    let push: (event: string | null) => void = () => {};
    async function* events(): AsyncGenerator<string, void> {
      for (;;) {
        const event = await new Promise<string | null>((resolve) => {
          push = resolve;
        });
        if (event === null) return;
        yield event;
      }
    }
    const ended = vi.fn();
    const opening = eventStream(new Work("req_1", 1e6, ended), events());
    await vi.advanceTimersByTimeAsync(1000);
    const reader = (await opening).getReader();
    const read = async () => {
      const { value, done } = await reader.read();
      return done ? null : new TextDecoder().decode(value);
    };
    return { read, reader, ended, push: (event: string | null) => push(event) };
  }

  it("gives events as they come, and says that it is still here where none does", async () => {
    const { read, push, ended } = await open();
    const first = read();
    push("one");
    expect(await first).toBe("one");
    const second = read();
    await vi.advanceTimersByTimeAsync(15_000);
    expect(await second).toBe(": still here\n\n");
    const third = read();
    push("two");
    expect(await third).toBe("two");
    const last = read();
    await vi.advanceTimersByTimeAsync(1);
    push(null);
    expect(await last).toBe(null);
    expect(ended).toHaveBeenCalledOnce();
    expect(vi.getTimerCount()).toBe(0);
  });

  it("keeps one such line for a reader that stands still", async () => {
    const { read, push } = await open();
    const first = read();
    await vi.advanceTimersByTimeAsync(120_000);
    expect(await first).toBe(": still here\n\n");
    const second = read();
    await vi.advanceTimersByTimeAsync(1);
    expect(await second).toBe(": still here\n\n");
    const third = read();
    await vi.advanceTimersByTimeAsync(1);
    push("one");
    expect(await third).toBe("one");
  });

  it("ends where its reader takes nothing of what is there for a minute", async () => {
    const { read, push, ended } = await open();
    const first = read();
    push("one");
    expect(await first).toBe("one");
    await vi.advanceTimersByTimeAsync(50_000);
    const second = read();
    push("two");
    expect(await second).toBe("two");
    await vi.advanceTimersByTimeAsync(50_000);
    expect(ended).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(20_000);
    expect(ended).toHaveBeenCalledOnce();
    expect(await read()).toContain('"code":"reader_too_slow"');
    expect(await read()).toBe(null);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("stops when its reader goes away", async () => {
    const { read, reader, ended, push } = await open();
    const first = read();
    await vi.advanceTimersByTimeAsync(15_000);
    await first;
    const cancelled = reader.cancel();
    // As what makes events does when its work is aborted.
    push(null);
    await cancelled;
    expect(ended).toHaveBeenCalledOnce();
    expect(vi.getTimerCount()).toBe(0);
  });
});
