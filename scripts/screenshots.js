// Makes docs/page-*.png anew: the page as people see it, light, dark and on a phone. Needs a build (`npm run build`) and
// Chromium, by the variable CHROMIUM or on the path.
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { open } from "../dist/index.js";
import { createServer } from "../dist/server/create.js";
import { listen } from "../dist/server/serve.js";
import { findChromium } from "./chromium.js";

const docs = fileURLToPath(new URL("../docs", import.meta.url));
const DESK = { viewport: { width: 1280, height: 800 } };
const PHONE = {
  viewport: { width: 390, height: 844 },
  deviceScaleFactor: 1.5,
  isMobile: true,
  hasTouch: true,
};
/** Tokens that the log has before somebody asks: then most of it is on disk. */
const LONG = 1000;

const executablePath = findChromium();
if (executablePath === undefined)
  throw new Error("There is no Chromium on the path; name one by the variable CHROMIUM.");

const model = await open();
const server = await listen(createServer([{ name: "harbour", model }]), { port: 0 });
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });

async function visit(options, act) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(600_000);
  await page.goto(server.url);
  await act(page);
  await context.close();
}
const press = (page, name) => page.getByRole("button", { name, exact: true }).click();
const turnTo = (page, name) => page.getByRole("link", { name, exact: true }).click();
const shoot = (page, name) => page.screenshot({ path: path.join(docs, `page-${name}.png`) });

/** Lets the log run, asks about what it said long ago, and opens what came back for the answer. */
async function runLog(page) {
  await turnTo(page, "Endless log");
  await press(page, "Start the log");
  const figures = page.locator(".endless .figures");
  await page.waitForFunction(
    ([element, most]) => Number.parseInt(element.textContent.replaceAll(",", ""), 10) >= most,
    [await figures.elementHandle(), LONG],
  );
  // What is not so far back may still be in memory.
  const recalled = page.locator(".exchange", { hasText: "Recalled from disk" });
  for (let asked = 1; (await recalled.count()) === 0; asked++) {
    await page.getByRole("button", { name: /^Where is the .* now/ }).click();
    await page.locator(`.exchange:nth-child(${asked})[aria-busy="false"]`).waitFor();
  }
  await page.locator(".answers summary").last().click();
  await page
    .locator(".answers .exchange")
    .last()
    .evaluate((exchange) => exchange.scrollIntoView(true));
  // Until the picture of the cache has caught up.
  await page.waitForTimeout(1500);
}

await visit({ ...DESK, colorScheme: "light" }, async (page) => {
  await runLog(page);
  await shoot(page, "light");
});
await visit({ ...DESK, colorScheme: "dark" }, async (page) => {
  await runLog(page);
  await turnTo(page, "Chat");
  for (const text of ["Tom took the old lamp to the pier. Where is the old lamp?", "Who are you?"]) {
    await page.getByRole("textbox", { name: "Message" }).fill(text);
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Stop" }).waitFor({ state: "detached" });
  }
  await shoot(page, "dark");
});
await visit({ ...PHONE, colorScheme: "light" }, async (page) => {
  await runLog(page);
  await shoot(page, "phone");
});

await browser.close();
await server.close(0);
await model.close();
