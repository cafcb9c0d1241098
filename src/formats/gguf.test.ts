import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gguf as oracle } from "@huggingface/gguf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stories } from "../../test/support/outside.js";
import { openGguf } from "./gguf.js";
import { array, bool, f32, type GgufValue, i32, string, u32, u64 } from "./gguf-values.js";
import { type GgufTensor, splitMetadata, writeGguf } from "./gguf-writer.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-gguf-"));
});
afterAll(() => rm(folder, { recursive: true }));

const floats = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);
const tensor = (name: string, shape: number[], bytes: Uint8Array): GgufTensor => ({
  name,
  type: "F32",
  shape,
  data: () => bytes,
});

const METADATA: Record<string, GgufValue> = {
  "general.architecture": string("llama"),
  "a.u8": { type: "u8", value: 255 },
  "a.i8": { type: "i8", value: -128 },
  "a.u16": { type: "u16", value: 65535 },
  "a.i16": { type: "i16", value: -32768 },
  "a.u32": u32(4294967295),
  "a.i32": i32(-2147483648),
  "a.f32": f32(0.5),
  "a.bool": bool(true),
  "a.text": string("größer ▁<0x0A>"),
  "a.u64": u64(2n ** 64n - 1n),
  "a.small": u64(7),
  "a.i64": { type: "i64", value: -5 },
  "a.f64": { type: "f64", value: Math.PI },
  "a.empty": array("string", []),
  "a.words": array("string", ["", "a", "日本"]),
  "a.flags": array("bool", [true, false]),
  "a.wide": array("i64", [-1, 2n ** 60n]),
  "a.nested": array("array", [array("u8", [1, 2]), array("string", ["x"])]),
};

