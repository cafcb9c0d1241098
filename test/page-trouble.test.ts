/** What a person meets when something goes wrong: the page says what, and what to do, and nothing typed is lost. */
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

describe.skipIf(why !== "")(titled("the page in trouble"), { timeout: 4 * PATIENCE }, () => {
  let pages: Pages;
  let url: string;
  let page: Page;

  withPages((started, at) => {
    [pages, url] = [started, at];
  });

  const button = (name: string | RegExp) => page.getByRole("button", { name, exact: true });
  const message = () => page.getByRole("textbox", { name: "Message" });
  const questions = () => page.getByRole("listitem", { name: "Question" });
  const banner = () => page.locator(".trouble");

  it("keeps what there is of an answer whose server goes away, and asks again when it is back", async () => {
    const front = new Front(url);
    await front.comeBack();
    page = await pages.visit(front.url, { expectsFailure: true });
    front.piecesOfAnswers = 4;
    await ask(page, "Message", "Mara put the brass key in the boathouse. Where is the brass key?");
    await answers(page).locator(".text").getByText(/\w/).waitFor();
    await message().fill("And the old lamp?");
    await front.goAway();
    await answers(page)
      .getByText("The connection to the server broke off. Try again when it is back.")
      .waitFor();
    const part = (await answers(page).locator(".text").textContent())!.trim();
    expect(part).toMatch(/\w/);
    await banner().getByText("The server cannot be reached.").waitFor();
    expect(await message().inputValue()).toBe("And the old lamp?");

    // Asked while it is away, the question stays, and says why it has no answer.
    await message().press("Enter");
    await answers(page).nth(1).getByText("The server cannot be reached. Is it running?").waitFor();
    front.piecesOfAnswers = Number.POSITIVE_INFINITY;
    await front.comeBack();
    await expect.poll(() => banner().textContent(), { timeout: PATIENCE }).toBe("");
    await button("Answer again").nth(1).click();
    await answers(page)
      .nth(1)
      .getByText(/first after/)
      .waitFor();
    expect(await questions().locator(".plain").allTextContents()).toEqual([
      "Mara put the brass key in the boathouse. Where is the brass key?",
      "And the old lamp?",
    ]);
    await page.reload();
    expect((await answers(page).first().locator(".text").textContent())!.trim()).toBe(part);
    await front.goAway();
  });

  it("keeps what there is of an answer when the page is left in its middle", async () => {
    const front = new Front(url);
    await front.comeBack();
    page = await pages.visit(front.url, { expectsFailure: true });
    front.piecesOfAnswers = 4;
    await ask(page, "Message", "Who are you?");
    await answers(page).locator(".text").getByText(/\w/).waitFor();
    const part = (await answers(page).locator(".text").textContent())!.trim();
    await page.reload();
    await answers(page).getByText("stopped").waitFor();
    expect((await answers(page).locator(".text").textContent())!.trim()).toContain(part);
    await button("Answer again").waitFor();
    await front.goAway();
  });

  it("says how long a message may be when one is longer, and lets it be changed", async () => {
    page = await pages.visit(url, { expectsFailure: true });
    const long = "The brass key is in the boathouse. ".repeat(400);
    await message().fill(long);
    await message().press("Enter");
    await answers(page)
      .getByText(/^The question has [\d,]+ tokens, and the model reads 1,024 at once\. Edit it/)
      .waitFor();
    // It is no part of what the model is told next.
    await askAndWait(page, "Who are you?");
    expect(await answers(page).nth(1).locator(".text").textContent()).toMatch(/harbour log/);
    await button("Edit").first().click();
    const box = page.getByRole("textbox", { name: "Question in other words" });
    expect(await box.inputValue()).toBe(long.trim());
    await box.fill("Who are you?");
    await box.press("Enter");
    await answers(page)
      .getByText(/first after/)
      .waitFor();
    const sent = page.waitForRequest("**/v1/chat/completions");
    await askAndWait(page, "What is happening at the pier?");
    const { messages } = (await sent).postDataJSON() as { messages: { role: string }[] };
    expect(messages.map(({ role }) => role)).toEqual(["user", "assistant", "user"]);
  });

  it("says that the server is full, or that one asks too often, and keeps the question to be asked again", async () => {
    // What the page watches is a request too, and the only one that has room.
    const { url: full } = await pages.serve({ limits: { requests: 1 } });
    page = await pages.visit(full, { expectsFailure: true });
    await page.locator(".live dt").first().waitFor();
    await ask(page, "Message", "Who are you?");
    await answers(page)
      .getByText(/requests under way already; try again soon/)
      .waitFor();
    expect(await questions().locator(".plain").textContent()).toBe("Who are you?");
    await button("Answer again").waitFor();

    const { url: slow } = await pages.serve({ limits: { requestsPerMinute: 1 } });
    page = await pages.visit(slow, { expectsFailure: true });
    await page.locator(".live dt").first().waitFor();
    let refusals = 0;
    for (let asked = 0; asked < 5 && refusals === 0; asked++) {
      await ask(page, "Message", "Who are you?");
      await answers(page)
        .nth(asked)
        .getByText(/first after|again in/i)
        .first()
        .waitFor();
      await button("Send").waitFor();
      refusals = await answers(page).locator(".problem").count();
    }
    expect(await answers(page).locator(".problem").textContent()).toMatch(/try again in \d+/i);
    expect(await questions().last().locator(".plain").textContent()).toBe("Who are you?");
  });

  const FORBIDDEN = () => {
    for (const name of ["localStorage", "sessionStorage"])
      Object.defineProperty(window, name, {
        get() {
          throw new DOMException("forbidden", "SecurityError");
        },
      });
  };
  const FULL = () => {
    Storage.prototype.setItem = () => {
      throw new DOMException("full", "QuotaExceededError");
    };
  };
  for (const [what, before, words] of [
    ["forbids keeping anything", FORBIDDEN, "This browser keeps nothing for this page"],
    ["has no room left", FULL, "Delete conversations to make room."],
  ] as const) {
    it(`answers in a browser that ${what}, and says that it will be lost`, async () => {
      page = await pages.visit(url, { before });
      await askAndWait(page, "Who are you?");
      await page.getByText(words).waitFor();
      await askAndWait(page, "What is happening at the pier?");
      expect(await answers(page).count()).toBe(2);
      await page.getByRole("link", { name: "Endless log" }).click();
      await button("Start the log").waitFor();
    });
  }

  it("shows in each tab what is said in the other, and loses nothing when both go on at once", async () => {
    const front = new Front(url);
    await front.comeBack();
    page = await pages.visit(front.url, { expectsFailure: true });
    const other = await pages.visit(front.url, { context: page.context(), expectsFailure: true });
    await askAndWait(page, "Who are you?");
    await other.locator(".conversations .title").click();
    await answers(other)
      .getByText(/first after/)
      .waitFor();
    const both = [
      "What is happening at the pier?",
      "Mara put the brass key in the boathouse. Where is the brass key?",
    ];
    front.piecesOfAnswers = 0;
    await ask(page, "Message", both[0]!);
    await button("Stop").waitFor();
    front.piecesOfAnswers = Number.POSITIVE_INFINITY;
    await ask(other, "Message", both[1]!);
    await answers(other)
      .nth(1)
      .getByText(/first after/)
      .waitFor();
    await button("Stop").click();
    // Each shows its own; the other's stands beside it, after a reload too.
    for (const [tab, at] of [
      [page, 0],
      [other, 1],
    ] as const) {
      const asked = tab.getByRole("listitem", { name: "Question" }).locator(".plain");
      await expect.poll(() => asked.allTextContents()).toEqual(["Who are you?", both[at]]);
      await tab.getByText(/^[12] of 2$/).waitFor();
    }
    await page.reload();
    await page.getByText(/^[12] of 2$/).waitFor();
    const shown = await questions().nth(1).locator(".plain").textContent();
    await questions().nth(1).locator('.versions button[aria-disabled="false"]').click();
    await expect
      .poll(() => questions().nth(1).locator(".plain").textContent())
      .toBe(both.find((text) => text !== shown));
    // A conversation that one tab deletes is gone from the other.
    other.once("dialog", (dialog) => dialog.accept());
    await other.getByRole("button", { name: /^Delete/ }).click();
    await expect.poll(() => page.locator(".conversations .title").count()).toBe(0);
    await front.goAway();
  });

  it("asks the model that was chosen of several, and says so when it is not there any more", async () => {
    const { url: several } = await pages.serve({}, ["harbour", "second", "third"]);
    page = await pages.visit(several);
    await page.locator(".live dt", { hasText: "third" }).waitFor();
    await button("Settings").click();
    const model = page.getByRole("combobox", { name: "Model" });
    expect(await model.locator("option").allTextContents()).toEqual([
      "the first (harbour)",
      "harbour",
      "second",
      "third",
    ]);
    await model.selectOption("second");
    await button("Done").click();
    const sent = page.waitForRequest("**/v1/chat/completions");
    await askAndWait(page, "Who are you?");
    expect((await sent).postDataJSON()).toMatchObject({ model: "second" });
    await page.getByRole("link", { name: "Endless log" }).click();
    expect(await page.getByRole("combobox", { name: "Model" }).inputValue()).toBe("harbour");
    await page.evaluate(() => localStorage.setItem("millrace.settings", JSON.stringify({ model: "sold" })));
    await page.reload();
    await page.locator(".live dt", { hasText: "third" }).waitFor();
    await button("Settings").click();
    expect(
      await page
        .getByRole("dialog")
        .getByRole("combobox", { name: "Model" })
        .locator("option")
        .last()
        .textContent(),
    ).toBe("sold (not on this server now)");
  });

  it("goes on with the log, and with what was asked, when the server is back; says so when the log is gone", async () => {
    const front = new Front(url);
    await front.comeBack();
    page = await pages.visit(front.url, { expectsFailure: true });
    await startLog(page);
    await front.goAway();
    await page.getByText("The log goes on when the server is back").waitFor();
    await ask(page, "Question about the log", "What is the weather like?");
    expect(await page.locator(".exchange .answer").textContent()).toBe("…");
    await front.comeBack();
    await page.locator('.exchange[aria-busy="false"]').waitFor();
    expect(await page.locator(".exchange .answer").textContent()).toMatch(/weather is \w+/i);
    await expect.poll(() => page.getByText("The log goes on when the server is back").count()).toBe(0);

    await front.goAway();
    await page.getByText("The log goes on when the server is back").waitFor();
    await ask(page, "Question about the log", "Who is the baker?");
    const { data } = (await (await fetch(`${url}/v1/sessions`)).json()) as { data: { id: string }[] };
    for (const { id } of data) await fetch(`${url}/v1/sessions/${id}`, { method: "DELETE" });
    await page.getByRole("textbox", { name: "Question about the log" }).fill("Typed meanwhile");
    await front.comeBack();
    await page.getByText("The server was started anew").waitFor();
    expect(await page.locator(".exchange .answer").last().textContent()).toBe(
      "The log ended before the answer.",
    );
    await button("Start the log").click();
    await page.locator(".told").first().waitFor();
    expect(await page.getByRole("textbox", { name: "Question about the log" }).inputValue()).toBe(
      "Typed meanwhile",
    );
    await front.goAway();
  });

  it("asks for a key where the server wants one, and again where it is wrong", async () => {
    const { url: locked } = await pages.serve({ keys: ["sesame"] });
    page = await pages.visit(locked, { expectsFailure: true });
    await page.getByLabel("This server wants a key:").fill("open");
    await button("Use it").click();
    await page.getByLabel("This server wants another key:").fill("sesame");
    await button("Use it").click();
    await expect.poll(() => banner().textContent(), { timeout: PATIENCE }).toBe("");
    await askAndWait(page, "Who are you?");
  });
});
