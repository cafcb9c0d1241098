import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type HubOptions, type HubProgress, resolveModelPath } from "./hub.js";
import { defaultCache } from "./hub-options.js";
import { chooseFiles, parseHubSource } from "./hub-source.js";

/** Speaks the hub's paths: /api/models/R/tree/REV and /R/resolve/REV/PATH, the latter with ranges and a redirect. */
class FakeHub {
  readonly files = new Map<string, Buffer>();
  readonly requests: string[] = [];
  readonly authorizations: (string | undefined)[] = [];
  /** Ends the next answers after so many bytes of the body. */
  cuts: number[] = [];
  ignoresRanges = false;
  status: number | undefined;
  /** What the listing claims of a path, where it is not the truth. */
  readonly claims = new Map<string, { size?: number; sha256?: string }>();
  readonly #server: Server = createServer((request, response) => this.#answer(request, response));

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = request.url ?? "";
    this.requests.push(`${request.method} ${url}`);
    this.authorizations.push(request.headers.authorization);
    if (this.status !== undefined) {
      response.writeHead(this.status, { "Content-Type": "application/json" }).end('{"error":"no"}');
      return;
    }
    const tree = /^\/api\/models\/o\/r\/tree\/([^/?]+)/.exec(url);
    const file = /^\/o\/r\/resolve\/([^/]+)\/(.+)$/.exec(url);
    if (tree) this.#tree(response);
    else if (file) this.#file(request, response, decodeURIComponent(file[2]!));
    else
      response.writeHead(404, { "Content-Type": "application/json" }).end('{"error":"Repository not found"}');
  }

  #tree(response: ServerResponse): void {
    const entries = [...this.files].map(([path, content]) => {
      const size = this.claims.get(path)?.size ?? content.length;
      const oid = createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
      const sha256 = this.claims.get(path)?.sha256 ?? createHash("sha256").update(content).digest("hex");
      const isLarge = !path.endsWith(".json");
      return {
        type: "file",
        path,
        size,
        oid,
        ...(isLarge ? { lfs: { oid: sha256, size, pointerSize: 130 } } : {}),
      };
    });
    response
      .writeHead(200, { "Content-Type": "application/json" })
      .end(JSON.stringify([{ type: "directory", path: "sub", size: 0, oid: "0" }, ...entries]));
  }

  #file(request: IncomingMessage, response: ServerResponse, path: string): void {
    const content = this.files.get(path);
    if (!content) {
      response.writeHead(404, { "X-Error-Code": "EntryNotFound" }).end();
      return;
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const isProbe = range?.[2] === "0";
    const start = range && (isProbe || !this.ignoresRanges) ? Number(range[1]) : 0;
    const end = range?.[2] ? Number(range[2]) + 1 : content.length;
    const body = content.subarray(start, end);
    response.writeHead(range && (isProbe || !this.ignoresRanges) ? 206 : 200, {
      ETag: '"x"',
      "Content-Length": body.length,
      ...(range && (isProbe || !this.ignoresRanges)
        ? { "Content-Range": `bytes ${start}-${end - 1}/${content.length}` }
        : {}),
    });
    const cut = isProbe ? undefined : this.cuts.shift();
    if (cut === undefined) response.end(body);
    else response.write(body.subarray(0, cut), () => setTimeout(() => response.destroy(), 20));
  }
}

let hub: FakeHub;
let cache = "";
let options: HubOptions;
beforeEach(async () => {
  hub = new FakeHub();
  cache = await mkdtemp(join(tmpdir(), "millrace-hub-"));
  options = { cache, endpoint: await hub.start(), retryDelayMs: 1, retries: 2 };
});
afterEach(async () => {
  await hub.stop();
  await rm(cache, { recursive: true });
});

const content = (size: number, seed = 1) =>
  Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 31 + seed) % 251));
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.fail("nothing was thrown"),
    (error) => error,
  );
/** Compared as bytes: a deep comparison of large buffers takes seconds. */
const expectFile = async (path: string, want: Buffer) =>
  expect((await readFile(path)).equals(want)).toBe(true);
