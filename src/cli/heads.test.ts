import { mkdtempSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli } from "../../test/support/cli.js";
import { tinyModel, writeTinyGguf } from "../../test/support/tiny-models.js";

describe.skipIf(!built)("millrace heads (needs npm run build)", () => {
  let folder: string;
  let model: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "millrace-heads-cli-"));
    model = await writeTinyGguf(tinyModel("llama"), folder);
  });
  afterAll(() => rm(folder, { recursive: true }));
  const gates = (...more: string[]) =>
    cli([
      ...["heads", model, "--method", "duo", "--steps", "3", "--length", "224", "--passkeys", "1"],
      ...["--words", "1", "--recent", "8", "--sinks", "2", "--backend", "reference", ...more],
    ]);

  it("trains gates that a run with duo finds, beside measured scores", async () => {
    const run = () =>
      cli([
        ...["run", model, "--prompt", "The boat", "--max-tokens", "3", "--backend", "reference"],
        ...["--cache", "duo:keep=0.5,sinks=2,recent=16", "--json"],
      ]);
    const without = await run();
    expect([without.code, without.stderr]).toEqual([2, expect.stringContaining("heads --method duo")]);
    const { code, stdout, stderr } = await gates("--json");
    expect([code, stderr]).toEqual([0, expect.stringContaining("step 3/3")]);
    const found = JSON.parse(stdout);
    expect(found).toMatchObject({ path: `${model}.heads.json`, steps: 3 });
    expect(found.gates.flat()).toHaveLength(4);
    expect((await cli(["heads", model, "--backend", "reference"])).code).toBe(0);
    const stored = JSON.parse(await readFile(found.path, "utf8"));
    expect(stored).toMatchObject({ gates: found.gates, scores: { echo: expect.anything() } });
    expect((await run()).code).toBe(0);
  });

  it("prints them for people, and says what goes with what", async () => {
    const { code, stdout } = await gates();
    expect([code, stdout]).toEqual([0, expect.stringContaining("All 4 are in")]);
    const stray = await cli(["heads", model, "--steps", "5"]);
    expect([stray.code, stray.stderr]).toEqual([2, expect.stringContaining("goes with --method duo")]);
    const wrong = await gates("--pressure", "-1");
    expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining("pressure")]);
  });
});
