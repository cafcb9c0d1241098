/** What a store of batches makes of files and of what goes wrong, with answers that the tests give. */
import { appendFile, cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, expect, it, vi } from "vitest";
import { disk } from "../../test/support/small-disk.js";
import type { BatchAnswer } from "../batch/journal.js";
import type { BatchRequest } from "../batch/lines.js";
import { MillraceError } from "../index.js";
import { BatchStore } from "./batches.js";
import { DEFAULT_LIMITS } from "./options.js";

vi.mock("node:fs/promises", async (original) =>
  (await import("../../test/support/small-disk.js")).smallDiskPromises(await original()),
);

/** Of a person's patience with the slowest machine, in milliseconds. */
const LONG = 120_000;
vi.setConfig({ testTimeout: LONG, hookTimeout: LONG });
const PATIENT = { interval: 5, timeout: LONG };

let root: string;
let folders = 0;
const open: BatchStore[] = [];
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "millrace-batches-"));
});
afterEach(async () => {
  disk.left = Number.POSITIVE_INFINITY;
  for (const store of open.splice(0)) await store.close();
});
afterAll(() => rm(root, { recursive: true }));

const newFolder = () => join(root, String(folders++));

/** Answers a few requests and then none, until it is let. */
function gated(first: number) {
  const asked: string[] = [];
  let left = first;
  let letGo = () => {};
  const gate = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  return {
    asked,
    open: () => {
      left = Number.POSITIVE_INFINITY;
      letGo();
    },
    fail: null as ((id: string) => MillraceError | null) | null,
    async answer({ custom_id, body }: BatchRequest, signal: AbortSignal): Promise<BatchAnswer> {
      asked.push(custom_id);
      if (left-- <= 0) {
        await Promise.race([gate, new Promise((resolve) => signal.addEventListener("abort", resolve))]);
        signal.throwIfAborted();
      }
      const error = this.fail?.(custom_id);
      if (error) throw error;
      const status_code = body.wrong === true ? 400 : 200;
      const usage = { prompt_tokens: 3, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 1 } };
      return { response: { status_code, request_id: "r", body: { echo: custom_id, usage } }, error: null };
    },
  };
}

function storeOf(folder: string, gate: ReturnType<typeof gated>, more: object = {}, owners = ["a", "b"]) {
  const store = new BatchStore({
    folder,
    limits: { ...DEFAULT_LIMITS, batchRetryMs: 20, ...more },
    logger: pino({ level: "silent" }),
    answerer: () => ({
      measure: async () => ({ tokens: [1], answerTokens: 1 }),
      answer: (request, signal) => gate.answer(request, signal),
    }),
    crashes: () => 0,
    sequences: 1,
    isOwner: (owner) => owners.includes(owner),
  });
  open.push(store);
  return store;
}

const line = (custom_id: string, body: object = {}, url = "/v1/completions") =>
  JSON.stringify({ custom_id, method: "POST", url, body: { model: "m", ...body } });
const linesOf = (count: number) => Array.from({ length: count }, (_, i) => line(`id-${i}`)).join("\n");

async function upload(store: BatchStore, text: string, owner = "a", filename = "in.jsonl") {
  await store.start();
  const received = await store.files.receive(owner, [Buffer.from(text)].values() as never);
  return store.files.keep(owner, received, { filename, purpose: "batch" });
}
async function batchOf(store: BatchStore, text: string, owner = "a") {
  const { id } = await upload(store, text, owner);
  return store.create(owner, {
    input_file_id: id,
    endpoint: "/v1/completions",
    completion_window: "24h",
  });
}
const until = (store: BatchStore, id: string, status: string, owner = "a") =>
  expect
    .poll(() => store.get(owner, id).status, PATIENT)
    .toBe(status)
    .then(() => store.get(owner, id));

interface Row {
  id: string;
  custom_id: string;
  response: { status_code: number } | null;
  error: { code: string } | null;
}
async function rows(store: BatchStore, fileId: string | null, owner = "a"): Promise<Row[]> {
  if (fileId === null) return [];
  const text = await readFile(store.files.pathOf(owner, store.files.get(owner, fileId)), "utf8");
  return text
    .split("\n")
    .slice(0, -1)
    .map((row) => JSON.parse(row) as Row);
}
const idsOf = (list: readonly Row[]) => list.map(({ custom_id }) => custom_id).sort();

