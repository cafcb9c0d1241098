import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { MillraceError } from "../errors.js";
import { array, bool, string, u32, u64 } from "./gguf-values.js";
import { writeGguf } from "./gguf-writer.js";
import { openCheckpoint } from "./open.js";
import { writeSafetensors } from "./safetensors-writer.js";

let root = "";
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "millrace-open-"));
});
afterAll(() => rm(root, { recursive: true }));

const bytes = new Uint8Array(new Float32Array([1, 2, 3, 4]).buffer);

const gguf = (path: string) =>
  writeGguf(path, {
    metadata: {
      "general.architecture": string("llama"),
      "llama.block_count": u32(2),
      "a.big": u64(2n ** 60n),
      "a.flag": bool(true),
      "tokenizer.ggml.model": string("llama"),
      "tokenizer.ggml.tokens": array("string", ["<s>", "</s>", "a"]),
      "tokenizer.ggml.scores": array("f32", [0, 0, -1]),
      "a.nested": array("array", [array("u8", [1, 2])]),
    },
    tensors: ["x", "y", "z"].map((name) => ({ name, type: "F32", shape: [2, 2], data: () => bytes })),
  });

async function safetensors(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
  await writeFile(join(path, "config.json"), JSON.stringify({ model_type: "llama" }));
  await writeSafetensors(
    join(path, "model.safetensors"),
    ["x", "y"].map((name) => ({ name, type: "F32" as const, shape: [4], data: () => bytes })),
  );
}

describe("openCheckpoint", () => {
  it("goes by content, not by name", async () => {
    const odd = join(root, "model.bin");
    await gguf(odd);
    {
      await using checkpoint = await openCheckpoint(odd);
      expect(checkpoint.format).toBe("gguf");
      expect(checkpoint.tokenizer.kind).toBe("gguf");
    }
    const folder = join(root, "st");
    await safetensors(folder);
    const renamed = join(folder, "weights.dat");
    await writeFile(renamed, await readFile(join(folder, "model.safetensors")));
    for (const path of [folder, renamed]) {
      await using checkpoint = await openCheckpoint(path);
      expect(checkpoint.format).toBe("safetensors");
    }
  });

  it("opens a folder with one GGUF model, and asks where there are more", async () => {
    const folder = join(root, "ggufs");
    await gguf(join(folder, "one.gguf"));
    {
      await using checkpoint = await openCheckpoint(folder);
      expect(checkpoint.path).toBe(join(folder, "one.gguf"));
    }
    await gguf(join(folder, "two.gguf"));
    await expect(openCheckpoint(folder)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      details: { files: ["one.gguf", "two.gguf"] },
    });
  });

  it.each([
    ["PK\x03\x04rest", "UNSUPPORTED_FORMAT", /PyTorch/],
    ["\x80\x02}q", "UNSUPPORTED_FORMAT", /pickle/],
    ["lmgg\x01\x00\x00\x00", "UNSUPPORTED_FORMAT", /old GGML/],
    ["tjgg\x03\x00\x00\x00", "UNSUPPORTED_FORMAT", /GGJT/],
    ["version https://git-lfs.github.com/spec/v1\n", "UNSUPPORTED_FORMAT", /git lfs pull/],
    ["<!DOCTYPE html>", "UNSUPPORTED_FORMAT", /web page/],
    ["once upon a time", "UNSUPPORTED_FORMAT", /"once upo"/],
    ["", "UNSUPPORTED_FORMAT", /""/],
  ])("says what %j is", async (content, code, message) => {
    const path = join(root, "foreign.bin");
    await writeFile(path, Buffer.from(content, "latin1"));
    const error = await openCheckpoint(path).catch((reason) => reason);
    expect(error).toMatchObject({ code });
    expect(error.message).toMatch(message);
  });

  it("says what a folder lacks", async () => {
    await expect(openCheckpoint(join(root, "nowhere"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    const folder = join(root, "torch");
    await mkdir(folder);
    await expect(openCheckpoint(folder)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await writeFile(join(folder, "pytorch_model-00001-of-00002.bin"), "");
    await expect(openCheckpoint(folder)).rejects.toMatchObject({ code: "UNSUPPORTED_FORMAT" });
  });
});

/** Numbers from a seed, so that a failure can be run again. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe("damaged files", () => {
  /** Opens and reads all tensors; gives the error's code, or "opened". Any other exception fails the test. */
  async function attempt(path: string, what: string): Promise<string> {
    try {
      await using checkpoint = await openCheckpoint(path);
      let total = 0;
      for (const { name, byteLength } of checkpoint.tensors.values()) {
        total += byteLength;
        expect(total).toBeLessThanOrEqual(checkpoint.fileBytes);
        await checkpoint.read(name, 0, new Uint8Array(byteLength));
      }
      return "opened";
    } catch (error) {
      if (error instanceof MillraceError && error.code !== "INTERNAL") return error.code;
      throw new Error(`${what}: ${String(error)}`, { cause: error });
    }
  }

  const kinds: [string, (folder: string) => Promise<string>][] = [
    [
      "gguf",
      async (folder) => {
        await gguf(join(folder, "f.gguf"));
        return join(folder, "f.gguf");
      },
    ],
    [
      "safetensors",
      async (folder) => {
        await safetensors(folder);
        return join(folder, "model.safetensors");
      },
    ],
  ];

  it.each(kinds)("%s: every truncation gives a typed error", async (kind, make) => {
    const path = await make(join(root, `cut-${kind}`));
    const whole = await readFile(path);
    // Padding after the last tensor may be missing; everything before may not.
    const padding = kind === "gguf" ? 16 : 0;
    for (let length = 0; length < whole.length - padding; length++) {
      await writeFile(path, whole.subarray(0, length));
      const outcome = await attempt(path, `${kind} cut to ${length}`);
      expect(["BAD_FORMAT", "UNSUPPORTED_FORMAT"], `${kind} cut to ${length}: ${outcome}`).toContain(outcome);
    }
  });

  it.each(kinds)(
    "%s: flipped, set and swapped bytes give a typed error or a sound file",
    async (kind, make) => {
      const path = await make(join(root, `flip-${kind}`));
      const whole = await readFile(path);
      const header = Math.min(whole.length, 700);
      const next = random(7);
      const outcomes = new Set<string>();
      const before = process.memoryUsage().arrayBuffers;
      let peak = before;
      for (let round = 0; round < 500; round++) {
        const damaged = Buffer.from(whole);
        const changes = 1 + next(3);
        for (let change = 0; change < changes; change++) {
          const at = next(header);
          const how = next(4);
          if (how === 0) damaged[at]! ^= 1 << next(8);
          else if (how === 1) damaged[at] = next(256);
          else if (how === 2) damaged.fill(0xff, at, Math.min(at + 8, damaged.length));
          else damaged.copyWithin(at, next(header), Math.min(next(header) + 8, damaged.length));
        }
        await writeFile(path, damaged);
        outcomes.add(await attempt(path, `${kind} round ${round}`));
        peak = Math.max(peak, process.memoryUsage().arrayBuffers);
      }
      expect(outcomes).toContain("opened");
      expect(outcomes).toContain("BAD_FORMAT");
      // Nothing may allocate what a damaged length claims: the files here have a few kilobytes.
      expect(peak - before).toBeLessThan(64 * 2 ** 20);
    },
  );
});
