import { describe, expect, test, vi } from "vitest";
import { MillraceError } from "../errors.js";
import type { Backend, BackendName } from "./contract.js";
import { createNull } from "./null.js";
import { createReference } from "./reference/index.js";
import { BACKEND_NAMES, createBackend } from "./resolve.js";

// What the compiled backends do on the machine that a test plays.
const machine = vi.hoisted(() => ({
  native: (): Backend => {
    throw new Error("unset");
  },
  wasm: (): Backend => {
    throw new Error("unset");
  },
}));
vi.mock("./native/index.js", () => ({ createNative: () => machine.native() }));
vi.mock("./wasm/index.js", () => ({ createWasm: () => machine.wasm() }));

const absent = (): never => {
  throw new MillraceError("BACKEND_UNAVAILABLE", "there is no compiler.");
};

describe("createBackend", () => {
  test("finds reference and null by name", async () => {
    for (const name of ["reference", "null"] as const) {
      const { backend, reason } = await createBackend(name);
      expect(backend.name).toBe(name);
      expect(reason).toBeNull();
    }
    expect(BACKEND_NAMES).toHaveLength(4);
  });

  test("auto is native where that runs", async () => {
    const native = createReference();
    machine.native = () => native;
    machine.wasm = absent;
    expect(await createBackend("auto")).toEqual({ backend: native, reason: null });
  });

  test("auto falls back to wasm and says why", async () => {
    const wasm = createReference();
    machine.native = absent;
    machine.wasm = () => wasm;
    const { backend, reason } = await createBackend("auto");
    expect(backend).toBe(wasm);
    expect(reason).toContain("there is no compiler.");
  });

  test("a backend that computes wrongly is disposed of and refused; auto goes on without it", async () => {
    const wrong = createNull();
    const dispose = vi.spyOn(wrong, "dispose");
    machine.native = () => wrong;
    machine.wasm = () => createReference();
    await expect(createBackend("native")).rejects.toMatchObject({ code: "SELF_CHECK_FAILED" });
    expect(dispose).toHaveBeenCalledOnce();
    expect((await createBackend("auto")).reason).toContain("self-check at embed");
  });

  test("throws both reasons where neither runs", async () => {
    machine.native = absent;
    machine.wasm = () => createNull();
    const failing = createBackend("auto");
    await expect(failing).rejects.toMatchObject({ code: "BACKEND_UNAVAILABLE" });
    await expect(failing).rejects.toThrow(/no compiler.*self-check/s);
  });

  test("an error that is not about the machine is not swallowed", async () => {
    machine.native = () => {
      throw new MillraceError("INVALID_ARGUMENT", "0 threads");
    };
    machine.wasm = () => createReference();
    await expect(createBackend("auto")).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  test("refuses an unknown name with the known ones", async () => {
    const failing = createBackend("cuda" as BackendName);
    await expect(failing).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(failing).rejects.toThrow(/"cuda".*reference, null, wasm, native or auto/);
  });
});
