import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeAtomically } from "./file.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-file-"));
});
afterAll(() => rm(folder, { recursive: true }));

const write = (path: string, text = "new") =>
  writeAtomically(path, (file) => file.write(new TextEncoder().encode(text)));
const refused = expect.objectContaining({ code: "WRITE_FAILED" });

describe("writeAtomically", () => {
  it("makes the folders above, and replaces a file whole", async () => {
    const path = join(folder, "one", "two", "file");
    await write(path, "old");
    await write(path);
    expect(await readFile(path, "utf8")).toBe("new");
    expect(await readdir(join(folder, "one", "two"))).toEqual(["file"]);
  });

  it("leaves what was there, and nothing beside it, where writing fails", async () => {
    const path = join(folder, "kept");
    await writeFile(path, "old");
    const names = await readdir(folder);
    const failing = writeAtomically(path, async (file) => {
      await file.write(new Uint8Array(100));
      throw new Error("no more");
    });
    await expect(failing).rejects.toThrow("no more");
    expect(await readFile(path, "utf8")).toBe("old");
    expect(await readdir(folder)).toEqual(names);
  });

  it("replaces no folder, nothing that is no regular file, and no link to one", async () => {
    const [socket, link, inner] = ["socket", "link", "inner"].map((name) => join(folder, name));
    const server = createServer();
    await new Promise<void>((resolve) => {
      server.listen(socket, resolve);
    });
    await symlink(socket!, link!);
    await mkdir(inner!);
    const names = await readdir(folder);
    for (const path of [socket, link, inner]) await expect(write(path!)).rejects.toEqual(refused);
    expect(await readdir(folder)).toEqual(names);
    await new Promise((resolve) => {
      server.close(resolve);
    });
  });
});
