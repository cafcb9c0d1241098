import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openSafetensors } from "./safetensors.js";
import { type SafetensorsTensor, writeSafetensors } from "./safetensors-writer.js";

let root = "";
let count = 0;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "millrace-safetensors-"));
});
afterAll(() => rm(root, { recursive: true }));

const floats = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);
const tensor = (
  name: string,
  shape: number[],
  bytes: Uint8Array,
  type: SafetensorsTensor["type"] = "F32",
) => ({
  name,
  type,
  shape,
  data: () => [bytes.subarray(0, 3), bytes.subarray(3)],
});

const CONFIG = {
  model_type: "qwen2",
  hidden_size: 64,
  sliding_window: null,
  rope_scaling: { factor: 8, type: "llama3" },
  architectures: ["Qwen2ForCausalLM"],
  tie_word_embeddings: true,
  layers: [{ kind: "a" }, { kind: "b" }],
};

/** A folder with config.json and the given files. */
async function folder(files: Record<string, string | Buffer> = {}): Promise<string> {
  const path = join(root, `m${count++}`);
  await mkdir(path);
  for (const [name, content] of Object.entries({ "config.json": JSON.stringify(CONFIG), ...files })) {
    await writeFile(join(path, name), content);
  }
  return path;
}

/** A safetensors file of a header as given and `dataBytes` zeros. */
function raw(header: unknown, dataBytes: number, length?: bigint): Buffer {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  return Buffer.concat([prefix, json, Buffer.alloc(dataBytes)]);
}

