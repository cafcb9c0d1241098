import { execFileSync } from "node:child_process";
import { describe } from "vitest";
import { describeTraining } from "../../test/conformance/training.js";
import { createNative } from "./native/index.js";
import { createWasm } from "./wasm/index.js";

function hasCompiler(): boolean {
  try {
    execFileSync(process.env.CC ?? "cc", ["--version"], { stdio: "ignore" });
    return process.platform !== "win32";
  } catch {
    return false;
  }
}

describe.skipIf(!hasCompiler())("native (skipped where no C compiler runs)", () => {
  describeTraining((threads) => createNative({ threads, log: () => {} }));
});

describe("wasm", () => {
  describeTraining((threads) => createWasm({ threads }));
});
