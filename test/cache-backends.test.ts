/** Cache policies on the backends that people use: evicted, moved, shared and scored pages mean the same to all. */
import { afterAll, describe, it } from "vitest";
import type { Backend } from "../src/backends/contract.js";
import { createBackend } from "../src/backends/resolve.js";
import { MillraceError } from "../src/errors.js";
import { MIXED, POLICIES } from "./support/cache-policies.js";
import { describeMass, describePolicy } from "./support/cache-suite.js";

for (const name of ["native", "wasm"] as const) {
  const opened = await open(name);
  if (opened instanceof MillraceError) {
    it.skip(`${name}: ${opened.message}`, () => {});
    continue;
  }
  describe(name, () => {
    const backend = () => opened;
    afterAll(() => opened.dispose());
    for (const policy of POLICIES) describePolicy(policy, ["llama"], ["f16"], backend);
    describePolicy(MIXED, ["llama", "mistral", "qwen2-yarn"], ["f32"], backend);
    describePolicy(MIXED, ["llama"], ["int8"], backend);
    describePolicy(POLICIES[0]!, ["gemma3"], ["f16"], backend);
    describeMass(backend);
  });
}

/** The backend, or why it cannot run here; what else goes wrong fails the file. */
async function open(name: "native" | "wasm"): Promise<Backend | MillraceError> {
  try {
    return (await createBackend(name, { threads: 2 })).backend;
  } catch (error) {
    if (error instanceof MillraceError && error.code === "BACKEND_UNAVAILABLE") return error;
    throw error;
  }
}