describe("safetensors", () => {
  it("reads back a single file, from its folder or by its name", async () => {
    const path = await folder();
    const file = join(path, "model.safetensors");
    await writeSafetensors(
      file,
      [
        tensor("a.weight", [2, 3], floats(1, 2, 3, 4, 5, 6)),
        tensor("h", [2], Uint8Array.of(0, 0x3c, 0, 0x40), "F16"),
        tensor("b", [1], Uint8Array.of(0x80, 0x3f), "BF16"),
        tensor("none", [0, 4], new Uint8Array(0)),
      ],
      { format: "pt" },
    );
    expect((await readFile(file)).readUInt8(8)).toBe("{".charCodeAt(0));
    for (const place of [path, file]) {
      await using checkpoint = await openSafetensors(place);
      expect(checkpoint.format).toBe("safetensors");
      expect(checkpoint.architecture).toBe("qwen2");
      expect(Object.fromEntries(checkpoint.metadata)).toEqual({
        model_type: "qwen2",
        hidden_size: 64,
        "rope_scaling.factor": 8,
        "rope_scaling.type": "llama3",
        architectures: ["Qwen2ForCausalLM"],
        tie_word_embeddings: true,
        "layers.0.kind": "a",
        "layers.1.kind": "b",
      });
      expect([...checkpoint.tensors.values()].map((t) => [t.name, t.type, t.shape, t.byteLength])).toEqual([
        ["a.weight", "F32", [2, 3], 24],
        ["h", "F16", [2], 4],
        ["b", "BF16", [1], 2],
        ["none", "F32", [0, 4], 0],
      ]);
      const row = new Float32Array(3);
      await checkpoint.read("a.weight", 12, new Uint8Array(row.buffer));
      expect([...row]).toEqual([4, 5, 6]);
      expect(checkpoint.fileBytes).toBe((await readFile(file)).length);
      expect(checkpoint.tokenizer).toEqual({ kind: "none" });
    }
  });

  it("reads shards through the index, from the folder, the index or any shard", async () => {
    const names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;
    const path = await folder({
      "model.safetensors.index.json": JSON.stringify({
        metadata: { total_size: 12 },
        weight_map: { x: names[0], y: names[1], z: names[0] },
      }),
    });
    await writeSafetensors(join(path, names[0]), [tensor("x", [1], floats(1)), tensor("z", [1], floats(3))]);
    await writeSafetensors(join(path, names[1]), [tensor("y", [1], floats(2))]);
    for (const place of [path, join(path, "model.safetensors.index.json"), join(path, names[1])]) {
      await using checkpoint = await openSafetensors(place);
      expect([...checkpoint.tensors.keys()].toSorted()).toEqual(["x", "y", "z"]);
      const value = new Float32Array(1);
      await checkpoint.read("y", 0, new Uint8Array(value.buffer));
      expect(value[0]).toBe(2);
    }
    await rm(join(path, names[1]));
    await expect(openSafetensors(path)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await writeSafetensors(join(path, names[1]), [tensor("other", [1], floats(2))]);
    await expect(openSafetensors(path)).rejects.toThrow(/no tensor "y"/);
  });

  it.each([
    "../model.safetensors",
    "/etc/model.safetensors",
    "a/b.safetensors",
    "..\\b.safetensors",
    "x.bin",
    7,
  ])("refuses a weight_map that points to %s", async (target) => {
    const path = await folder({
      "model.safetensors.index.json": JSON.stringify({ weight_map: { x: target } }),
    });
    await expect(openSafetensors(path)).rejects.toMatchObject({
      code: "BAD_FORMAT",
      details: { tensor: "x" },
    });
  });

  it("gathers the tokenizer's files", async () => {
    const path = await folder({
      "tokenizer.json": JSON.stringify({ model: { type: "BPE" } }),
      "tokenizer_config.json": JSON.stringify({ eos_token: "</s>", chat_template: "old" }),
      "chat_template.jinja": "{{ messages }}",
      "generation_config.json": JSON.stringify({ eos_token_id: [1, 2] }),
    });
    await writeSafetensors(join(path, "model.safetensors"), [tensor("x", [1], floats(1))]);
    await using checkpoint = await openSafetensors(path);
    expect(checkpoint.tokenizer).toEqual({
      kind: "huggingface",
      tokenizer: { model: { type: "BPE" } },
      config: {
        eos_token: "</s>",
        chat_template: "{{ messages }}",
        generation_config: { eos_token_id: [1, 2] },
      },
    });
  });

  it("leaves index buffers out, and names the type when they or odd weights are wanted", async () => {
    const header = {
      ids: { dtype: "I64", shape: [2], data_offsets: [0, 16] },
      w: { dtype: "F32", shape: [1], data_offsets: [16, 20] },
    };
    await using checkpoint = await openSafetensors(await folder({ "model.safetensors": raw(header, 20) }));
    expect([...checkpoint.tensors.keys()]).toEqual(["w"]);
    await expect(checkpoint.read("ids", 0, new Uint8Array(1))).rejects.toMatchObject({
      code: "UNSUPPORTED_TENSOR_TYPE",
      details: { tensor: "ids", type: "I64" },
    });
    const odd = { "a.weight": { dtype: "F8_E4M3", shape: [4], data_offsets: [0, 4] } };
    await expect(openSafetensors(await folder({ "model.safetensors": raw(odd, 4) }))).rejects.toMatchObject({
      code: "UNSUPPORTED_TENSOR_TYPE",
      details: { tensor: "a.weight", type: "F8_E4M3" },
    });
  });

  const entry = (begin: number, end: number, shape = [(end - begin) / 4], dtype = "F32") => ({
    dtype,
    shape,
    data_offsets: [begin, end],
  });
  const cases: [string, Buffer, RegExp][] = [
    ["an empty file", Buffer.alloc(0), /0 bytes/],
    ["a header past the end", raw({}, 0, 1000n), /header of 1000 bytes/],
    ["a vast header", raw({}, 0, 2n ** 63n), /header of 9223372036854776000/],
    ["a header that is no JSON", raw("{x", 0), /not JSON/],
    ["a header that is no object", raw("[1]", 0), /an array/],
    ["an entry without shape", raw({ a: { dtype: "F32", data_offsets: [0, 4] } }, 4), /tensor "a"/],
    ["negative sizes", raw({ a: entry(0, 4, [-1]) }, 4), /tensor "a"/],
    ["fractional offsets", raw({ a: entry(0, 4.5, [1]) }, 4), /tensor "a"/],
    ["descending offsets", raw({ a: entry(4, 0, [1]) }, 4), /ascending/],
    ["data past the end", raw({ a: entry(0, 8) }, 4), /truncated/],
    ["a shape that contradicts its bytes", raw({ a: entry(0, 8, [3]) }, 8), /12 for F32 \[3\]/],
    ["an overflowing shape", raw({ a: entry(0, 8, [2 ** 40, 2 ** 40]) }, 8), /too large/],
    ["a hole", raw({ a: entry(0, 4), b: entry(8, 12) }, 12), /no holes/],
    ["an overlap", raw({ a: entry(0, 8), b: entry(4, 12) }, 12), /no overlaps/],
    ["bytes after the last tensor", raw({ a: entry(0, 4) }, 5), /5 bytes of data/],
  ];
  it.each(cases)("refuses %s", async (_, bytes, message) => {
    const error = await openSafetensors(await folder({ "model.safetensors": bytes })).then(
      () => "opened",
      (reason) => reason,
    );
    expect(error).toMatchObject({ code: "BAD_FORMAT" });
    expect(error.message).toMatch(message);
  });

  it("refuses what lies beside the weights when it is missing or foreign", async () => {
    const weights = { "model.safetensors": raw({ a: entry(0, 4) }, 4) };
    const noConfig = await folder(weights);
    await rm(join(noConfig, "config.json"));
    await expect(openSafetensors(noConfig)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    const open = async (config: string) =>
      openSafetensors(await folder({ ...weights, "config.json": config }));
    await expect(open("{}")).rejects.toMatchObject({ code: "MISSING_METADATA" });
    await expect(open("nonsense")).rejects.toMatchObject({ code: "BAD_FORMAT" });
    await expect(
      open(JSON.stringify({ ...CONFIG, quantization_config: { quant_method: "gptq" } })),
    ).rejects.toMatchObject({ code: "UNSUPPORTED_FORMAT", details: { method: "gptq" } });
    await expect(openSafetensors(await folder())).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(
      openSafetensors(await folder({ "a.safetensors": raw({}, 0), "b.safetensors": raw({}, 0) })),
    ).rejects.toMatchObject({ code: "BAD_FORMAT" });
  });

  it("writes nothing where names clash or data has the wrong length", async () => {
    const path = join(root, "bad.safetensors");
    for (const tensors of [
      [tensor("a", [1], floats(1)), tensor("a", [1], floats(1))],
      [tensor("__metadata__", [1], floats(1))],
      [tensor("a", [2], floats(1))],
    ]) {
      await expect(writeSafetensors(path, tensors)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    }
    expect(existsSync(path)).toBe(false);
  });
});
