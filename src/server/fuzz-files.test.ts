/** Thousands of uploads, ids, batches and calls of sessions that are wrong: every one is refused, and nothing is left of it. */
import { mkdtemp, readdir, readlink, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { anything, expectRefused, pick } from "../../test/support/malformed.js";
import { TestRandom } from "../../test/support/random.js";
import { asker, serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";

const EACH = 1000;
/** Of a person's patience with the slowest machine, in milliseconds. */
const LONG = 300_000;

/** Names and ids that mean another place to whoever takes them for paths. */
const TRICKS = [
  "..",
  "../x",
  "../../etc/passwd",
  "..\\..\\x",
  "/etc/passwd",
  "C:\\x",
  "a/../../b",
  "%2e%2e%2fx",
  "file-",
  "file-0123456789abcdef01234567/../x",
  "batch_../../x",
  "a\u0000b",
  "\u202ecod.exe",
  "\ud800",
  "__proto__",
  "constructor",
  "x".repeat(3000),
  "con.data",
  "a\r\nSet-Cookie: x=1",
  "lock",
  " ",
];

describe("malformed files, batches and sessions", { timeout: LONG }, () => {
  let model: Model;
  let folder: string;
  let server: ReturnType<typeof serverOf>;
  let session: string;
  beforeAll(async () => {
    model = await openNull();
    folder = await mkdtemp(join(tmpdir(), "millrace-fuzz-"));
    const limits = { bodyBytes: 50_000, fileBytes: 1_000_000, batchRetryMs: 20 };
    server = serverOf(
      { tiny: model },
      { limits, batchFolder: join(folder, "batches"), sessionFolder: join(folder, "sessions") },
    );
    const { body } = await server.ask("/v1/sessions", {
      model: "tiny",
      cache: { policy: "window", tokens: 32 },
    });
    session = `/v1/sessions/${body.id}`;
  });
  afterAll(async () => {
    await server.context.batches?.close();
    await server.context.sessions.closeAll();
    await model.close();
    await rm(folder, { recursive: true });
  });

  const send = (path: string, init: RequestInit) =>
    asker((at, given) => server.app.request(at, given))(path, undefined, { method: "POST", ...init });
  /** A form as bytes, each part with its headers. */
  const form = (parts: readonly { readonly head: string; readonly content: string }[], edge = "edge") =>
    `${parts.map(({ head, content }) => `--${edge}\r\n${head}\r\n\r\n${content}\r\n`).join("")}--${edge}--\r\n`;
  const upload = (text: string, type = "multipart/form-data; boundary=edge") =>
    send("/v1/files", { body: Buffer.from(text), headers: { "Content-Type": type } });
  const field = (name: string, content: string) => ({
    head: `Content-Disposition: form-data; name="${name}"`,
    content,
  });
  const file = (content: string, name = "in.jsonl") => ({
    head: `Content-Disposition: form-data; name="file"; filename="${name}"`,
    content,
  });
  const line = (id: string, rest: object = {}) =>
    JSON.stringify({
      custom_id: id,
      method: "POST",
      url: "/v1/completions",
      body: { model: "tiny", prompt: "x", max_tokens: 1 },
      ...rest,
    });
  const good = [field("purpose", "batch"), file(`${line("a")}\n${line("b")}\n`)];
  /** Paths of all files of everybody's, from the folder on. */
  const onDisk = async () =>
    (await readdir(folder, { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map(({ name }) => name)
      .sort();

  /** Of the folder's files, those that this process has open; where the system can tell. */
  const openHere = async () => {
    const fds = await readdir("/proc/self/fd").catch(() => []);
    const paths = await Promise.all(fds.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")));
    return paths.filter((path) => path.startsWith(folder));
  };

  it("uploads that are no forms, or not the right ones", async () => {
    const random = new TestRandom(21);
    const whole = form(good);
    const wrong: (() => [text: string, type?: string])[] = [
      // Cut off before the last boundary is whole.
      () => [whole.slice(0, random.below(whole.length - 4))],
      () => [whole, "multipart/form-data; boundary=other"],
      () => [
        whole,
        pick(random, [
          "",
          "multipart/form-data",
          "application/json",
          "text/plain",
          "multipart/mixed; boundary=edge",
        ]),
      ],
      () => [whole, `multipart/form-data; boundary=${"x".repeat(71 + random.below(500))}`],
      () => [
        form([
          field("purpose", pick(random, ["", "fine-tune", "batch_output", "BATCH", "batch "])),
          good[1]!,
        ]),
      ],
      () => [form([good[1]!])],
      () => [form([good[0]!])],
      () => [form([...good, good[1]!])],
      () => [form([good[1]!, field("purpose", "batch"), field("purpose", "batch")])],
      () => [form([...good, field(pick(random, ["path", "id", "__proto__", "constructor", ""]), "x")])],
      () => [
        form([
          ...good,
          field("expires_after[anchor]", pick(random, ["created_at", "now"])),
          field("expires_after[seconds]", pick(random, ["0", "-1", "1e9", "x", ""])),
        ]),
      ],
      () => [form([...good, field("expires_after[seconds][x]", "5")])],
      () => [form([{ head: pick(random, ["X: y", "", "Content-Disposition: attachment"]), content: "x" }])],
      () => [form([{ head: `X: ${"x".repeat(20_000)}`, content: "x" }])],
      () => [form([field("purpose", "b".repeat(70_000)), good[1]!])],
      () => [form(Array.from({ length: 40 }, (_, i) => field(`f${i}`, "x")))],
      () => [form([good[0]!, file("x".repeat(1_000_001 + random.below(1000)))])],
      () => [
        Array.from({ length: random.below(300) }, () => String.fromCharCode(random.below(256))).join(""),
      ],
      () => [whole.replace("--edge\r\n", `--edge${pick(random, ["x", "-", "\u0000"])}\r\n`)],
    ];
    for (let i = 0; i < EACH; i++) {
      const [text, type] = wrong[i % wrong.length]!();
      expectRefused(await upload(text, type), () => [text, type]);
    }
    expect((await server.ask("/v1/files")).body.data).toEqual([]);
    expect(await onDisk()).toEqual(["lock"]);
  });

  it("names of files that are paths stay names", async () => {
    const random = new TestRandom(22);
    for (let i = 0; i < 100; i++) {
      const name = `${pick(random, TRICKS)}${i % 3 === 0 ? pick(random, TRICKS) : ""}`;
      const given = name.replaceAll(/["\r\n]/g, (c) => encodeURIComponent(c));
      const { status, body } = await upload(form([good[0]!, file("{}", given)]));
      expect([name, status]).toEqual([name, 200]);
      expect(body.filename).not.toMatch(/[/\\\p{Cc}\p{Cf}]/u);
      expect(body.filename.length).toBeLessThanOrEqual(255);
      const content = await server.app.request(`/v1/files/${body.id}/content`);
      expect(await content.text()).toBe("{}");
      expect(content.headers.get("set-cookie")).toBeNull();
      expect(await onDisk()).toEqual([`${body.id}.data`, `${body.id}.json`, "lock"].sort());
      const gone = await server.ask(`/v1/files/${body.id}`, undefined, { method: "DELETE" });
      expect(gone.body.deleted).toBe(true);
    }
    expect(await onDisk()).toEqual(["lock"]);
  });

  it("ids of files, batches and sessions that are none, and pages of lists that are none", async () => {
    const random = new TestRandom(23);
    const calls: (readonly [method: string, path: (id: string) => string, body?: object])[] = [
      ["GET", (id) => `/v1/files/${id}`],
      ["GET", (id) => `/v1/files/${id}/content`],
      ["DELETE", (id) => `/v1/files/${id}`],
      ["GET", (id) => `/v1/batches/${id}`],
      ["POST", (id) => `/v1/batches/${id}/cancel`],
      ["GET", (id) => `/v1/sessions/${id}/map`],
      ["DELETE", (id) => `/v1/sessions/${id}`],
      ["DELETE", (id) => `/v1/sessions/saved/${id}`],
      ["POST", (id) => `/v1/sessions/${id}/append`, { input: "x" }],
      ["POST", (id) => `/v1/sessions/${id}/fork`],
      ["POST", (id) => `/v1/sessions/${id}/save`, { name: "x" }],
    ];
    for (let i = 0; i < EACH; i++) {
      const trick = pick(random, TRICKS);
      // Half a character has no place in a URL but as the bytes that it would have.
      const id = trick === "\ud800" ? "%ed%a0%80" : encodeURIComponent(trick);
      const [method, path, body] = calls[i % calls.length]!;
      expectRefused(await server.ask(path(id), body, { method }), () => [method, path(id)]);
    }
    const queries = [
      "limit=0",
      "limit=1e9",
      "limit=x",
      "limit=1.5",
      "after=none",
      "order=up",
      "purpose=x",
      "other=1",
    ];
    for (const list of ["/v1/files", "/v1/batches"]) {
      for (const query of queries) {
        expectRefused(await server.ask(`${list}?${query}`), () => [list, query]);
      }
    }
  });

  it("batches that are none", async () => {
    const random = new TestRandom(24);
    const { body: kept } = await upload(form(good));
    const request = { input_file_id: kept.id, endpoint: "/v1/completions", completion_window: "24h" };
    const wrong: Readonly<Record<string, readonly unknown[]>> = {
      input_file_id: [...TRICKS, null, 5, [], { id: kept.id }, [kept.id], ""],
      endpoint: ["/v1/files", "/v1/sessions", "/v1/completions/", "", null, 5, "http://elsewhere.example/"],
      completion_window: ["0h", "721h", "24", "24H", " 24h", "-1h", "1e3h", 24, null, ["24h"]],
      metadata: [5, [], "x", { x: 5 }, { "": "x" }, { x: "y".repeat(513) }, { x: { y: "z" } }],
      output_expires_after: [5, {}, { anchor: "now", seconds: 3600 }, { anchor: "created_at", seconds: 5 }],
      nobody_knows: [1],
      id: ["batch_x"],
    };
    const text = JSON.stringify(request);
    for (let i = 0; i < EACH; i++) {
      const name = pick(random, Object.keys(wrong));
      const { [pick(random, Object.keys(request)) as "endpoint"]: _, ...without } = request;
      const body = pick(random, [
        () => JSON.stringify({ ...request, [name]: pick(random, wrong[name]!) }),
        () => JSON.stringify(without),
        () => text.slice(0, 1 + random.below(text.length - 1)),
        () => JSON.stringify(anything(random, 3)),
        () => JSON.stringify({ ...request, metadata: { x: "y".repeat(60_000) } }),
      ])();
      expectRefused(await server.ask("/v1/batches", body), () => body);
    }
    expect((await server.ask("/v1/batches")).body.data).toEqual([]);
    await server.ask(`/v1/files/${kept.id}`, undefined, { method: "DELETE" });
    expect(await onDisk()).toEqual(["lock"]);
  });

  it("lines of batches that are none: the batch fails, says which, and asks nothing", async () => {
    const random = new TestRandom(25);
    const lines: ((at: number) => string)[] = [
      () => line("x").slice(0, 1 + random.below(40)),
      () => pick(random, ["null", "5", '"x"', "[]", "{}", "\u0000", "\ufffd\ufffd", "{'a': 1}", "NaN"]),
      () => JSON.stringify(anything(random, 3)),
      (at) => line(`id-${at}`, { method: pick(random, ["GET", 5, null, ""]) }),
      (at) =>
        line(`id-${at}`, { url: pick(random, ["/v1/files", "http://x.example", "", 5, "../v1", null]) }),
      (at) => line(`id-${at}`, { body: pick(random, [null, 5, "x", []]) }),
      (at) => line(`id-${at}`, { extra: 1 }),
      () => line("", {}),
      () => line("twice"),
      () => `{"custom_id": "${"x".repeat(20_000)}`,
      () => line("huge", { body: { model: "tiny", prompt: "x".repeat(50_000) } }),
      () => "[".repeat(5000),
      () => `{"a":`.repeat(3000),
    ];
    for (let round = 0; round < 40; round++) {
      // "twice" is wrong from the second time on.
      const rows = [line("twice"), ...Array.from({ length: 50 }, (_, i) => pick(random, lines)(i))];
      const { body: kept } = await upload(form([good[0]!, file(rows.join("\n"))]));
      const created = await server.ask("/v1/batches", {
        input_file_id: kept.id,
        endpoint: "/v1/completions",
        completion_window: "24h",
      });
      expect(created.status).toBe(200);
      const status = async () => (await server.ask(`/v1/batches/${created.body.id}`)).body;
      await expect.poll(async () => (await status()).status, { timeout: LONG, interval: 5 }).toBe("failed");
      const batch = await status();
      expect(batch.errors.data.map(({ line }: { line: number }) => line)).toEqual(
        Array.from({ length: 50 }, (_, i) => i + 2),
      );
      for (const { code, message } of batch.errors.data) {
        expect(code).toMatch(/^[a-z_]+$/);
        expect(message.length).toBeGreaterThan(10);
        expect(message).not.toContain(folder);
      }
      expect([batch.output_file_id, batch.error_file_id, batch.request_counts.completed]).toEqual([
        null,
        null,
        0,
      ]);
      await server.ask(`/v1/files/${kept.id}`, undefined, { method: "DELETE" });
    }
    expect((await onDisk()).filter((name) => name.includes("file-"))).toEqual([]);
  });

  it("calls of sessions", async () => {
    const random = new TestRandom(26);
    const wrong: Readonly<Record<string, readonly unknown[]>> = {
      "": [
        { model: "tiny", cache: 5 },
        { model: "tiny", cache: { policy: "none" } },
        { model: "tiny", cache: { policy: "window" } },
        { model: "tiny", cache: { policy: "window", tokens: -1 } },
        { model: "tiny", cache: { policy: "window", tokens: 1e300 } },
        { model: "tiny", cache: { policy: "window", tokens: 32, other: 1 } },
        { model: "tiny", codec: "f8" },
        { model: "tiny", memory: "big" },
        { model: "tiny", memory: -1 },
        { model: "tiny", recall: { disk: "x" } },
        { model: "tiny", recall: { disk: "1 MiB", dir: "/etc" } },
        { model: "none" },
        { model: "tiny", adapter: "none" },
        {},
      ],
      "/restore": [
        { model: "tiny", name: "none" },
        { model: "tiny", name: "../x" },
        { name: "x" },
        { model: "tiny" },
      ],
      append: [
        { input: { role: "user" } },
        { input: ["x"] },
        { input: [{ role: "user", content: 5 }] },
        { input: [1, "x"] },
        { input: [1.5] },
        { input: "x", add_generation_prompt: true },
        { input: [{ role: "user", content: "x" }], tools: [{ type: "function" }] },
        { input: "x", priority: "high" },
        { input: "x", deadline: "soon" },
        { input: "x", deadline: -5 },
        { input: "x", client: "somebody" },
      ],
      generate: [
        { max_tokens: 1e300 },
        { stop: [5] },
        { response_format: { type: "xml" } },
        { response_format: { type: "regex", regex: "(" } },
        { tools: "x" },
        { logit_bias: { x: 1 } },
        { stream: "yes" },
        { priority: 101 },
        { deadline: [] },
        { client: "somebody" },
      ],
      rewind: [{ to: null }, { to: 1e300 }, { to: [] }, { to: 1, more: 1 }],
      recall: [{ question: [] }, { question: [-1] }, { question: {} }],
      save: TRICKS.filter((name) => !/^[a-z]\w{0,63}$/.test(name)).map((name) => ({ name })),
    };
    for (let i = 0; i < EACH; i++) {
      const call = pick(random, Object.keys(wrong));
      const path = call === "" || call.startsWith("/") ? `/v1/sessions${call}` : `${session}/${call}`;
      const [body, type] = pick(random, [
        () => [JSON.stringify(pick(random, wrong[call]!)), "application/json"],
        () => [JSON.stringify([anything(random, 3)]), "application/json"],
        () => [`{"input": "x", ${pick(random, ["}", '"', "]", "\u0000", "'a': 1}"])}`, "application/json"],
        () => ['{"input": "x"}', pick(random, ["text/plain", "application/xml"])],
      ])() as [string, string];
      const asked = await send(path, { body, headers: { "Content-Type": type } });
      expectRefused(asked, () => [path, body, type]);
    }
    expect((await server.ask("/v1/sessions")).body.data).toHaveLength(1);
    expect((await server.ask("/v1/sessions/saved")).body.data).toEqual([]);
  });

  it("leave nothing behind, and the next is answered", async () => {
    expect(server.context.works.size).toBe(0);
    expect(await model.usage()).toMatchObject({ running: 0, waiting: 0 });
    await expect.poll(openHere).toEqual([]);
    expect((await server.ask(`${session}/append`, { input: "still here" })).status).toBe(200);
    const { body: kept } = await upload(form(good));
    const { body: batch } = await server.ask("/v1/batches", {
      input_file_id: kept.id,
      endpoint: "/v1/completions",
      completion_window: "24h",
    });
    const status = async () => (await server.ask(`/v1/batches/${batch.id}`)).body.status;
    await expect.poll(status, { timeout: LONG, interval: 5 }).toBe("completed");
  });
});
