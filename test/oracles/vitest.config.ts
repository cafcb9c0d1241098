import { defineConfig } from "vitest/config";

/** Oracles write fixtures; they run by hand, never with the tests: npx vitest run --config test/oracles/vitest.config.ts */
export default defineConfig({
  test: { include: ["test/oracles/*.oracle.ts"], testTimeout: 600_000, hookTimeout: 60_000 },
});
