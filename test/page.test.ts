/** The page in a real browser: what a person does with it. */
import type { Page } from "playwright-core";
import { describe, expect, it } from "vitest";
import {
  answers,
  ask,
  askAndWait,
  Front,
  PATIENCE,
  type Pages,
  startLog,
  titled,
  why,
  withPages,
} from "./support/page.js";

describe.skipIf(why !== "")(titled("the page"), { timeout: 4 * PATIENCE }, () => {
  let pages: Pages;
  let url: string;
  let page: Page;

  withPages((started, at) => {
    [pages, url] = [started, at];
  });

  const button = (name: string | RegExp) => page.getByRole("button", { name, exact: true });
  const questions = () => page.getByRole("listitem", { name: "Question" });
  const titles = () => page.locator(".conversations .title");

  it("answers, answers again, takes a question in other words, and keeps every version over a reload", async () => {
    page = await pages.visit(url);
    await askAndWait(page, "Mara put the brass key in the boathouse. Where is the brass key?");
    const said = await answers(page).locator(".text").textContent();
    expect(said).toContain("brass key");
    await page.reload();
    expect(await answers(page).locator(".text").textContent()).toBe(said);

    await button("Answer again").click();
    await page.getByText("2 of 2").waitFor();
    await button("Send").waitFor();
    expect(await answers(page).count()).toBe(1);
    await button("Version before").click();
    await page.getByText("1 of 2").waitFor();
    expect(await answers(page).locator(".text").textContent()).toBe(said);

    await askAndWait(page, "What is happening at the pier?");
    await button("Edit").first().click();
    await page.getByRole("textbox", { name: "Question in other words" }).fill("Who are you?");
    await button("Ask").click();
    await answers(page).first().getByText("keeper").waitFor();
    await button("Send").waitFor();
    // What was said after the other question is not lost: it comes back with that.
    expect([await questions().count(), await answers(page).count()]).toEqual([1, 1]);
    await page.reload();
    expect(await questions().locator(".plain").allTextContents()).toEqual(["Who are you?"]);
    await questions().getByRole("button", { name: "Version before" }).click();
    await page.getByText("What is happening at the pier?").waitFor();
    expect([await questions().count(), await answers(page).count()]).toEqual([2, 2]);
  });

  it("stops an answer, keeps what there is of it, and keeps on with others meanwhile", async () => {
    const front = new Front(url);
    await front.comeBack();
    page = await pages.visit(front.url, { expectsFailure: true });
    // Held back in its middle: it would else be through before anybody could stop it.
    front.piecesOfAnswers = 4;
    await ask(page, "Message", "Who are you?");
    await answers(page).locator(".text").getByText(/\w/).waitFor();
    await button("Stop").click();
    await page.getByText(/stopped/).waitFor();
    expect(await answers(page).locator(".text").textContent()).toMatch(/\w/);
    await button("Send").waitFor();
    front.piecesOfAnswers = Number.POSITIVE_INFINITY;
    await button("New conversation").click();
    await askAndWait(page, "What is happening at the pier?");
    expect(await titles().count()).toBe(2);
    await titles().nth(1).click();
    expect(await questions().locator(".plain").allTextContents()).toEqual(["Who are you?"]);
    await front.goAway();
  });

  it("renames and deletes conversations, and keeps both over a reload", async () => {
    page = await pages.visit(url);
    await askAndWait(page, "Who are you?");
    await button("New conversation").click();
    await askAndWait(page, "What is happening at the pier?");
    await button(/^Rename/).click();
    await page.getByRole("textbox", { name: "Title" }).fill("The pier");
    await page.keyboard.press("Enter");
    await button("The pier").waitFor();
    await page.reload();
    expect(await titles().allTextContents()).toEqual(["The pier", "Who are you?"]);
    page.once("dialog", (dialog) => dialog.dismiss());
    await button('Delete "The pier"').click();
    expect(await titles().count()).toBe(2);
    page.once("dialog", (dialog) => dialog.accept());
    await button('Delete "The pier"').click();
    await expect.poll(() => titles().allTextContents()).toEqual(["Who are you?"]);
    await page.reload();
    expect(await titles().allTextContents()).toEqual(["Who are you?"]);
  });

  it("asks as the settings say, which stay over a reload and can be set back", async () => {
    page = await pages.visit(url);
    const settings = () => button("Settings").click();
    await settings();
    await page.getByLabel("System message").fill("You are brief.");
    await page.getByLabel("Longest answer, in tokens").fill("3");
    await page.getByLabel(/^Temperature/).fill("0");
    await button("Done").click();
    await page.reload();
    const sent = page.waitForRequest("**/v1/chat/completions");
    await askAndWait(page, "Who are you?");
    expect((await sent).postDataJSON()).toMatchObject({
      messages: [
        { role: "system", content: "You are brief." },
        { role: "user", content: "Who are you?" },
      ],
      max_completion_tokens: 3,
      temperature: 0,
      stream: true,
    });
    await page.getByText(/3 written .* cut at its longest/).waitFor();
    await settings();
    await button("As at first").click();
    expect(await page.getByLabel("System message").inputValue()).toBe("");
    expect(await page.getByLabel("Longest answer, in tokens").inputValue()).toBe("1024");
  });

  it("shows words that look like markup as words, and fetches nothing that answers or questions name", async () => {
    page = await pages.visit(url);
    await page.route("**/v1/chat/completions", (route) => {
      const content =
        '# Big\n<img src="https://example.org/x.png" onerror="alert(1)"><button id="app" class="hidden">x</button> ' +
        "[out](https://example.org) **loud**";
      const chunk = { choices: [{ delta: { content }, finish_reason: "stop" }] };
      const body = `data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`;
      return route.fulfill({ body, contentType: "text/event-stream" });
    });
    await askAndWait(page, '<img src="https://example.org/x.png" onerror="alert(1)"> Who are you?');
    expect(await questions().textContent()).toContain("<img src=");
    expect(await page.locator("img").count()).toBe(0);
    const answer = answers(page).locator(".text");
    expect(await answer.locator("strong").textContent()).toBe("loud");
    expect(await answer.locator("button, [id], [class]").count()).toBe(0);
    // Below the page's own headings, and beside the page.
    expect(await answer.locator("h3").textContent()).toBe("Big");
    expect(await answer.locator("a").getAttribute("target")).toBe("_blank");
    expect(await answer.locator("a").getAttribute("rel")).toBe("noopener noreferrer");
    // And if all that failed, the browser itself would run nothing and fetch nothing from elsewhere.
    const policy = (await page.reload())!.headers()["content-security-policy"]!;
    expect(policy).toContain("default-src 'none'");
    expect(policy).not.toMatch(/unsafe|https?:|data:|\*/);
  });

  it("runs the endless log in flat memory, answers at any time, and shows the stored block an answer is from", async () => {
    page = await pages.visit(url);
    await startLog(page);
    await ask(page, "Question about the log", "What is the weather like?");
    const exchanges = page.locator(".exchange");
    await page.locator('.exchange[aria-busy="false"]').waitFor();
    expect(await exchanges.first().locator(".answer").textContent()).toMatch(/\w/);

    // Some answers are still in memory: it is asked until one has to come from disk.
    const figures = page.locator(".endless .figures");
    const recalled = exchanges.filter({ hasText: "Recalled from disk" });
    for (let asked = 2; (await recalled.count()) === 0 && asked < 12; asked++) {
      await button(/^Where is the .* now\?$/).click();
      await page.locator(`.exchange:nth-child(${asked})[aria-busy="false"]`).waitFor();
      const [, taken, unit] = (await figures.textContent())!.match(/ in ([\d.]+) (KiB|MiB) of 2 MiB/)!;
      expect(Number(taken) * (unit === "KiB" ? 1 : 1024)).toBeLessThanOrEqual(2048);
    }
    const exchange = recalled.last();
    const [, range, sentence] = (await exchange.locator(".source").textContent())!.match(
      /tokens ([\d,]+ to [\d,]+)\. (.+)/,
    )!;
    await exchange.locator("summary").click();
    const block = exchange.locator(".blocks .says");
    expect(await block.locator("span").textContent()).toBe(`tokens ${range}, which says it`);
    expect(await block.locator("q").textContent()).toContain(sentence);
    const thing = (await exchange.locator(".asked").textContent())!.match(/Where is the (.+) now/)![1]!;
    expect(thing.split(" ").some((word) => sentence!.toLowerCase().includes(word))).toBe(true);

    // The picture of the cache has moved on, and points to the block.
    const picture = page.getByRole("img", { name: `recalled from tokens ${range}` });
    await expect
      .poll(() => picture.getAttribute("aria-label"), { timeout: PATIENCE })
      .toMatch(/^[\d,]+ tokens in 5 layers\. Layer 1: [\d,]+ in memory, [\d,]+ recalled, [\d,]+ on disk/);
    await button("Pause").click();
    await button("Go on").waitFor();
    await button("End").click();
    await button("Start the log").waitFor();
    await expect.poll(async () => (await pages.model.usage()).running, { timeout: PATIENCE }).toBe(0);
  });

  it("holds its figures still when it is asked to", async () => {
    page = await pages.visit(`${url}#endless`);
    await button("Start the log").click();
    const fates = page.locator(".fates");
    await fates.waitFor();
    await button("Hold still").click();
    const held = await fates.textContent();
    const figures = page.locator(".endless .figures");
    const before = await figures.textContent();
    await expect.poll(() => figures.textContent(), { timeout: PATIENCE }).not.toBe(before);
    expect(await fates.textContent()).toBe(held);
    await button("Hold still").click();
    await expect.poll(() => fates.textContent(), { timeout: PATIENCE }).not.toBe(held);
  });

  it("goes back and forth between its views by the browser's own buttons, and keeps what was typed", async () => {
    page = await pages.visit(url);
    await page.getByRole("textbox", { name: "Message" }).fill("Not sent yet");
    await page.getByRole("link", { name: "Endless log" }).click();
    await button("Start the log").waitFor();
    expect(await page.title()).toBe("Endless log · Millrace");
    await page.goBack();
    const box = page.getByRole("textbox", { name: "Message" });
    expect(await box.inputValue()).toBe("Not sent yet");
    await page.reload();
    expect(await box.inputValue()).toBe("Not sent yet");
  });
});