describe("GGUF", () => {
  it("reads back every value type and every tensor that was written", async () => {
    const path = join(folder, "all.gguf");
    async function* chunks() {
      yield floats(1, 2);
      yield floats(3, 4, 5, 6);
    }
    await writeGguf(path, {
      metadata: METADATA,
      tensors: [
        { name: "m", type: "F32", shape: [2, 3], data: chunks },
        { name: "q", type: "Q8_0", shape: [2, 32], data: () => new Uint8Array(68).fill(7) },
        tensor("v", [3], floats(7, 8, 9)),
      ],
    });
    await using file = await openGguf(path);
    expect(Object.fromEntries(file.entries)).toEqual(METADATA);
    expect([...file.entries.keys()]).toEqual(Object.keys(METADATA));
    expect(file.metadata.get("a.nested")).toEqual([[1, 2], ["x"]]);
    expect(file.metadata.get("a.small")).toBe(7);
    expect(file.architecture).toBe("llama");
    expect(file.tokenizer.kind).toBe("none");
    expect(file.version).toBe(3);
    expect(
      [...file.tensors.values()].map(({ name, type, shape, byteLength }) => [name, type, shape, byteLength]),
    ).toEqual([
      ["m", "F32", [2, 3], 24],
      ["q", "Q8_0", [2, 32], 68],
      ["v", "F32", [3], 12],
    ]);
    const row = new Float32Array(3);
    await file.read("m", 12, new Uint8Array(row.buffer));
    expect([...row]).toEqual([4, 5, 6]);
    const shared = new Uint8Array(new SharedArrayBuffer(12));
    expect(structuredClone(file.tensors)).toEqual(file.tensors);
    await file.read("v", 0, shared);
    expect([...shared]).toEqual([...floats(7, 8, 9)]);
    expect(file.fileBytes).toBe((await readFile(path)).length);
  });

  it.skipIf(!stories.here)("agrees with @huggingface/gguf on a real file (needs stories260K)", async () => {
    await using file = await openGguf(stories.path);
    const { metadata, tensorInfos, tensorDataOffset } = await oracle(stories.path, { allowLocalFile: true });
    const { version, tensor_count, kv_count, ...rest } = metadata as Record<string, unknown>;
    expect(file.version).toBe(version);
    expect(BigInt(file.tensors.size)).toBe(tensor_count);
    expect(BigInt(file.metadata.size)).toBe(kv_count);
    expect(Object.fromEntries(file.metadata)).toEqual(rest);
    for (const info of tensorInfos) {
      const ours = file.tensors.get(info.name)!;
      expect(ours.shape).toEqual(info.shape.map(Number).toReversed());
      expect(BigInt(file.locate(info.name).position)).toBe(tensorDataOffset + info.offset);
    }
    expect(file.tokenizer.kind).toBe("gguf");
  });

  it.skipIf(!stories.here)("copies a real file tensor by tensor (needs stories260K)", async () => {
    await using source = await openGguf(stories.path);
    const path = join(folder, "copy.gguf");
    await writeGguf(path, {
      metadata: source.entries,
      tensors: [...source.tensors.values()].map((info) => ({
        ...info,
        data: async function* () {
          const bytes = new Uint8Array(info.byteLength);
          await source.read(info.name, 0, bytes);
          yield bytes;
        },
      })),
    });
    expect((await readFile(path)).equals(await readFile(stories.path))).toBe(true);
  });

  it("reads version 2, refuses version 1 and big-endian files", async () => {
    const path = join(folder, "version.gguf");
    await writeGguf(path, { metadata: METADATA, tensors: [tensor("v", [1], floats(1))] });
    const bytes = await readFile(path);
    bytes.writeUInt32LE(2, 4);
    await writeFile(path, bytes);
    {
      await using file = await openGguf(path);
      expect(file.version).toBe(2);
    }
    bytes.writeUInt32LE(1, 4);
    await writeFile(path, bytes);
    await expect(openGguf(path)).rejects.toMatchObject({
      code: "UNSUPPORTED_FORMAT",
      details: { version: 1 },
    });
    bytes.writeUInt32BE(3, 4);
    await writeFile(path, bytes);
    await expect(openGguf(path)).rejects.toThrow(/big-endian/);
  });

  it("honours general.alignment", async () => {
    const path = join(folder, "aligned.gguf");
    await writeGguf(path, {
      metadata: { ...METADATA, "general.alignment": u32(256) },
      tensors: [tensor("a", [1], floats(1)), tensor("b", [1], floats(2))],
    });
    await using file = await openGguf(path);
    expect(file.locate("a").position % 256).toBe(0);
    expect(file.locate("b").position - file.locate("a").position).toBe(256);
  });

  it("opens a split file from any of its parts", async () => {
    const part = (index: number) => join(folder, `split-0000${index + 1}-of-00003.gguf`);
    const tensors = [1, 2, 3, 4].map((value) => tensor(`t${value}`, [1], floats(value)));
    const parts = [[], tensors.slice(0, 3), tensors.slice(3)];
    for (const [index, own] of parts.entries()) {
      await writeGguf(part(index), {
        metadata: { ...(index === 0 ? METADATA : {}), ...splitMetadata(index, 3, 4) },
        tensors: own,
      });
    }
    for (const index of [0, 2]) {
      await using file = await openGguf(part(index));
      expect([...file.tensors.keys()]).toEqual(["t1", "t2", "t3", "t4"]);
      expect(file.path).toBe(part(0));
      const value = new Float32Array(1);
      await file.read("t4", 0, new Uint8Array(value.buffer));
      expect(value[0]).toBe(4);
    }
    await rm(part(1));
    await expect(openGguf(part(0))).rejects.toMatchObject({
      code: "FILE_NOT_FOUND",
      details: { path: part(1) },
    });
  });

  it("checks reads", async () => {
    const path = join(folder, "reads.gguf");
    await writeGguf(path, { metadata: METADATA, tensors: [tensor("v", [2], floats(1, 2))] });
    const file = await openGguf(path);
    await expect(file.read("w", 0, new Uint8Array(1))).rejects.toMatchObject({ code: "MISSING_TENSOR" });
    await expect(file.read("v", 5, new Uint8Array(4))).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(file.read("v", -1, new Uint8Array(4))).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await truncate(path, file.locate("v").position + 6);
    await expect(file.read("v", 0, new Uint8Array(8))).rejects.toMatchObject({ code: "BAD_FORMAT" });
    await file.close();
    await file.close();
    await expect(file.read("v", 0, new Uint8Array(4))).rejects.toMatchObject({ code: "CLOSED" });
  });

  it("writes nothing where the contents contradict themselves", async () => {
    const path = join(folder, "bad", "bad.gguf");
    const cases: [GgufTensor[], Record<string, GgufValue>, string][] = [
      [[tensor("a", [2], floats(1))], METADATA, "INVALID_ARGUMENT"],
      [[tensor("a", [1], floats(1, 2))], METADATA, "INVALID_ARGUMENT"],
      [[tensor("a", [1], floats(1)), tensor("a", [1], floats(1))], METADATA, "INVALID_ARGUMENT"],
      [[{ name: "q", type: "Q4_0", shape: [2, 31], data: () => new Uint8Array(0) }], METADATA, "BAD_SHAPE"],
      [[], { x: u32(-1) }, "INVALID_ARGUMENT"],
      [[], { x: u32(1.5) }, "INVALID_ARGUMENT"],
      [[], { x: array("string", [1]) }, "INVALID_ARGUMENT"],
    ];
    for (const [tensors, metadata, code] of cases) {
      await expect(writeGguf(path, { metadata, tensors })).rejects.toMatchObject({ code });
    }
    expect(existsSync(join(folder, "bad")) ? await readdir(join(folder, "bad")) : []).toEqual([]);
  });
});

