import { existsSync, statSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { setTimeout } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomAdapter } from "../../test/support/adapters.js";
import { built, cli, ending, start } from "../../test/support/cli.js";
import { tinyCheckpoint, tinyModel, writeTinyGguf } from "../../test/support/tiny-models.js";
import { writeAdapter } from "../models/peft.js";
import { pipedLines, terminalLines } from "./lines.js";

describe.skipIf(!built)("millrace chat through a pipe (needs npm run build)", () => {
  let folder: string;
  let model: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-chat-"));
    model = await writeTinyGguf(tinyModel("llama"), folder);
  });
  afterAll(() => rm(folder, { recursive: true }));

  const chat = (input: string, ...args: string[]) => cli([...turns(), ...args], { input });
  const turns = () => ["chat", model, "--backend", "reference", "--temperature", "0", "--max-tokens", "6"];
  const answers = async (input: string, ...args: string[]) => {
    const { stdout } = await chat(input, "--json", ...args);
    return stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
  };

  it("takes each line as a turn, and remembers those before", async () => {
    const [first, second] = await answers("hi\nand then\n");
    expect(first.model.tokenizer.chatFormat).toBe("plain");
    const [again, alone] = await answers("hi\n/reset\nand then\n");
    expect(again.tokens).toEqual(first.tokens);
    expect(second.usage.promptTokens).toBeGreaterThan(first.usage.promptTokens + first.usage.generatedTokens);
    expect(alone.usage.promptTokens).toBeLessThan(second.usage.promptTokens);
  });

  it("prints the answers and nothing else, a line break after each", async () => {
    const [plain, list] = await Promise.all([chat("hi\nand then\n"), answers("hi\nand then\n")]);
    expect(plain).toEqual({
      code: 0,
      stdout: list.map(({ text }) => `${text.trimStart()}\n`).join(""),
      stderr: "",
    });
  });

  it("lives on in a file, as one conversation would in a session that never ended", async () => {
    const file = join(folder, "talk.mill");
    const [first, second] = await answers("hi\nand then\n", "--session", join(folder, "once.mill"));
    expect((await answers("hi\n", "--session", file))[0].tokens).toEqual(first.tokens);
    const { stderr } = await chat("/stats\n", "--session", file);
    expect(stderr).toMatch(/Saved: [\d,]+ tokens in /);
    const [later] = await answers("and then\n", "--session", file);
    expect(later.tokens).toEqual(second.tokens);
    // Only the new message was run.
    expect(later.usage.promptTokens).toBe(second.usage.promptTokens);
    const refused = await chat("hi\n", "--session", model);
    expect(refused).toMatchObject({ code: 4, stdout: "" });
    expect(refused.stderr).toContain("BAD_FORMAT");
  });

  /** A chat that is spoken to while it runs. */
  const live = (file: string) => {
    const child = start([...turns(), "--session", file]);
    const said = ending(child);
    const until = async (reached: () => boolean) => {
      while (!reached()) await setTimeout(20);
    };
    return { child, said, until };
  };

  it("is saved after every turn, so that a process which is killed loses none", async () => {
    const file = join(folder, "killed.mill");
    const [, , third] = await answers("hi\nand then\nand\n", "--session", join(folder, "calm.mill"));
    const { child, said, until } = live(file);
    let before = 0;
    for (const line of ["hi\n", "and then\n"]) {
      child.stdin!.write(line);
      // The file appears under its name when all of it is there.
      await until(() => existsSync(file) && statSync(file).mtimeMs > before);
      before = statSync(file).mtimeMs;
    }
    child.kill("SIGKILL");
    expect(await said).toMatchObject({ code: null, stdout: expect.stringMatching(/^.+\n.+\n$/) });
    const [later] = await answers("and\n", "--session", file);
    expect(later.tokens).toEqual(third.tokens);
    expect(later.usage.promptTokens).toBe(third.usage.promptTokens);
  });

  it("goes on where it cannot be saved, says so, and tries again", async () => {
    const place = join(folder, "place");
    const file = join(place, "talk.mill");
    const { child, said, until } = live(file);
    let told = "";
    child.stderr!.on("data", (text: string) => {
      told += text;
    });
    child.stdin!.write("hi\n");
    await until(() => existsSync(file));
    await rm(place, { recursive: true });
    await writeFile(place, "in the way");
    child.stdin!.write("and then\n");
    await until(() => told.includes("is saved after the next turn"));
    expect(told).toContain("WRITE_FAILED");
    await rm(place);
    child.stdin!.end("and\n");
    expect(await said).toMatchObject({ code: 0, stderr: expect.stringContaining("Saved: ") });
    expect(existsSync(file)).toBe(true);
  });

  it("takes an adapter for a new session only", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const adapter = join(folder, "adapter");
    await writeAdapter(adapter, checkpoint, await randomAdapter(checkpoint, { rank: 4, seed: 1 }));
    const [plain, adapted] = [join(folder, "plain.mill"), join(folder, "adapted.mill")];
    const whole = ["--session", join(folder, "whole.mill"), "--adapter", adapter];
    const [first, second] = await answers("hi\nand then\n", ...whole);
    expect((await answers("hi\n", "--session", adapted, "--adapter", adapter))[0].tokens).toEqual(
      first.tokens,
    );
    const [later] = await answers("and then\n", "--session", adapted, "--adapter", adapter);
    expect(later.tokens).toEqual(second.tokens);
    expect((await answers("hi\n", "--session", plain))[0].tokens).not.toEqual(first.tokens);
    const added = await chat("hi\n", "--session", plain, "--adapter", adapter);
    expect(added.stderr).toContain("INVALID_ARGUMENT: The conversation in");
    const left = await chat("hi\n", "--session", adapted);
    expect(left).toMatchObject({ code: 4, stdout: "" });
    expect(left.stderr).toContain("WRONG_MODEL");
  });

  it("obeys commands, which are no turns", async () => {
    const script = "/help\n/system be kind\n/system\n/stats\n/frob\n\n/exit\nnever said\n";
    const { code, stdout, stderr } = await chat(script);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "" });
    for (const said of ["/reset", "Instructions: be kind", "No answer yet", "no command /frob"]) {
      expect(stderr).toContain(said);
    }
    const [told] = await answers("hi\n", "--system", "be kind");
    const [later] = await answers("/system be kind\nhi\n");
    const [untold] = await answers("hi\n");
    expect(later.tokens).toEqual(told.tokens);
    expect(told.usage.promptTokens).toBeGreaterThan(untold.usage.promptTokens);
  });

  it("says when the context is full, keeps the conversation as it was, and goes on after /reset", async () => {
    const long = "and then ".repeat(20);
    const { code, stdout, stderr } = await chat(`hi\n${long}\n/reset\nhi\n`, "--context", "64");
    expect(code).toBe(7);
    expect(stderr).toMatch(
      /the conversation has \d+ tokens: the context of 64 tokens is full\. \/reset starts anew/,
    );
    expect(stderr).toContain("not taken into the conversation");
    const [one, two, ...rest] = stdout.trimEnd().split("\n");
    expect(two).toBe(one);
    expect(rest).toEqual([]);
  });

  it("says where an answer was cut because the context is full", async () => {
    const { code, stderr } = await chat(
      "hi\n",
      "--context",
      "24",
      "--max-tokens",
      "inf",
      "--logit-bias",
      "2=-inf",
    );
    expect(code).toBe(0);
    expect(stderr).toContain("The answer ends here: the context of 24 tokens is full.");
  });
});

