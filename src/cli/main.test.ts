import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli, ending } from "../../test/support/cli.js";
import { tinyModel, writeTinyGguf } from "../../test/support/tiny-models.js";
import { ERRORS, type ErrorCode } from "../errors.js";
import { program } from "./main.js";

describe.skipIf(!built)("the command line (needs npm run build)", () => {
  let folder: string;
  let hub: Server;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-main-"));
    const model = await writeTinyGguf(tinyModel("llama"), folder);
    await writeFile(join(folder, "cut.gguf"), (await readFile(model)).subarray(0, 5000));
    await writeFile(join(folder, "page.gguf"), "<!DOCTYPE html><html></html>");
    await writeFile(join(folder, "latin1.txt"), Buffer.from([0x63, 0x61, 0x66, 0xe9]));
    hub = createServer((_, response) => response.writeHead(404).end()).listen(0, "127.0.0.1");
    await once(hub, "listening");
  });
  afterAll(async () => {
    hub.close();
    await rm(folder, { recursive: true });
  });

  const failures: [code: ErrorCode, args: string, said: string][] = [
    ["FILE_NOT_FOUND", "run nosuch.gguf --prompt a", "nosuch.gguf"],
    ["FILE_NOT_FOUND", "run llama.gguf --file nosuch.txt", "nosuch.txt"],
    ["FILE_NOT_FOUND", "inspect nosuch.gguf", "nosuch.gguf"],
    ["BAD_FORMAT", "run cut.gguf --prompt a", "cut.gguf"],
    ["UNSUPPORTED_FORMAT", "inspect page.gguf", "web page"],
    ["DOWNLOAD_FAILED", "run hf:owner/repo/file.gguf --prompt a", "404"],
    ["BACKEND_UNAVAILABLE", "run llama.gguf --prompt a --backend native", "no C compiler"],
    ["OUT_OF_BUDGET", "run llama.gguf --prompt a --backend reference --memory 100kB", "97.7 KiB"],
    ["PROMPT_TOO_LONG", "run llama.gguf --tokens 1,2,3,4,5 --backend reference --context 4", "has 5 tokens"],
    ["INVALID_TOKEN", "run llama.gguf --tokens 1,999 --backend reference", "999"],
    ["INVALID_ARGUMENT", "run llama.gguf --prompt a --temperature=-1", "temperature is -1"],
    ["INVALID_ARGUMENT", "run llama.gguf --prompt a --memory lots", "lots"],
    ["INVALID_ARGUMENT", "run llama.gguf --file latin1.txt", "not UTF-8"],
    ["INVALID_ARGUMENT", "run llama.gguf --tokens 1 --chat", "--chat"],
  ];

  it.concurrent.for(failures)("ends %s: millrace %s", async ([code, args, said], { expect }) => {
    const words = args
      .split(" ")
      .map((word) => (/\.(gguf|txt)$/.test(word) && !word.startsWith("hf:") ? join(folder, word) : word));
    const { port } = hub.address() as AddressInfo;
    const env = {
      CC: "/nonexistent/cc",
      HF_ENDPOINT: `http://127.0.0.1:${port}`,
      MILLRACE_CACHE: join(folder, "cache"),
    };
    const result = await cli([...words, "--json"], { env });
    const { error } = JSON.parse(result.stdout);
    expect(error).toMatchObject({
      code,
      message: expect.stringContaining(said),
      details: expect.any(Object),
    });
    expect(result.stderr).toBe(`millrace: ${code}: ${error.message}\n`);
    expect(result.code).toBe(ERRORS[code].exit);
  });

  const usage: [args: string, said: string][] = [
    ["frobnicate", "unknown command 'frobnicate'"],
    ["run a.gguf --temprature 1", "Did you mean --temperature?"],
    ["run a.gguf b.gguf", "too many arguments"],
    ["run a.gguf --prompt a --tokens 1", "cannot be used with"],
    ["run a.gguf --cache window", "a whole number from 1 is wanted"],
    ["chat a.gguf --codec f8", "Allowed choices are f32, f16, int8"],
    ["doctor --threads many", "whole number"],
  ];

  it.concurrent.for(usage)("refuses: millrace %s", async ([args, said], { expect }) => {
    const { code, stdout, stderr } = await cli([...args.split(" "), "--json"]);
    const { error } = JSON.parse(stdout);
    expect(stderr).toContain(said);
    expect(stderr).toContain("--help shows what can be given");
    expect(error).toMatchObject({ code: "INVALID_ARGUMENT", message: expect.stringContaining(said) });
    expect(code).toBe(2);
  });

  it.skipIf(!existsSync("/dev/full"))("says when its output cannot be written", async () => {
    const full = openSync("/dev/full", "w");
    const child = spawn(process.execPath, ["bin/millrace", "doctor", "--json"], {
      stdio: ["ignore", full, "pipe"],
    });
    closeSync(full);
    const { code, stderr } = await ending(child);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^millrace: standard output cannot be written: ENOSPC.*\n$/m);
    expect(stderr).not.toContain("bug");
  });

  it("names the cache folder in which no bench model can be made", async () => {
    const { code, stdout } = await cli(["bench", "--json"], { env: { MILLRACE_CACHE: "/dev/null" } });
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: "FILE_NOT_FOUND" } });
    expect(code).toBe(3);
  });

  it("tells its version", async () => {
    const { version } = JSON.parse(await readFile(new URL("../../package.json", import.meta.url), "utf8"));
    expect(await cli(["--version"])).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  });

  it("shows the help where no command is named, and ends as for any wrong usage", async () => {
    const { code, stdout, stderr } = await cli([]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain("Start here:");
  });

  it("examines the machine", async () => {
    const { code, stdout } = await cli(["doctor", "--threads", "2", "--json"], {
      env: { CC: "/nonexistent/cc" },
    });
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      machine: { node: process.version, cores: expect.any(Number) },
      compiler: { ok: false, error: { message: expect.stringContaining("no C compiler") } },
      nativeBuild: { ok: false },
      backends: {
        native: { ok: false, error: { code: "BACKEND_UNAVAILABLE" } },
        "wasm relaxed": { ok: true },
        "wasm simd128": { ok: true, description: "wasm: simd128, 1 thread" },
        "wasm threads": { ok: true },
      },
      auto: { ok: true, name: "wasm", reason: expect.stringContaining("no C compiler") },
    });
  });
});

describe("help", async () => {
  const { commands } = await program();

  it.each(commands.map((command) => [command.name(), command] as const))(
    "of %s fits a terminal",
    (_, command) => {
      let help = "";
      command.configureOutput({
        writeOut: (text) => {
          help += text;
        },
        getOutHelpWidth: () => 80,
      });
      command.outputHelp();
      expect(help).toContain(`Usage: millrace ${command.name()}`);
      for (const line of help.split("\n")) expect(line.length, line).toBeLessThanOrEqual(80);
    },
  );
});
