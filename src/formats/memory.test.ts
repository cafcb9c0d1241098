import { expect, test } from "vitest";
import { memoryCheckpoint } from "./memory.js";

test("reads ranges of its tensors, and refuses what is not there", async () => {
  const checkpoint = memoryCheckpoint(
    {
      a: { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) },
      b: { shape: [3], type: "Q8_0", data: Uint8Array.of(7, 8, 9) },
    },
    { metadata: [["general.name", "x"]], architecture: "llama" },
  );
  expect(checkpoint.tensors.get("a")).toEqual({ name: "a", type: "F32", shape: [2, 2], byteLength: 16 });
  expect(checkpoint.fileBytes).toBe(19);
  expect(checkpoint.metadata.get("general.name")).toBe("x");
  const into = new Uint8Array(8);
  await checkpoint.read("a", 4, into);
  expect([...new Float32Array(into.buffer)]).toEqual([2, 3]);
  await expect(checkpoint.read("a", 12, into)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  await expect(checkpoint.read("c", 0, into)).rejects.toMatchObject({ code: "MISSING_TENSOR" });
  const short = { a: { shape: [3], data: Float32Array.of(1) } };
  expect(() => memoryCheckpoint(short)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
});