const parts = async () =>
  (await readdir(cache, { recursive: true })).filter(
    (name) => name.endsWith(".part") || name.endsWith(".lock"),
  );

describe("resolveModelPath", () => {
  it("leaves paths alone", async () => {
    expect(await resolveModelPath("./model.gguf", options)).toBe("./model.gguf");
    expect(hub.requests).toEqual([]);
  });

  it("downloads a file once, with progress, and then serves it without the hub", async () => {
    hub.files.set("sub/model one.gguf", content(300_000));
    const seen: HubProgress[] = [];
    const path = await resolveModelPath("hf:o/r/sub/model one.gguf", {
      ...options,
      onProgress: (p) => seen.push(p),
    });
    await expectFile(path, content(300_000));
    expect(seen[0]).toEqual({ file: "sub/model one.gguf", received: 0, total: 300_000 });
    expect(seen.at(-1)).toEqual({ file: "sub/model one.gguf", received: 300_000, total: 300_000 });
    expect(seen.map(({ received }) => received)).toEqual(
      seen.map(({ received }) => received).toSorted((a, b) => a - b),
    );
    expect(await parts()).toEqual([]);
    const count = hub.requests.length;
    await hub.stop();
    expect(await resolveModelPath("hf:o/r/sub/model one.gguf", options)).toBe(path);
    expect(hub.requests.length).toBe(count);
    hub = new FakeHub();
    await hub.start();
  });

  it("resumes within one call where the connection is cut", async () => {
    hub.files.set("m.gguf", content(300_000));
    hub.cuts = [100_000, 0, 50_000];
    const path = await resolveModelPath("hf:o/r/m.gguf", options);
    await expectFile(path, content(300_000));
    expect(hub.cuts).toEqual([]);
  });

  it("keeps what arrived when it gives up, and the next call goes on from there", async () => {
    hub.files.set("m.gguf", content(300_000));
    hub.cuts = [100_000, 0, 0, 0];
    const error = await failure(resolveModelPath("hf:o/r/m.gguf", options));
    expect(error).toMatchObject({ code: "DOWNLOAD_FAILED", details: { file: "m.gguf" } });
    expect(error.message).toMatch(/is kept/);
    const [part] = await parts();
    const kept = (await stat(join(cache, part!))).size;
    expect(kept).toBeGreaterThan(0);
    expect(kept).toBeLessThanOrEqual(100_000);
    const seen: number[] = [];
    const path = await resolveModelPath("hf:o/r/m.gguf", {
      ...options,
      onProgress: (p) => seen.push(p.received),
    });
    expect(seen[0]).toBe(kept);
    await expectFile(path, content(300_000));
    expect(await parts()).toEqual([]);
  });

  it("starts over where the server ignores ranges", async () => {
    hub.files.set("m.gguf", content(200_000));
    hub.ignoresRanges = true;
    hub.cuts = [60_000];
    await expectFile(await resolveModelPath("hf:o/r/m.gguf", options), content(200_000));
  });

  it("refuses a wrong size and a wrong hash, and leaves nothing that would be taken for the file", async () => {
    hub.files.set("m.gguf", content(1000));
    hub.claims.set("m.gguf", { size: 999 });
    expect(await failure(resolveModelPath("hf:o/r/m.gguf", options))).toMatchObject({
      code: "DOWNLOAD_FAILED",
      details: { got: 1000, expected: 999 },
    });
    hub.claims.set("m.gguf", { sha256: "0".repeat(64) });
    const error = await failure(resolveModelPath("hf:o/r/m.gguf", options));
    expect(error).toMatchObject({ code: "DOWNLOAD_FAILED", details: { expected: "0".repeat(64) } });
    expect((await parts()).filter((name) => name.includes("000000"))).toEqual([]);
    hub.claims.set("m.gguf", { sha256: "../../../escape" });
    expect((await failure(resolveModelPath("hf:o/r/m.gguf", options))).message).toMatch(/hexadecimal/);
    hub.claims.set("m.gguf", { size: -1 });
    expect((await failure(resolveModelPath("hf:o/r/m.gguf", options))).message).toMatch(/"size":-1/);
    hub.claims.clear();
    await expectFile(await resolveModelPath("hf:o/r/m.gguf", options), content(1000));
  });

  it.each([401, 403, 404])("says what status %i means", async (status) => {
    hub.status = status;
    const error = await failure(resolveModelPath("hf:o/r", options));
    expect(error).toMatchObject({ code: "DOWNLOAD_FAILED", details: { status } });
    expect(error.message).toMatch(/HF_TOKEN/);
    expect(hub.requests.length).toBe(1);
  });

  it("tries again on 503, and names the reason when the hub is out of reach", async () => {
    hub.status = 503;
    expect(await failure(resolveModelPath("hf:o/r", options))).toMatchObject({ code: "DOWNLOAD_FAILED" });
    expect(hub.requests.length).toBe(3);
    await hub.stop();
    const error = await failure(resolveModelPath("hf:o/r", options));
    expect(error.message).toMatch(/ECONNREFUSED/);
    hub = new FakeHub();
    await hub.start();
  });

  it("lists what there is where the file is not", async () => {
    hub.files.set("a-Q4_0.gguf", content(10));
    const error = await failure(resolveModelPath("hf:o/r/b.gguf", options));
    expect(error).toMatchObject({ code: "FILE_NOT_FOUND", details: { files: ["a-Q4_0.gguf"] } });
    expect(error.message).toContain("a-Q4_0.gguf");
  });

  it("fetches a safetensors folder with its companions and no more", async () => {
    for (const name of ["config.json", "tokenizer.json", "README.json", "model-00001-of-00002.safetensors"]) {
      hub.files.set(name, content(50, name.length));
    }
    hub.files.set("model-00002-of-00002.safetensors", content(0));
    hub.files.set("model.safetensors.index.json", content(20));
    hub.files.set("pytorch_model.bin", content(20));
    const folder = await resolveModelPath("hf:o/r", options);
    expect((await readdir(folder)).filter((name) => !name.startsWith(".")).toSorted()).toEqual([
      "config.json",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
      "tokenizer.json",
    ]);
  });

  it("fetches all parts of a split file and opens the first", async () => {
    for (const part of [1, 2, 3]) hub.files.set(`Q4_K_M/m-0000${part}-of-00003.gguf`, content(10, part));
    const path = await resolveModelPath("hf:o/r:q4_k_m", options);
    expect(path.endsWith("m-00001-of-00003.gguf")).toBe(true);
    expect(existsSync(path.replace("00001-of", "00003-of"))).toBe(true);
  });

  it("refreshes only when asked, and only what has changed", async () => {
    hub.files.set("m.gguf", content(1000));
    const path = await resolveModelPath("hf:o/r/m.gguf", options);
    hub.files.set("m.gguf", content(1000, 2));
    await resolveModelPath("hf:o/r/m.gguf", options);
    await expectFile(path, content(1000));
    await resolveModelPath("hf:o/r/m.gguf", { ...options, refresh: true });
    await expectFile(path, content(1000, 2));
    const count = hub.requests.length;
    await resolveModelPath("hf:o/r/m.gguf", { ...options, refresh: true });
    expect(hub.requests.length).toBe(count + 1);
  });

  it("sends the token to the endpoint, asks for the revision, and keeps revisions apart", async () => {
    hub.files.set("m.gguf", content(10));
    const path = await resolveModelPath("hf:o/r@v1.0/m.gguf", { ...options, token: "hf_secret" });
    expect(new Set(hub.authorizations)).toEqual(new Set(["Bearer hf_secret"]));
    expect(hub.requests.every((request) => request.includes("/v1.0"))).toBe(true);
    expect(await resolveModelPath("hf:o/r/m.gguf", options)).not.toBe(path);
  });

  it("ends on the caller's signal and keeps what arrived", async () => {
    hub.files.set("m.gguf", content(3_000_000));
    const controller = new AbortController();
    const error = await failure(
      resolveModelPath("hf:o/r/m.gguf", {
        ...options,
        signal: controller.signal,
        onProgress: ({ received }) => {
          if (received > 0) controller.abort();
        },
      }),
    );
    expect(error).toMatchObject({ code: "ABORTED" });
    expect((await parts()).length).toBe(1);
  });

  it("does not share a download between processes, but takes over from one that has ended", async () => {
    hub.files.set("m.gguf", content(1000));
    hub.cuts = [0, 0, 0];
    await failure(resolveModelPath("hf:o/r/m.gguf", options));
    const lock = join(cache, `${(await parts())[0]}.lock`);
    await writeFile(lock, String(process.pid));
    expect(await failure(resolveModelPath("hf:o/r/m.gguf", options))).toMatchObject({
      code: "DOWNLOAD_FAILED",
      details: { owner: process.pid },
    });
    await writeFile(lock, "999999999");
    await expectFile(await resolveModelPath("hf:o/r/m.gguf", options), content(1000));
  });

  it("follows the environment for its folder", () => {
    expect(defaultCache({ MILLRACE_CACHE: "/c" })).toBe(join("/c", "hub"));
    expect(defaultCache({ XDG_CACHE_HOME: "/x" })).toBe(join("/x", "millrace", "hub"));
  });
});

