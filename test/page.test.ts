/** The page in a real browser: Chromium where the machine has one, else these tests skip. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type Model, open } from "../dist/index.js";
import { createServer } from "../dist/server/create.js";
import { type Listening, listen } from "../dist/server/serve.js";

const CHROMIUM = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/google-chrome"].find(
  (path) => path !== undefined && existsSync(path),
);
const built = existsSync(fileURLToPath(new URL("../dist/web/index.html", import.meta.url)));
const why = CHROMIUM === undefined ? "no Chromium here" : built ? "" : "the page is not built";

/** Browsers wait for what a busy machine does. */
const PATIENCE = 60_000;

describe.skipIf(why !== "")(
  `the page${why === "" ? "" : ` (skipped: ${why})`}`,
  { timeout: 2 * PATIENCE },
  () => {
    let model: Model;
    let server: Listening;
    let browser: Browser;
    let page: Page;
    /** What a page must never have: errors, and requests to anybody but its server. */
    let complaints: string[];

    beforeAll(async () => {
      model = await open();
      server = await listen(createServer([{ name: "harbour", model }]), { port: 0 });
      browser = await chromium.launch({
        executablePath: CHROMIUM!,
        args: [
          "--no-sandbox",
          "--disable-gpu",
          "--disable-background-networking",
          "--disable-component-update",
        ],
      });
    }, 2 * PATIENCE);
    afterAll(async () => {
      await browser?.close();
      await server?.close(1000);
      await model?.close();
    });

    async function visit(options: BrowserContextOptions = {}): Promise<Page> {
      const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
      page = await context.newPage();
      page.setDefaultTimeout(PATIENCE);
      complaints = [];
      page.on("console", (said) => said.type() === "error" && complaints.push(said.text()));
      page.on("pageerror", (error) => complaints.push(String(error)));
      page.on("request", (request) => {
        if (!request.url().startsWith(server.url) && !request.url().startsWith("data:"))
          complaints.push(request.url());
      });
      await page.goto(server.url);
      return page;
    }
    afterEach(async () => {
      expect(complaints).toEqual([]);
      await page.context().close();
    });

    const ask = async (label: string, text: string) => {
      await page.getByRole("textbox", { name: label }).fill(text);
      await page.keyboard.press("Enter");
    };
    const answers = () => page.getByRole("listitem", { name: "Answer" });

    it("answers, keeps what was said over a reload, and answers again", async () => {
      await visit();
      await ask("Message", "Mara put the brass key in the boathouse. Where is the brass key?");
      await page.getByRole("button", { name: "Answer again" }).waitFor();
      const said = await answers().first().locator(".text").textContent();
      expect(said).toContain("brass key");
      await page.reload();
      expect(await answers().first().locator(".text").textContent()).toBe(said);
      await page.getByRole("button", { name: "Answer again" }).click();
      await page.getByRole("button", { name: "Send" }).waitFor();
      expect(await answers().count()).toBe(1);
      await page.getByRole("button", { name: "Edit" }).click();
      await page.getByRole("textbox", { name: "Question in other words" }).fill("Who are you?");
      await page.getByRole("button", { name: "Ask", exact: true }).click();
      await page.getByRole("button", { name: "Answer again" }).waitFor();
      expect(await page.getByRole("listitem", { name: "Question" }).textContent()).toContain("Who are you?");
      page.once("dialog", (dialog) => dialog.accept());
      await page.getByRole("button", { name: /^Delete/ }).click();
      await expect.poll(() => answers().count()).toBe(0);
    });

    it("shows words that look like markup as words, and fetches nothing that answers or questions name", async () => {
      await visit();
      await ask("Message", '<img src="https://example.org/x.png" onerror="alert(1)"> Who are you?');
      await page.getByRole("button", { name: "Answer again" }).waitFor();
      expect(await page.getByRole("listitem", { name: "Question" }).textContent()).toContain("<img src=");
      expect(await page.locator("img").count()).toBe(0);
    });

    it("runs the endless log in its memory, and answers about it at any time", async () => {
      await visit();
      await page.getByRole("button", { name: "Endless log" }).click();
      await page.getByRole("button", { name: "Start the log" }).click();
      const figures = page.locator(".endless .figures");
      await figures.waitFor();
      await expect.poll(() => page.locator(".told").count(), { timeout: PATIENCE }).toBeGreaterThan(0);
      await ask("Question about the log", "What is the weather like?");
      const answer = page.locator(".answers .answer").first();
      await expect.poll(() => answer.textContent(), { timeout: PATIENCE }).toMatch(/weather is \w+/i);
      await expect.poll(() => page.locator(".picture .hidden").textContent()).toMatch(/Layer 1: \d+/);
      await page.getByRole("button", { name: "Pause" }).click();
      await page.getByRole("button", { name: "Go on" }).waitFor();
      await page.getByRole("button", { name: "End", exact: true }).click();
      await page.getByRole("button", { name: "Start the log" }).waitFor();
      await expect.poll(async () => (await model.usage()).running, { timeout: PATIENCE }).toBe(0);
    });

    it("fits a phone, in the dark, and every control has a name", async () => {
      await visit({
        viewport: { width: 390, height: 844 },
        isMobile: true,
        hasTouch: true,
        colorScheme: "dark",
      });
      const { scroll, width, nameless } = await page.evaluate(() => ({
        scroll: document.documentElement.scrollWidth,
        width: innerWidth,
        nameless: [...document.querySelectorAll("button, input, select, textarea")].filter(
          (element) =>
            !element.getAttribute("aria-label") &&
            !element.closest("label") &&
            element.textContent?.trim() === "",
        ).length,
      }));
      expect(scroll).toBeLessThanOrEqual(width);
      expect(nameless).toBe(0);
      await page.getByRole("button", { name: "Conversations" }).tap();
      await page.getByRole("button", { name: "New conversation" }).waitFor();
      await page.getByRole("button", { name: "New conversation" }).tap();
      await page.getByRole("button", { name: "Live", exact: true }).tap();
      await page.getByText("resident").waitFor();
    });
  },
);