it("answers every line once, and tells what came of each", async () => {
  const store = storeOf(newFolder(), gated(Number.POSITIVE_INFINITY));
  const created = await batchOf(store, [line("good"), line("bad", { wrong: true }), line("too")].join("\n"));
  expect(created).toMatchObject({ object: "batch", status: "validating", errors: null });
  const batch = await until(store, created.id, "completed");
  expect(batch).toMatchObject({
    model: "m",
    request_counts: { total: 3, completed: 2, failed: 1 },
    usage: {
      input_tokens: 6,
      output_tokens: 4,
      total_tokens: 10,
      input_tokens_details: { cached_tokens: 2 },
    },
  });
  for (const at of ["in_progress_at", "finalizing_at", "completed_at"] as const)
    expect(batch[at]).toBeGreaterThanOrEqual(batch.created_at);
  expect(batch.expires_at).toBe(batch.created_at + 24 * 3600);
  expect(idsOf(await rows(store, batch.output_file_id))).toEqual(["good", "too"]);
  expect(await rows(store, batch.error_file_id)).toMatchObject([
    { custom_id: "bad", response: { status_code: 400 }, error: null },
  ]);
  expect(store.files.get("a", batch.output_file_id!)).toMatchObject({
    purpose: "batch_output",
    filename: `${batch.id}_output.jsonl`,
  });
});

it("goes on after the process was killed, whatever it was writing, and answers nothing twice", async () => {
  const first = newFolder();
  const gate = gated(3);
  const killed = storeOf(first, gate);
  const { id } = await batchOf(killed, linesOf(9));
  await expect.poll(() => killed.get("a", id).request_counts.completed, PATIENT).toBe(3);
  // What lies on the disk now is what a process that is killed now leaves behind.
  const second = newFolder();
  await cp(first, second, { recursive: true });
  await appendFile(join(second, "a", "batches", `${id}.answers`), '{"id":"batch_req_9","custom_id":"id-');
  await writeFile(join(second, "a", "files", "file-half.data.1-00000000.tmp"), "half");
  await writeFile(
    join(second, "lock"),
    JSON.stringify({ pid: 2 ** 22 + 1, host: "", since: "" }).slice(0, 9),
  );
  const done = gate.asked.slice(0, 3);

  const next = gated(Number.POSITIVE_INFINITY);
  const restarted = storeOf(second, next);
  await restarted.start();
  const batch = await until(restarted, id, "completed");
  expect(batch.request_counts).toEqual({ total: 9, completed: 9, failed: 0 });
  expect(next.asked.filter((one) => done.includes(one))).toEqual([]);
  expect(idsOf(await rows(restarted, batch.output_file_id))).toEqual(
    Array.from({ length: 9 }, (_, i) => `id-${i}`),
  );
  expect(await readdir(join(second, "a", "batches"))).toEqual([`${id}.json`]);
  expect((await readdir(join(second, "a", "files"))).filter((name) => name.includes("half"))).toEqual([]);
  await restarted.close();
  const third = storeOf(second, gated(0));
  await third.start();
  expect(third.get("a", id)).toEqual(batch);
  expect(third.files.list("a").map((file) => file.id)).toEqual(
    restarted.files.list("a").map((file) => file.id),
  );
});

it("makes its files anew where it was killed while it made them", async () => {
  const folder = newFolder();
  const store = storeOf(folder, gated(Number.POSITIVE_INFINITY));
  const { id } = await batchOf(store, linesOf(4));
  const batch = await until(store, id, "completed");
  await store.close();
  const path = join(folder, "a", "batches", `${id}.json`);
  const record = JSON.parse(await readFile(path, "utf8"));
  const output = await rows(store, batch.output_file_id);
  await writeFile(
    join(folder, "a", "batches", `${id}.answers`),
    output.map((row) => `${JSON.stringify(row)}\n`),
  );
  record.batch = { ...record.batch, status: "finalizing", output_file_id: null, completed_at: null };
  await writeFile(path, JSON.stringify(record));
  const again = storeOf(folder, gated(0));
  await again.start();
  const ended = await until(again, id, "completed");
  expect(ended.output_file_id).toBe(batch.output_file_id);
  expect(await rows(again, ended.output_file_id)).toEqual(output);
  expect(again.files.list("a")).toHaveLength(2);
});

