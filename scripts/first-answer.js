// Measures how long a newcomer waits for the first answer: `npm install && npm start` in a fresh clone of this checkout's
// HEAD, with nothing compiled before, until words of an answer stand on the page in Chromium (by the variable CHROMIUM or
// on the path; where there is none, until they come over the API).
//
//   npm run first-answer
//   CC=none npm run first-answer      as on a machine without a C compiler
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { findChromium } from "./chromium.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const QUESTION = "Mara put the brass key in the boathouse. Where is the brass key?";
const PATIENCE = 600_000;

const folder = await mkdtemp(path.join(os.tmpdir(), "millrace-first-answer-"));
const clone = path.join(folder, "millrace");
const env = { ...process.env, XDG_CACHE_HOME: path.join(folder, "cache") };
delete env.MILLRACE_MODEL;
const seconds = {};
/** What is to be undone, the last first. */
const cleanups = [() => rm(folder, { recursive: true, force: true, maxRetries: 5 })];
let cleaned;
const cleanUp = () => {
  cleaned ??= (async () => {
    for (let undo = cleanups.pop(); undo; undo = cleanups.pop()) await undo();
  })();
  return cleaned;
};

async function time(stage, work) {
  const startedAt = performance.now();
  const result = await work();
  seconds[stage] = (performance.now() - startedAt) / 1000;
  return result;
}

/** Runs a command to its end; its output is shown only where it fails. */
const run = (command, args, cwd) =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    cleanups.push(() => child.kill());
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (bytes) => {
        output += bytes;
      });
    }
    child.on("error", reject);
    child.on("close", (code) =>
      code === 0 ? resolve() : reject(new Error(`${command} ${args.join(" ")}:\n${output}`)),
    );
  });

/** Downloads go into npm's cache first, which is not counted; what is timed then makes do with that. */
async function install() {
  const words = ["install", "--no-audit", "--no-fund"];
  await run("npm", words, clone);
  await rm(path.join(clone, "node_modules"), { recursive: true });
  await time("npm install, from npm's cache", () => run("npm", [...words, "--offline"], clone));
}

/** Starts the server, in a process group of its own so that it can be stopped whole; resolves to its address. */
async function start() {
  const args = ["start", "--", "--port", "0", "--log-level", "error"];
  const server = spawn("npm", args, {
    cwd: clone,
    env,
    detached: true,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(server, "exit");
  cleanups.push(async () => {
    if (server.exitCode === null && server.signalCode === null) process.kill(-server.pid, "SIGTERM");
    await ended;
  });
  for await (const line of createInterface({ input: server.stdout })) {
    console.error(line);
    const [url] = /\bhttp:\S+/.exec(line) ?? [];
    if (url !== undefined) {
      server.stdout.on("data", (bytes) => process.stderr.write(bytes)).resume();
      return url;
    }
  }
  throw new Error("npm start ended before the server listened.");
}

async function askPage(url, browser) {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  const message = page.getByRole("textbox", { name: "Message" });
  await time("the page, ready for a question", async () => {
    await page.goto(url);
    await message.waitFor();
  });
  const answer = page.getByRole("listitem", { name: "Answer" }).locator(".text");
  await time("the first words of the answer", async () => {
    await message.fill(QUESTION);
    await message.press("Enter");
    await answer.filter({ hasText: /\w/ }).waitFor();
  });
  await page.getByRole("button", { name: "Answer again" }).waitFor();
  return answer.textContent();
}

async function askApi(url) {
  let answer = "";
  await time("the first words of the answer, over the API", async () => {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: "default",
        stream: true,
        messages: [{ role: "user", content: QUESTION }],
      }),
    });
    if (!response.ok) throw new Error(await response.text());
    for await (const line of createInterface({ input: response.body })) {
      answer += (line.startsWith("data: {") && JSON.parse(line.slice(6)).choices[0]?.delta.content) || "";
      if (/\w/.test(answer)) break;
    }
  });
  return `${answer} …`;
}

for (const [signal, code] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
]) {
  process.once(signal, async () => {
    await cleanUp();
    process.exit(code);
  });
}
try {
  execFileSync("git", ["clone", "--quiet", "--no-hardlinks", root, clone]);
  await install();
  const url = await time("npm start, until it listens", start);
  const executablePath = findChromium();
  const browser =
    executablePath &&
    (await chromium.launch({
      executablePath,
      args: ["--no-sandbox"],
      handleSIGINT: false,
      handleSIGTERM: false,
    }));
  if (browser) cleanups.push(() => browser.close());
  const answer = await (browser ? askPage(url, browser) : askApi(url));
  console.log(`\nQuestion: ${QUESTION}\nAnswer: ${answer.trim()}\n`);
  const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
  for (const [stage, value] of [...Object.entries(seconds), ["in all", total]])
    console.log(`${value.toFixed(1).padStart(7)} s  ${stage}`);
} finally {
  await cleanUp();
}