describe("damaged GGUF", () => {
  /** Offsets into a small file whose layout is spelled out here: 24 bytes of counts, one key, two tensors. */
  async function damaged(name: string, patch: (bytes: Buffer) => Buffer | undefined): Promise<string> {
    const path = join(folder, `${name}.gguf`);
    await writeGguf(path, {
      metadata: { "general.architecture": string("llama") },
      tensors: [tensor("a", [1, 4], floats(1, 2, 3, 4)), tensor("b", [4], floats(5, 6, 7, 8))],
    });
    const bytes = await readFile(path);
    await writeFile(path, patch(bytes) ?? bytes);
    return path;
  }
  const KEY = 24;
  const TENSOR_A = KEY + 8 + 20 + 4 + 8 + 5;
  const A_DIMENSIONS = TENSOR_A + 8 + 1;
  const TENSOR_B = A_DIMENSIONS + 4 + 16 + 4 + 8;

  const cases: [string, (bytes: Buffer) => Buffer | undefined, string, RegExp][] = [
    ["empty", () => Buffer.alloc(0), "BAD_FORMAT", /0 bytes left/],
    ["magic", (b) => void b.write("GGLM"), "BAD_FORMAT", /magic/],
    ["tensor-count", (b) => void b.writeBigUInt64LE(2n ** 63n, 8), "BAD_FORMAT", /tensors/],
    ["key-count", (b) => void b.writeBigUInt64LE(1000n, 16), "BAD_FORMAT", /metadata keys/],
    ["key-length", (b) => void b.writeBigUInt64LE(2n ** 40n, KEY), "BAD_FORMAT", /1099511627776 bytes/],
    ["key-past-end", (b) => void b.writeBigUInt64LE(5000n, KEY), "BAD_FORMAT", /5000 bytes/],
    ["value-type", (b) => void b.writeUInt32LE(13, KEY + 28), "BAD_FORMAT", /value type 13/],
    ["architecture-type", (b) => void b.writeUInt32LE(10, KEY + 28), "BAD_FORMAT", /./],
    ["dimensions", (b) => void b.writeUInt32LE(5, A_DIMENSIONS), "BAD_FORMAT", /"a" of 5 dimensions/],
    ["zero-dimension", (b) => void b.writeBigUInt64LE(0n, A_DIMENSIONS + 4), "BAD_FORMAT", /shape \[1,0\]/],
    [
      "vast-dimension",
      (b) => void b.writeBigUInt64LE(2n ** 60n, A_DIMENSIONS + 4),
      "BAD_FORMAT",
      /"a" of shape/,
    ],
    [
      "overflowing-shape",
      (b) => {
        b.writeBigUInt64LE(2n ** 40n, A_DIMENSIONS + 4);
        b.writeBigUInt64LE(2n ** 40n, A_DIMENSIONS + 12);
      },
      "BAD_FORMAT",
      /too large/,
    ],
    ["not-whole-blocks", (b) => void b.writeUInt32LE(2, A_DIMENSIONS + 20), "BAD_FORMAT", /multiple of 32/],
    [
      "foreign-type",
      (b) => void b.writeUInt32LE(16, A_DIMENSIONS + 20),
      "UNSUPPORTED_TENSOR_TYPE",
      /"a".*IQ2_XXS/,
    ],
    ["no-type", (b) => void b.writeUInt32LE(999, A_DIMENSIONS + 20), "UNSUPPORTED_TENSOR_TYPE", /type 999/],
    ["misaligned", (b) => void b.writeBigUInt64LE(4n, A_DIMENSIONS + 24), "BAD_FORMAT", /alignment 32/],
    ["past-end", (b) => void b.writeBigUInt64LE(64n, A_DIMENSIONS + 24), "BAD_FORMAT", /truncated/],
    ["overlap", (b) => void b.writeBigUInt64LE(32n, A_DIMENSIONS + 24), "BAD_FORMAT", /after/],
    ["duplicate-tensor", (b) => void b.write("a", TENSOR_B + 8), "BAD_FORMAT", /"a" twice/],
    ["truncated-data", (b) => b.subarray(0, b.length - 17), "BAD_FORMAT", /"b" has 16 bytes/],
    ["truncated-header", (b) => b.subarray(0, TENSOR_B + 4), "BAD_FORMAT", /truncated/],
  ];
  for (const [name, patch, code, message] of cases) {
    it(`refuses ${name}`, async () => {
      const error = await openGguf(await damaged(name, patch)).then(
        () => "opened",
        (reason) => reason,
      );
      expect(error).toMatchObject({ name: "MillraceError", code });
      expect(error.message).toMatch(message);
    });
  }

  it("refuses duplicate keys, bad booleans, deep nesting, bad alignment, no architecture", async () => {
    const path = join(folder, "metadata.gguf");
    const attempt = async (metadata: Record<string, GgufValue>, patch?: (bytes: Buffer) => void) => {
      await writeGguf(path, { metadata, tensors: [] });
      const bytes = await readFile(path);
      patch?.(bytes);
      await writeFile(path, bytes);
      return openGguf(path).then(
        () => "opened",
        (reason) => `${reason.code} ${reason.message}`,
      );
    };
    expect(await attempt({ x: u32(1) })).toMatch(/^MISSING_METADATA.*general.architecture/);
    expect(await attempt({ "general.architecture": u32(1) })).toMatch(/^MISSING_METADATA.*type u32/);
    expect(await attempt({ x: u32(1), y: u32(2) }, (b) => b.write("x", 24 + 17 + 8))).toMatch(/"x" twice/);
    expect(await attempt({ x: bool(true) }, (b) => b.writeUInt8(2, 37))).toMatch(/byte 2/);
    let nest = array("u8", [1]);
    for (let depth = 0; depth < 6; depth++) nest = array("array", [nest]);
    expect(await attempt({ x: nest })).toMatch(/nested in "x"/);
    expect(
      await attempt({ "general.alignment": u32(8) }, (b) => b.writeUInt32LE(24, 24 + 8 + 17 + 4)),
    ).toMatch(/general.alignment 24/);
    expect(await attempt({ x: array("u32", [1, 2]) }, (b) => b.writeBigUInt64LE(2n ** 33n, 41))).toMatch(
      /count of 8589934592 elements of "x"/,
    );
  });

  it("says which file is missing", async () => {
    await expect(openGguf(join(folder, "nowhere.gguf"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(openGguf(folder)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });
});