it("is cancelled while it runs, while it waits, and not when it is over", async () => {
  const gate = gated(2);
  const store = storeOf(newFolder(), gate, { runningBatches: 1 });
  const running = await batchOf(store, linesOf(6));
  const waiting = await batchOf(store, linesOf(2));
  await until(store, waiting.id, "in_progress");
  await expect.poll(() => store.get("a", running.id).request_counts.completed, PATIENT).toBe(2);
  expect(await store.cancel("a", running.id)).toMatchObject({ status: "cancelling" });
  expect((await store.cancel("a", waiting.id)).cancelling_at).toEqual(expect.any(Number));
  const ended = await until(store, running.id, "cancelled");
  expect(ended.request_counts).toEqual({ total: 6, completed: 2, failed: 4 });
  expect(await rows(store, ended.output_file_id)).toHaveLength(2);
  const errors = await rows(store, ended.error_file_id);
  expect(errors.map(({ error }) => error!.code)).toEqual(Array(4).fill("batch_cancelled"));
  const never = await until(store, waiting.id, "cancelled");
  expect([never.output_file_id, (await rows(store, never.error_file_id)).length]).toEqual([null, 2]);
  await expect(store.cancel("a", running.id)).rejects.toMatchObject({ status: 409, code: "batch_not_open" });
});

it("expires, with what was answered until then", async () => {
  const folder = newFolder();
  const store = storeOf(folder, gated(1));
  const { id } = await batchOf(store, linesOf(3));
  await expect.poll(() => store.get("a", id).request_counts.completed, PATIENT).toBe(1);
  await store.close();
  const path = join(folder, "a", "batches", `${id}.json`);
  const record = JSON.parse(await readFile(path, "utf8"));
  record.batch.expires_at = record.batch.created_at;
  await writeFile(path, JSON.stringify(record));
  const later = storeOf(folder, gated(0));
  await later.start();
  const batch = await until(later, id, "expired");
  expect(batch).toMatchObject({
    expired_at: expect.any(Number),
    request_counts: { completed: 1, failed: 2 },
  });
  expect((await rows(later, batch.error_file_id)).map(({ error }) => error!.code)).toEqual([
    "batch_expired",
    "batch_expired",
  ]);
});

it("fails as a whole where lines are none, and says which", async () => {
  const gate = gated(0);
  const store = storeOf(newFolder(), gate, { batchLines: 9 });
  const text = [
    line("a"),
    "{ no json",
    line("a"),
    line("b", {}, "/v1/chat/completions"),
    '{"custom_id": "c", "url": "/v1/completions", "body": {}}',
    '{"custom_id": 7, "method": "POST", "url": "/v1/completions", "body": {}}',
    "[]",
  ].join("\n");
  const batch = await until(store, (await batchOf(store, text)).id, "failed");
  expect(batch.errors!.data.map(({ code, line, param }) => [code, line, param])).toEqual([
    ["invalid_json_line", 2, null],
    ["duplicate_custom_id", 3, "custom_id"],
    ["invalid_url", 4, "url"],
    ["missing_required_parameter", 5, "method"],
    ["invalid_request", 6, "custom_id"],
    ["invalid_request", 7, null],
  ]);
  expect(batch).toMatchObject({ failed_at: expect.any(Number), output_file_id: null, error_file_id: null });
  for (const [bad, code] of [
    ["\n \n", "empty_file"],
    [linesOf(10), "too_many_requests"],
    [Buffer.alloc(1000, 0xff).toString("latin1"), "invalid_json_line"],
  ] as const) {
    const failed = await until(store, (await batchOf(store, bad)).id, "failed");
    expect(failed.errors!.data[0]!.code).toBe(code);
  }
  expect(gate.asked).toEqual([]);
});

it("waits where it cannot go on, and then does", async () => {
  const gate = gated(Number.POSITIVE_INFINITY);
  let crashes = 3;
  gate.fail = (id) => (id === "id-2" && crashes-- > 0 ? new MillraceError("WORKER_CRASHED", "gone") : null);
  const store = storeOf(newFolder(), gate);
  const { id } = await batchOf(store, linesOf(4));
  const batch = await until(store, id, "completed");
  expect(idsOf(await rows(store, batch.output_file_id))).toEqual(["id-0", "id-1", "id-2", "id-3"]);
});