describe("hub sources", () => {
  const entries = (...paths: string[]) => paths.map((path) => ({ type: "file" as const, path, size: 1 }));
  const choose = (name: string, ...paths: string[]) =>
    chooseFiles(entries(...paths), parseHubSource(name)).path;

  it.each([
    "hf:",
    "hf:owner",
    "hf:owner/",
    "hf:../repo",
    "hf:owner/..",
    "hf:owner/repo/../x",
    "hf:owner/repo/a//b",
    "hf:owner/repo:",
    "hf:owner/repo/a\\b",
    "hf:a/b/",
  ])("refuses %s", (name) => {
    expect(() => parseHubSource(name)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
  });

  it("reads revisions", () => {
    expect(parseHubSource("hf:a/b@refs%2Fpr%2F1/x.gguf")).toMatchObject({
      repo: "a/b",
      revision: "refs/pr/1",
      wanted: { kind: "path", path: "x.gguf" },
    });
    expect(parseHubSource("hf:a/b@v1:Q8_0")).toMatchObject({
      revision: "v1",
      wanted: { kind: "tag", tag: "Q8_0" },
    });
  });

  it("picks by quantisation tag", () => {
    const files = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.Q8_0.gguf", "mmproj-Q8_0.gguf", "m-IQ4_XS.gguf"];
    expect(choose("hf:a/b:Q8_0", ...files)).toBe("m.Q8_0.gguf");
    expect(choose("hf:a/b:iq4_xs", ...files)).toBe("m-IQ4_XS.gguf");
    expect(choose("hf:a/b", ...files)).toBe("m-Q4_K_M.gguf");
    expect(() => choose("hf:a/b:Q4_K", ...files)).toThrow(
      expect.objectContaining({ code: "FILE_NOT_FOUND" }),
    );
    expect(() => choose("hf:a/b", "x-Q2_K.gguf", "x-Q3_K.gguf")).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
    expect(() => choose("hf:a/b:Q8_0", "a-Q8_0.gguf", "b-Q8_0.gguf")).toThrow(/2 GGUF models/);
  });

  it("prefers safetensors, takes folders, and ignores listed paths that climb", () => {
    expect(choose("hf:a/b", "m.gguf", "model.safetensors")).toBe("");
    expect(choose("hf:a/b/sub", "sub/model.safetensors", "sub/config.json")).toBe("sub");
    expect(choose("hf:a/b/model.safetensors", "model.safetensors", "config.json")).toBe("model.safetensors");
    expect(() => choose("hf:a/b", "../m.gguf", "/etc/m.gguf")).toThrow(
      expect.objectContaining({ code: "FILE_NOT_FOUND" }),
    );
  });
});
