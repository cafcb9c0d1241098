import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { fieldText, formParts } from "./multipart.js";

const TYPE = "multipart/form-data; boundary=edge";

/** A body that comes in pieces of these lengths, over and over. */
function inPieces(bytes: Uint8Array, lengths: readonly number[]): ReadableStream<Uint8Array> {
  let [at, turn] = [0, 0];
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      const end = Math.min(bytes.length, at + lengths[turn++ % lengths.length]!);
      controller.enqueue(bytes.subarray(at, end));
      at = end;
    },
  });
}

async function read(bytes: Uint8Array, lengths: readonly number[] = [1 << 20], type = TYPE) {
  const found: { name: string; filename: string | null; bytes: string }[] = [];
  for await (const { name, filename, body } of formParts(type, inPieces(bytes, lengths))) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of body) chunks.push(chunk);
    found.push({ name, filename, bytes: Buffer.concat(chunks).toString("latin1") });
  }
  return found;
}
const form = (...lines: string[]) => Buffer.from(lines.join("\r\n"));

describe("a form", () => {
  it("is read as it was written, however it comes", async () => {
    const random = new TestRandom(3);
    for (let round = 0; round < 60; round++) {
      // Much that looks like a boundary.
      const words = ["\r\n", "--", "edge", "\r\n--edg", "\r", "\n", "-", "x", "\u0000", "\r\n--edg\r\n--"];
      const contents = Array.from({ length: random.below(4) }, () =>
        Array.from({ length: random.below(30) }, () => words[random.below(words.length)]!)
          .join("")
          .replaceAll("\r\n--edge", "")
          .replaceAll("\r\n--edge", ""),
      );
      if (contents.some((content) => content.includes("\r\n--edge"))) continue;
      const parts = contents.map(
        (content, i) =>
          `--edge\r\nContent-Disposition: form-data; name="p${i}"${i % 2 ? '; filename="f"' : ""}\r\n\r\n${content}\r\n`,
      );
      const bytes = Buffer.from(`${random.below(2) ? "preamble\r\n" : ""}${parts.join("")}--edge--\r\nend`);
      for (const lengths of [[1], [2, 3], [1 + random.below(50)], [1 << 20]]) {
        expect(await read(bytes, lengths)).toEqual(
          contents.map((content, i) => ({ name: `p${i}`, filename: i % 2 ? "f" : null, bytes: content })),
        );
      }
    }
  });

  it("is read as the platform's own forms are written", async () => {
    const data = new FormData();
    data.append("purpose", "batch");
    const name = 'a "b" ü/..\\c\r\n.jsonl';
    data.append("file", new File(["one\ntwo"], name), name);
    const request = new Request("http://x", { method: "POST", body: data });
    const parts: unknown[] = [];
    for await (const part of formParts(request.headers.get("content-type")!, request.body)) {
      parts.push([part.name, part.filename, await fieldText(part)]);
    }
    expect(parts).toEqual([
      ["purpose", null, "batch"],
      ["file", name, "one\ntwo"],
    ]);
  });

  it("names files in every way that clients have", async () => {
    const named = async (rest: string) =>
      (await read(form("--edge", `content-disposition: form-data; ${rest}`, "", "x", "--edge--")))[0];
    expect(await named("name=file; filename=a.jsonl")).toMatchObject({ name: "file", filename: "a.jsonl" });
    expect(await named('name="file"; filename="a\\"b\\\\c"')).toMatchObject({ filename: 'a"b\\c' });
    expect(await named(`name="file"; filename="x"; filename*=UTF-8''na%C3%AFve`)).toMatchObject({
      filename: "naïve",
    });
    expect(await named(`name="file"; filename="x"; filename*=UTF-8''%FF`)).toMatchObject({ filename: "x" });
  });

  it("whose part nobody reads goes on with the next", async () => {
    const names: string[] = [];
    const bytes = form(
      "--edge",
      'Content-Disposition: form-data; name="a"',
      "",
      "x".repeat(100_000),
      "--edge",
      'Content-Disposition: form-data; name="b"',
      "",
      "",
      "--edge--",
    );
    for await (const { name } of formParts(TYPE, inPieces(bytes, [1000]))) names.push(name);
    expect(names).toEqual(["a", "b"]);
  });

  it("that is none is refused", async () => {
    const head = 'Content-Disposition: form-data; name="a"';
    const cases: [string, Buffer, string?][] = [
      ["invalid_form", Buffer.from("")],
      ["invalid_form", form("--edge", head, "", "cut off")],
      ["invalid_form", form("--edge", head)],
      ["invalid_form", form("--edge", "Content-Type: text/plain", "", "no name", "--edge--")],
      ["invalid_form", form("--edge", "", "no headers", "--edge--")],
      ["invalid_form", form("--edgeX", head, "", "x", "--edge--")],
      ["invalid_form", form("--edge", `X: ${"x".repeat(20_000)}`, "", "", "--edge--")],
      [
        "invalid_form",
        form(...Array.from({ length: 40 }, () => ["--edge", head, "", ""]).flat(), "--edge--"),
      ],
      ["unsupported_media_type", Buffer.from("{}"), "application/json"],
      ["unsupported_media_type", Buffer.from(""), "multipart/form-data"],
      ["unsupported_media_type", Buffer.from(""), `multipart/form-data; boundary=${"x".repeat(100)}`],
    ];
    for (const [code, bytes, type] of cases) {
      await expect(read(bytes, [7], type)).rejects.toMatchObject({ code });
    }
    const long = form("--edge", head, "", "x".repeat(100_000), "--edge--");
    const text = async () => {
      for await (const part of formParts(TYPE, inPieces(long, [5000]))) await fieldText(part);
    };
    await expect(text()).rejects.toMatchObject({ code: "invalid_value", param: "a" });
  });
});