it("fails for a mistake of the server's own, with the answers that it has", async () => {
  const gate = gated(Number.POSITIVE_INFINITY);
  let asked = 0;
  gate.fail = (id) => {
    if (id !== "id-1" || asked++ > 9) return null;
    return new MillraceError("INTERNAL", "told to nobody");
  };
  const folder = newFolder();
  const store = storeOf(folder, gate);
  const { id } = await batchOf(store, [...linesOf(3).split("\n"), line("id-3", { wrong: true })].join("\n"));
  const batch = await until(store, id, "failed");
  expect(batch).toMatchObject({
    failed_at: expect.any(Number),
    completed_at: null,
    errors: { object: "list", data: [{ code: "internal_error", line: null, param: null }] },
    usage: { total_tokens: 5 * batch.request_counts.completed },
  });
  expect(JSON.stringify(batch)).not.toContain("told to nobody");
  // The first answers are there before it fails for the first time; then it is tried twice more, each time behind them.
  const good = idsOf(await rows(store, batch.output_file_id));
  const bad = await rows(store, batch.error_file_id);
  const numAnswered = good.length + bad.filter(({ response }) => response).length;
  expect([...good, ...idsOf(bad)].sort()).toEqual(["id-0", "id-1", "id-2", "id-3"]);
  expect(good).toContain("id-0");
  expect(bad.find(({ custom_id }) => custom_id === "id-1")!.error!.code).toBe("batch_failed");
  expect(batch.request_counts).toEqual({ total: 4, completed: good.length, failed: bad.length });
  // Three times without an answer between, beside at most one for each time that there was one.
  expect(asked).toBeGreaterThanOrEqual(3);
  expect(asked).toBeLessThanOrEqual(3 + numAnswered);
  await store.close();
  // It has come to its end: another server does not try again.
  const later = storeOf(folder, gate);
  await later.start();
  expect(later.get("a", id)).toEqual(batch);
});

it("goes on where such a mistake passes", async () => {
  const gate = gated(Number.POSITIVE_INFINITY);
  const failures = new Map<string, number>();
  gate.fail = (id) => {
    const times = (failures.get(id) ?? 0) + 1;
    failures.set(id, times);
    return times <= 2 ? new MillraceError("INTERNAL", "") : null;
  };
  const store = storeOf(newFolder(), gate);
  const { id } = await batchOf(store, line("only"));
  const batch = await until(store, id, "completed");
  expect([batch.errors, failures.get("only")]).toEqual([null, 3]);
});

it("fails where its files cannot be made, and leaves its answers where they are", async () => {
  const folder = newFolder();
  const store = storeOf(folder, gated(Number.POSITIVE_INFINITY));
  let times = 0;
  vi.spyOn(store.files, "writeOutput").mockImplementation(async () => {
    times++;
    throw new TypeError("told to nobody");
  });
  const { id } = await batchOf(store, linesOf(2));
  const batch = await until(store, id, "failed");
  expect([batch.errors!.data[0]!.code, batch.output_file_id, times]).toEqual(["internal_error", null, 3]);
  const answers = await readFile(join(folder, "a", "batches", `${id}.answers`), "utf8");
  expect(answers.split("\n")).toHaveLength(3);
});

it("fails where what it has written down is damaged, and tells no path", async () => {
  const folder = newFolder();
  const store = storeOf(folder, gated(1));
  const { id } = await batchOf(store, linesOf(3));
  await expect.poll(() => store.get("a", id).request_counts.completed, PATIENT).toBe(1);
  await store.close();
  await appendFile(join(folder, "a", "batches", `${id}.answers`), "{ no answer\n");
  const later = storeOf(folder, gated(0));
  await later.start();
  const batch = await until(later, id, "failed");
  expect(batch.errors!.data).toMatchObject([{ code: "bad_format" }]);
  expect(JSON.stringify(batch)).not.toContain(folder);
});

it("lives through a full disk: an upload is refused, a batch goes on when there is room", async () => {
  const folder = newFolder();
  const gate = gated(1);
  const store = storeOf(folder, gate);
  const { id } = await batchOf(store, linesOf(5));
  await expect.poll(() => store.get("a", id).request_counts.completed, PATIENT).toBe(1);
  disk.left = 40;
  await expect(upload(store, linesOf(50))).rejects.toMatchObject({ status: 507, code: "disk_full" });
  await expect(batchOf(store, "x")).rejects.toMatchObject({ status: 507 });
  expect(store.files.list("a")).toHaveLength(1);
  const names = await readdir(join(folder, "a", "files"));
  expect(names).toHaveLength(2);
  // The next answer is cut off in the middle, and taken away before it is answered again.
  gate.open();
  await expect.poll(() => disk.left, PATIENT).toBe(0);
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(store.get("a", id).status).not.toBe("completed");
  disk.left = Number.POSITIVE_INFINITY;
  const batch = await until(store, id, "completed");
  expect(idsOf(await rows(store, batch.output_file_id))).toEqual(
    Array.from({ length: 5 }, (_, i) => `id-${i}`),
  );
});

