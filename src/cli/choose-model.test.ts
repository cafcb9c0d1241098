import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { PassThrough } from "node:stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { parseHubSource } from "../formats/hub-source.js";
import { askForModel, chosenModel, findModels } from "./choose-model.js";
import { terminalLines } from "./lines.js";

describe("models at hand", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-choose-"));
  });
  afterEach(() => rm(folder, { recursive: true }));

  async function write(...paths: string[]): Promise<void> {
    for (const path of paths) {
      await mkdir(dirname(join(folder, path)), { recursive: true });
      await writeFile(join(folder, path), "");
    }
  }
  const find = async () => {
    const found = await findModels(folder, join(folder, "hub"));
    return found.map((source) => source.replace(join(folder, "/"), ""));
  };

  it("are the GGUF models of the folder and of its models, once each", async () => {
    await write("b.gguf", "a.gguf", "notes.txt", "models/c.gguf", "models/deeper/d.gguf");
    await write("models/big-00001-of-00002.gguf", "models/big-00002-of-00002.gguf", "models/mmproj-c.gguf");
    expect(await find()).toEqual(["a.gguf", "b.gguf", "models/big-00001-of-00002.gguf", "models/c.gguf"]);
  });

  it("are complete downloads, by names that mean them", async () => {
    const complete = ["hub/owner/one/main", "hub/owner/two/refs%2Fpr%2F1", "hub/owner/three/main"];
    for (const revision of complete) await write(`${revision}/.listing.json`);
    await write("hub/owner/one/main/q/m.gguf", "hub/owner/one/main/.versions/q/m.gguf");
    await write("hub/owner/two/refs%2Fpr%2F1/m.gguf", "hub/owner/two/refs%2Fpr%2F1/n.gguf.0123.part");
    await write("hub/owner/three/main/model.safetensors.index.json", "hub/owner/three/main/config.json");
    await write("hub/owner/three/main/small/model.safetensors", "hub/owner/four/main/m.gguf");
    const found = await find();
    expect(found).toEqual([
      "hf:owner/one/q/m.gguf",
      "hf:owner/three",
      "hf:owner/three/small",
      "hf:owner/two@refs%2Fpr%2F1/m.gguf",
    ]);
    expect(parseHubSource(found[3]!)).toMatchObject({
      repo: "owner/two",
      revision: "refs/pr/1",
      wanted: { kind: "path", path: "m.gguf" },
    });
  });

  it("are none where there is nothing", async () => {
    expect(await find()).toEqual([]);
  });
});

describe("the choice", () => {
  const found = ["a.gguf", "hf:owner/repo"];

  it.each([
    ["1", "a.gguf"],
    [" 2 ", "hf:owner/repo"],
    ["0", null],
    ["3", null],
    ["", null],
    [" other/model.gguf", "other/model.gguf"],
    ["~/m.gguf", join(homedir(), "m.gguf")],
    ["hf:someone/else:Q8_0", "hf:someone/else:Q8_0"],
  ])("%j means %j", (answer, source) => {
    expect(chosenModel(answer, found)).toBe(source);
  });

  /** Types `keys`, each text when the question stands. */
  async function ask(...keys: string[]): Promise<string> {
    const [input, output] = [new PassThrough(), new PassThrough()];
    output.on("data", (shown: Buffer) => {
      if (shown.toString().includes("Model: ")) input.write(keys.shift() ?? "");
    });
    return askForModel(found, terminalLines(input, output, "Model: "));
  }

  it("is asked for again until it can be one", async () => {
    expect(await ask("\r", "7\r", "2\r")).toBe("hf:owner/repo");
  });

  it.each([
    ["Ctrl-C", "\x03"],
    ["Ctrl-D", "\x04"],
  ])("need not be made: %s", async (_, key) => {
    await expect(ask(key)).rejects.toThrow(expect.objectContaining({ code: "ABORTED" }));
  });
});