describe("lines of a terminal", () => {
  function terminal() {
    const [input, output] = [new PassThrough(), new PassThrough()];
    output.resume();
    return { input, lines: terminalLines(input, output, "> ") };
  }

  it("gives what was typed until Enter, after editing", async () => {
    const { input, lines } = terminal();
    const next = lines.next();
    input.write("hellx");
    input.write("\x7fo\r");
    expect(await next).toEqual({ kind: "text", text: "hello" });
  });

  it("takes a paste for one text, and waits for Enter behind its last line", async () => {
    const { input, lines } = terminal();
    const first = lines.next();
    input.write("one\rtwo\r");
    expect(await first).toEqual({ kind: "text", text: "one\ntwo" });
    let entry: unknown = null;
    const second = lines.next().then((given) => {
      entry = given;
    });
    input.write("three\rfour");
    await setTimeout(100);
    expect(entry).toBeNull();
    input.write("\r");
    await second;
    expect(entry).toEqual({ kind: "text", text: "three\nfour" });
  });

  it("goes on in the next line after a backslash", async () => {
    const { input, lines } = terminal();
    const next = lines.next();
    input.write("one\\\r");
    await setTimeout(100);
    input.write("two\r");
    expect(await next).toEqual({ kind: "text", text: "one\ntwo" });
  });

  it("remembers earlier texts", async () => {
    const { input, lines } = terminal();
    const first = lines.next();
    input.write("first\r");
    await first;
    const next = lines.next();
    input.write("\u001b[A\r");
    expect(await next).toEqual({ kind: "text", text: "first" });
  });

  it("tells Ctrl-C and Ctrl-D", async () => {
    const { input, lines } = terminal();
    const interrupt = lines.next();
    input.write("half\x03");
    expect(await interrupt).toEqual({ kind: "interrupt" });
    const end = lines.next();
    input.write("\x04");
    expect(await end).toEqual({ kind: "end" });
  });
});

describe("lines of a pipe", () => {
  it("are texts of their own, the last one without a line break, too", async () => {
    const input = new PassThrough();
    input.end("one\ntwo\r\n\nthree");
    using lines = pipedLines(input);
    for (const text of ["one", "two", "", "three"])
      expect(await lines.next()).toEqual({ kind: "text", text });
    expect(await lines.next()).toEqual({ kind: "end" });
  });
});