it("keeps what owners have within limits, and apart", async () => {
  const limits = { fileBytes: 100, files: 3, storageBytes: 250, openBatches: 1 };
  const store = storeOf(newFolder(), gated(0), limits);
  const small = "x".repeat(90);
  await expect(upload(store, "x".repeat(101))).rejects.toMatchObject({ status: 413, code: "file_too_large" });
  const file = await upload(store, small);
  await upload(store, small);
  await expect(upload(store, small)).rejects.toMatchObject({ status: 409, code: "storage_full" });
  await upload(store, "x");
  await expect(upload(store, "x")).rejects.toMatchObject({ status: 409, code: "too_many_files" });
  await upload(store, small, "b");
  expect(() => store.files.get("b", file.id)).toThrow("no such file");
  const ask = (owner: string) =>
    store.create(owner, { input_file_id: file.id, endpoint: "/v1/completions", completion_window: "1h" });
  await expect(ask("b")).rejects.toMatchObject({ status: 404 });
  const { id } = await ask("a");
  await expect(ask("a")).rejects.toMatchObject({ status: 409, code: "too_many_batches" });
  expect(() => store.get("b", id)).toThrow("no such batch");
  await expect(store.cancel("b", id)).rejects.toMatchObject({ status: 404 });
  expect(store.list("b")).toEqual([]);
  expect(store.isInUse("a", file)).toBe(true);
});

it("makes no path of anybody's name for a file", async () => {
  const folder = newFolder();
  const store = storeOf(folder, gated(0));
  const names: [string, string][] = [
    ["../../etc/passwd", "passwd"],
    ["C:\\x\\in.jsonl", "in.jsonl"],
    ["..", ".."],
    ["a\u0000b\r\nc\u202e.jsonl", "abc.jsonl"],
    ["", "file"],
    ["/", "file"],
    ["\ud800", "\ufffd"],
    ["x".repeat(5000), "x".repeat(255)],
  ];
  for (const [given, kept] of names) {
    const file = await upload(store, "x", "a", given);
    expect(file.filename).toBe(kept);
    expect(file.id).toMatch(/^file-[0-9a-f]{24}$/);
  }
  const lying = await readdir(join(folder, "a", "files"));
  expect(lying.every((name) => /^file-[0-9a-f]{24}\.(json|data)$/.test(name))).toBe(true);
  expect(await readdir(root)).not.toContain("etc");
});

it("forgets files when their time is over, but none that a batch reads", async () => {
  const folder = newFolder();
  const store = storeOf(folder, gated(0), { fileSeconds: 0 });
  const { id } = await upload(store, "x");
  expect(store.files.list("a")).toEqual([]);
  expect(() => store.files.get("a", id)).toThrow("no such file");
  await store.files.sweep(() => true);
  expect(await readdir(join(folder, "a", "files"))).toHaveLength(2);
  await store.files.sweep(() => false);
  expect(await readdir(join(folder, "a", "files"))).toEqual([]);
});

it("leaves what is damaged where it is, and keys that are gone alone", async () => {
  const folder = newFolder();
  const store = storeOf(folder, gated(0));
  const { id } = await batchOf(store, linesOf(2));
  await until(store, id, "in_progress");
  const damaged = await upload(store, "x");
  await store.close();
  const path = join(folder, "a", "files", `${damaged.id}.json`);
  await writeFile(path, "{");
  const gate = gated(Number.POSITIVE_INFINITY);
  const without = storeOf(folder, gate, {}, ["b"]);
  await without.start();
  expect(without.files.list("a")).toHaveLength(1);
  expect(await readFile(path, "utf8")).toBe("{");
  expect(without.get("a", id).status).toBe("in_progress");
  expect(gate.asked).toEqual([]);
});

it("is one server's alone", async () => {
  const folder = newFolder();
  const store = storeOf(folder, gated(0));
  await store.start();
  const other = storeOf(folder, gated(0));
  await expect(other.start()).rejects.toMatchObject({
    code: "IN_USE",
    message: expect.stringContaining(String(process.pid)),
  });
  await store.close();
  await storeOf(folder, gated(0)).start();
});
