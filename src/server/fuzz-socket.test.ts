/** Thousands of messages that are wrong, over real sockets: each is told why, and neither socket nor session is the worse for it. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { openNull } from "../../test/support/local-thread.js";
import { anything, expectRefused, pick } from "../../test/support/malformed.js";
import { TestRandom } from "../../test/support/random.js";
import { asker } from "../../test/support/server.js";
import type { Model } from "../session/model.js";
import { createServer, type Server } from "./create.js";
import { type Listening, listen } from "./serve.js";

const EACH = 1000;
/** Of a person's patience with the slowest machine, in milliseconds. */
const LONG = 300_000;
const PATIENT = { interval: 5, timeout: LONG };
const MOST_BYTES = 50_000;

interface Said {
  readonly type: string;
  readonly id?: unknown;
  readonly [field: string]: unknown;
}

describe("malformed messages over sockets", { timeout: LONG }, () => {
  let model: Model;
  let server: Server;
  let listening: Listening;
  let id: string;
  /** Of each socket: what the server holds of it. */
  const works: WeakRef<object>[] = [];
  let handlesBefore = 0;
  beforeAll(async () => {
    model = await openNull();
    server = createServer([{ name: "tiny", model }], { limits: { bodyBytes: MOST_BYTES } });
    const begin = server.context.works.begin.bind(server.context.works);
    server.context.works.begin = (...given) => {
      const work = begin(...given);
      works.push(new WeakRef(work));
      return work;
    };
    listening = await listen(server, { port: 0 });
    const ask = asker((path, init) => fetch(`${listening.url}${path}`, init));
    id = (await ask("/v1/sessions", { model: "tiny", cache: { policy: "window", tokens: 32 } })).body.id;
    await talking(async (talk) => {
      await talk.ask({ type: "append", input: "the rest" });
    });
    handlesBefore = handles();
  });
  afterAll(async () => {
    await listening.close(0);
    await model.close();
  });

  const handles = () => process.getActiveResourcesInfo().filter((kind) => kind === "TCPSocketWrap").length;

  /** A socket that hands out what it is told, in order. */
  class Talk {
    readonly socket = new WebSocket(`${listening.url.replace("http", "ws")}/v1/sessions/${id}/socket`);
    readonly #came: Said[] = [];
    #wake: (() => void) | null = null;

    constructor() {
      this.socket.on("error", () => {});
      this.socket.on("message", (data) => {
        this.#came.push(JSON.parse(String(data)) as Said);
        this.#wake?.();
      });
    }

    get waiting(): number {
      return this.#came.length;
    }

    send(message: unknown): void {
      const isText = typeof message === "string" || message instanceof Uint8Array;
      this.socket.send(isText ? message : JSON.stringify(message));
    }

    async next(): Promise<Said> {
      while (this.#came.length === 0) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      return this.#came.shift()!;
    }

    ask(message: unknown): Promise<Said> {
      this.send(message);
      return this.next();
    }

    /** It still takes messages in, and answers. */
    async isUsable(): Promise<void> {
      expect(await this.ask({ type: "append", id: "still", input: "x" })).toMatchObject({
        type: "appended",
        id: "still",
      });
      this.send({ type: "generate", id: "here", max_tokens: 2, ignore_eos: true });
      let said = await this.next();
      while (said.type === "piece") said = await this.next();
      expect(said).toMatchObject({ type: "answer", id: "here", usage: { completion_tokens: 2 } });
      expect(this.waiting).toBe(0);
    }
  }

  async function talking(use: (talk: Talk) => Promise<void>): Promise<void> {
    const talk = new Talk();
    await once(talk.socket, "open");
    await use(talk);
    talk.socket.close();
    await once(talk.socket, "close");
  }

  /** Sends what `make` makes of a random sequence over one socket, and wants each refused, with its id where it has one. */
  async function refused(seed: number, make: (random: TestRandom) => unknown): Promise<void> {
    const random = new TestRandom(seed);
    await talking(async (talk) => {
      for (let i = 0; i < EACH; i++) {
        const message = make(random);
        const said = await talk.ask(message);
        expectRefused(
          { status: said.type === "error" ? 400 : 200, headers: new Headers(), body: said },
          () => message,
        );
        const given = typeof message === "string" ? undefined : (message as { id?: unknown } | null)?.id;
        if (said.id !== (typeof given === "string" || typeof given === "number" ? given : undefined))
          expect.fail(`${JSON.stringify(message)}: ${JSON.stringify(said)}`);
      }
      await talk.isUsable();
    });
  }

  const append = { type: "append", id: 1, input: "x" };
  const generate = { type: "generate", id: "g", max_tokens: 2 };

  it("cut off and scrambled JSON", () => {
    const texts = [append, generate, { type: "cancel" }].map((one) => JSON.stringify(one));
    return refused(41, (random) => {
      const text = pick(random, texts);
      const at = 1 + random.below(text.length - 1);
      if (random.below(2) === 0) return text.slice(0, at);
      return `${text.slice(0, at)}${pick(random, ["}", "]", "\u0000", '"', ",,", "{", "NaN", "'"])}${text.slice(at)}#`;
    });
  });

  it("fields of wrong types, and values that are none", () => {
    const wrong: Record<string, readonly [object, readonly unknown[]]> = {
      input: [
        append,
        [5, null, {}, [], [null], [-1], [1.5], [1e9], [{}], [{ role: "user" }], [{ role: "x", content: "" }]],
      ],
      tools: [append, [[{}], "x", [{ type: "function", function: { name: "f" } }]]],
      priority: [append, ["1", 101, 0.5, []]],
      deadline: [append, ["soon", [], -1, 0]],
      add_generation_prompt: [append, [true, "yes"]],
      nobody_knows: [append, [1, {}]],
      max_tokens: [generate, ["5", 0, -5, 1.5, 1e300, "all", []]],
      temperature: [generate, ["1", [], -1, 99]],
      stop: [generate, [5, [5], [""], {}, [null]]],
      seed: [generate, ["1", -1, 0.5, 1e300]],
      logit_bias: [generate, [[1], { a: 1 }, { "1": "x" }, { "99999": 1 }]],
      response_format: [
        generate,
        ["json", { type: "none" }, { type: "json_schema" }, { type: "regex", regex: "(" }],
      ],
      tool_choice: [generate, ["required", { type: "function", function: { name: "none" } }]],
      stream: [generate, [true, false]],
      resume: [generate, [true, "yes", 1]],
    };
    return refused(42, (random) => {
      const [field, [message, values]] = pick(random, Object.entries(wrong));
      return { ...message, [field]: pick(random, values) };
    });
  });

  it("types that nobody knows, and ids that are none", () =>
    refused(43, (random) => {
      const type = pick(random, [
        "",
        "Append",
        "generate ",
        "__proto__",
        "constructor",
        "close",
        "x".repeat(9000),
        5,
        null,
        {},
      ]);
      if (random.below(3) > 0)
        return { type, id: pick(random, [0, -1.5, "", "\ud800\u0000".slice(1), "mine"]) };
      return {
        ...pick(random, [append, generate, { type: "cancel" }]),
        id: pick(random, [[], {}, true, null]),
      };
    }));

  it("anything else", () => refused(44, (random) => anything(random, 4)));

  it("binary messages, those that hold a right one too", () =>
    refused(45, (random) => {
      if (random.below(4) === 0) return Buffer.from(JSON.stringify(append));
      return Buffer.from(Array.from({ length: random.below(300) }, () => random.below(256)));
    }));

  it("messages that are large, and of no use", () =>
    refused(46, (random) => {
      const large = "x".repeat(MOST_BYTES - 200 - random.below(1000));
      return pick(random, [
        large,
        { ...append, id: large },
        { type: large },
        { ...generate, stop: [large, 5] },
      ]);
    }));

  it("messages out of order", async () => {
    const random = new TestRandom(47);
    await talking(async (talk) => {
      // What the server should think goes on.
      let answering: string | null = null;
      const settle = async (wanted: string, asked: string) => {
        for (;;) {
          const said = await talk.next();
          if (said.type === "change" || (said.type === "piece" && said.id === answering)) continue;
          // An answer may have come to its end before it was cancelled.
          if (said.type === "answer" && said.id === answering) answering = null;
          else if (said.type === wanted && said.id === asked) return said;
          else expect.fail(`${wanted} of ${asked} while ${answering}: ${JSON.stringify(said)}`);
        }
      };
      for (let i = 0; i < EACH; i++) {
        const id = `m${i}`;
        switch (random.below(5)) {
          case 0:
            talk.send({ type: "append", id, input: "x" });
            await settle("appended", id);
            break;
          case 1:
          case 2:
            talk.send({ type: "generate", id, max_tokens: "inf", ignore_eos: true });
            if (answering === null) answering = id;
            else expect((await settle("error", id)).error).toMatchObject({ code: "busy" });
            break;
          case 3: {
            talk.send({ type: "cancel", id });
            if (answering !== null) await settle("cancelled", answering);
            else expect((await settle("error", id)).error).toMatchObject({ code: "nothing_to_cancel" });
            answering = null;
            break;
          }
          default:
            talk.send({ type: "watch", id });
        }
      }
      if (answering !== null) {
        talk.send({ type: "cancel" });
        await settle("cancelled", answering);
      }
    });
    await talking((talk) => talk.isUsable());
  });

  it("messages in fragments are whole messages, with pings between", async () => {
    const random = new TestRandom(48);
    await talking(async (talk) => {
      for (let i = 0; i < EACH; i++) {
        const isRight = random.below(2) === 0;
        const text = JSON.stringify(isRight ? { ...append, id: i } : { ...append, id: i, input: i });
        let at = 0;
        while (at < text.length) {
          const to = Math.min(text.length, at + 1 + random.below(30));
          talk.socket.send(text.slice(at, to), { fin: to === text.length });
          if (random.below(3) === 0) talk.socket.ping();
          at = to;
        }
        expect(await talk.next()).toMatchObject({ type: isRight ? "appended" : "error", id: i });
      }
      await talk.isUsable();
    });
  });

  /** A socket that was opened by hand, for frames that no client would send. */
  async function bare(): Promise<Socket> {
    const socket = connect(listening.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(
      `GET /v1/sessions/${id}/socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    const [head] = (await once(socket, "data")) as [Buffer];
    expect(head.toString()).toMatch(/^HTTP\/1\.1 101 /);
    return socket;
  }
  /** A frame (RFC 6455, 5.2) with a mask of zeros. */
  function frame(first: number, payload: Buffer, masked = true): Buffer {
    const { length } = payload;
    const head = length < 126 ? [first, length] : [first, 126, length >> 8, length & 255];
    if (masked) head[1]! |= 0x80;
    return Buffer.concat([Buffer.from(head), Buffer.alloc(masked ? 4 : 0), payload]);
  }
  /** The code of the frame that closes. */
  const codeOf = (frames: Buffer): number | null => {
    for (let at = 0; at + 1 < frames.length; ) {
      const short = frames[at + 1]! & 127;
      const head = short < 126 ? 2 : 4;
      const length = short < 126 ? short : frames.readUInt16BE(at + 2);
      if ((frames[at]! & 15) === 8) return frames.readUInt16BE(at + head);
      at += head + length;
    }
    return null;
  };

  it("frames that no client would send close the socket, with the reason's code", async () => {
    const random = new TestRandom(49);
    const text = Buffer.from(JSON.stringify(append));
    const [CONTINUES, TEXT, CLOSE, PING, FIN] = [0, 1, 8, 9, 0x80];
    const kinds: readonly (readonly [number, () => Buffer])[] = [
      // Unmasked; of reserved bits and codes; continuing nothing; beginning anew in the middle.
      [1002, () => frame(FIN | TEXT, text, false)],
      [1002, () => frame(FIN | TEXT | pick(random, [0x10, 0x20, 0x40]), text)],
      [1002, () => frame(FIN | pick(random, [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), text)],
      [1002, () => frame(pick(random, [0, FIN]) | CONTINUES, text)],
      [1002, () => Buffer.concat([frame(TEXT, text), frame(FIN | TEXT, text)])],
      // Signs that are too long, or in parts.
      [1002, () => frame(FIN | PING, Buffer.alloc(126 + random.below(100)))],
      [1002, () => frame(PING, Buffer.alloc(random.below(100)))],
      [1002, () => frame(FIN | CLOSE, Buffer.from([3]))],
      [1002, () => frame(FIN | CLOSE, Buffer.from([0, random.below(256)]))],
      [1007, () => frame(FIN | TEXT, Buffer.from([0x22, 0xc3, 0x28, 0x22]))],
      // Too large, by what its head says alone.
      [
        1009,
        () => Buffer.from([FIN | TEXT, 0x80 | 127, 0, 0, 0, 0, random.below(256), 255, 255, 255, 0, 0, 0, 0]),
      ],
      [
        1009,
        () =>
          Buffer.concat(
            Array.from({ length: 6 }, (_, i) => frame(i === 0 ? TEXT : CONTINUES, Buffer.alloc(10_000, 32))),
          ),
      ],
    ];
    const one = async () => {
      const [code, make] = pick(random, kinds);
      const bytes = make();
      const socket = await bare();
      let got = Buffer.alloc(0);
      socket.on("data", (data: Buffer) => {
        got = Buffer.concat([got, data]);
      });
      socket.write(bytes);
      await expect.poll(() => codeOf(got), PATIENT).not.toBeNull();
      if (codeOf(got) !== code) expect.fail(`${codeOf(got)} for ${bytes.toString("hex").slice(0, 100)}`);
      socket.destroy();
    };
    for (let i = 0; i < EACH / 20; i++) await Promise.all(Array.from({ length: 20 }, one));
    await expect.poll(() => server.context.works.size, PATIENT).toBe(0);
    await talking((talk) => talk.isUsable());
  });

  it("a message that is too large closes its socket alone", async () => {
    for (let i = 0; i < EACH / 4; i++) {
      const talk = new Talk();
      await once(talk.socket, "open");
      talk.send({ ...append, input: "x".repeat(MOST_BYTES) });
      const [code] = (await once(talk.socket, "close")) as [number];
      expect(code).toBe(1009);
    }
    await talking((talk) => talk.isUsable());
  });

  it("sockets that are cut in the middle of an answer, or of a message", async () => {
    const random = new TestRandom(50);
    for (let i = 0; i < EACH; i++) {
      const talk = new Talk();
      await once(talk.socket, "open");
      if (random.below(4) === 0) talk.socket.send('{"type":"append","input":', { fin: false });
      else {
        talk.send({ type: "generate", max_tokens: "inf", ignore_eos: true });
        for (let pieces = random.below(3); pieces > 0; pieces--)
          expect((await talk.next()).type).toMatch(/piece|error/);
        if (random.below(2) === 0) talk.send(append);
      }
      talk.socket.terminate();
      // The session may still be busy with the answer before.
      if (i % 10 === 0) await expect.poll(() => server.context.works.size, PATIENT).toBe(0);
    }
    await expect.poll(() => server.context.works.size, PATIENT).toBe(0);
    await expect.poll(async () => (await model.usage()).running, PATIENT).toBe(0);
    await talking((talk) => talk.isUsable());
  });

  it("are not read any more from one that reads no answers", async () => {
    await talking(async (talk) => {
      const wrong = JSON.stringify({ type: "dance", id: "x".repeat(200) });
      talk.socket.pause();
      let sent = 0;
      // A server that went on reading would fill its memory with what nobody takes.
      while (talk.socket.bufferedAmount < 2 ** 20 && sent < 200_000) {
        for (let i = 0; i < 50; i++, sent++) talk.socket.send(wrong);
        await new Promise(setImmediate);
      }
      expect(talk.socket.bufferedAmount).toBeGreaterThanOrEqual(2 ** 20);
      talk.socket.resume();
      for (let i = 0; i < sent; i++) expect((await talk.next()).type).toBe("error");
      await talk.isUsable();
    });
  });

  it("leave nothing behind", async () => {
    await expect.poll(handles, PATIENT).toBeLessThanOrEqual(handlesBefore);
    expect(server.context.works.size).toBe(0);
    expect(await model.usage()).toMatchObject({ running: 0, waiting: 0 });
    expect(works.length).toBeGreaterThan(2 * EACH);
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    // The last ones may still stand on some stack.
    await expect
      .poll(() => {
        collect();
        return works.filter((work) => work.deref() !== undefined).length;
      }, PATIENT)
      .toBeLessThan(20);
  });
});
