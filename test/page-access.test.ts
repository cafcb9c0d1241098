/** The page for those who do not use a mouse, do not see it, or see it otherwise: in a real browser. */
import axe from "axe-core";
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

const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
/** What 200 % makes of a window of 1280 by 800. */
const ZOOMED = { viewport: { width: 640, height: 400 }, deviceScaleFactor: 2 };

describe.skipIf(why !== "")(titled("the page, for everybody"), { timeout: 4 * PATIENCE }, () => {
  let pages: Pages;
  let url: string;
  let page: Page;

  withPages((started, at) => {
    [pages, url] = [started, at];
  });

  const button = (name: string | RegExp) => page.getByRole("button", { name, exact: true });

  /** What breaks the rules of WCAG 2.2 AA and axe's best practices, as "rule: element". */
  async function faults(): Promise<string[]> {
    await page.evaluate(axe.source);
    return page.evaluate(async () => {
      const { axe } = window as unknown as { axe: typeof import("axe-core") };
      const { violations } = await axe.run(document, {
        runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
      });
      return violations.flatMap(({ id, nodes }) =>
        nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`),
      );
    });
  }

  /** Parts of the page that lie outside its width. */
  const overflow = () =>
    page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

  for (const [name, look] of Object.entries({
    "in the light": { colorScheme: "light" },
    "in the dark": { colorScheme: "dark" },
    "on a phone": PHONE,
    "at twice the size": ZOOMED,
    "in forced colours, without motion": { forcedColors: "active", reducedMotion: "reduce" },
  } as const)) {
    it(`breaks no rule ${name}, and no part of it lies outside`, async () => {
      page = await pages.visit(url, look);
      expect(await faults()).toEqual([]);
      await askAndWait(page, "Mara put the brass key in the boathouse. Where is the brass key?");
      await button("Answer again").click();
      await page.getByText("2 of 2").waitFor();
      await button("Send").waitFor();
      expect(await faults()).toEqual([]);
      await button("Edit").click();
      expect(await faults()).toEqual([]);
      expect(await overflow()).toBe(0);
      await button("Cancel").click();
      await button("Settings").click();
      expect(await faults()).toEqual([]);
      await page.keyboard.press("Escape");
      const menu = button("Conversations");
      if (await menu.isVisible()) {
        await menu.click();
        expect(await faults()).toEqual([]);
        await page.keyboard.press("Escape");
      }
      await startLog(page);
      await ask(page, "Question about the log", "What is the weather like?");
      await page.locator('.exchange[aria-busy="false"]').waitFor();
      await page.locator(".picture").waitFor({ state: "attached" });
      expect(await faults()).toEqual([]);
      expect(await overflow()).toBe(0);
      const live = page.getByRole("link", { name: "Live" });
      if (await live.isVisible()) {
        await live.click();
        await page.getByText("The same in figures").click();
        expect(await faults()).toEqual([]);
        expect(await overflow()).toBe(0);
      }
    });
  }

  it("tells the places of tokens apart by 3 to 1 in brightness, in either scheme", async () => {
    page = await pages.visit(url);
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      const bright = await page.evaluate(() => {
        const probe = document.body.appendChild(document.createElement("i"));
        const names = ["memory", "recalled", "disk", "merged", "gone", "panel", "edge"];
        const found = names.map((name) => {
          probe.style.color = `var(--${name})`;
          const [r, g, b] = getComputedStyle(probe)
            .color.match(/[\d.]+/g)!
            .map((text) => Number(text) / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
          return [name, 0.2126 * r! + 0.7152 * g! + 0.0722 * b!] as const;
        });
        probe.remove();
        return Object.fromEntries(found);
      });
      const ratio = (a: string, b: string) => {
        const [low, high] = [bright[a]!, bright[b]!].sort((x, y) => x - y);
        return (high! + 0.05) / (low! + 0.05);
      };
      // The others stand beside these, and the same figures stand beside the picture.
      for (const place of ["memory", "recalled", "merged"]) {
        expect(ratio(place, "disk"), `${place} beside disk, ${colorScheme}`).toBeGreaterThanOrEqual(3);
        expect(ratio(place, "gone"), `${place} beside gone, ${colorScheme}`).toBeGreaterThanOrEqual(3);
      }
      expect(ratio("disk", "gone"), `disk beside gone, ${colorScheme}`).toBeGreaterThanOrEqual(3);
      expect(ratio("edge", "panel"), `edges, ${colorScheme}`).toBeGreaterThanOrEqual(3);
    }
  });

  /** What has the focus: its role or element, and its name; whether one sees that it has. */
  const focused = () =>
    page.evaluate(() => {
      const element = document.activeElement;
      if (!(element instanceof HTMLElement) || element === document.body) return { name: "", isSeen: true };
      const { outlineStyle, outlineWidth } = getComputedStyle(element);
      const { width, height, bottom, right } = element.getBoundingClientRect();
      const name =
        element.getAttribute("aria-label") ?? element.closest("label")?.innerText ?? element.innerText;
      return {
        name: name.trim(),
        isSeen:
          outlineStyle !== "none" &&
          Number.parseFloat(outlineWidth) >= 2 &&
          width > 0 &&
          height > 0 &&
          bottom > 0 &&
          right > 0,
      };
    });
  const nameFocused = async () => (await focused()).name;

  it("is walked through with Tab alone, in the order in which it is read, and the focus is always seen", async () => {
    page = await pages.visit(url);
    await askAndWait(page, "Who are you?");
    await page.reload();
    await answers(page).waitFor();
    const walk: string[] = [];
    for (let steps = 0; steps < 40; steps++) {
      await page.keyboard.press("Tab");
      const { name, isSeen } = await focused();
      if (name === "") break;
      expect(isSeen, `${name} is seen to have the focus`).toBe(true);
      walk.push(name);
    }
    expect(walk).toEqual([
      "Skip to what is shown",
      "Chat",
      "Endless log",
      "Settings",
      "New conversation",
      "Who are you?",
      'Rename "Who are you?"',
      'Delete "Who are you?"',
      "What was said",
      "Copy",
      "Edit",
      "Copy",
      "Answer again",
      "Message",
      "Send",
      "Hold still",
    ]);
  });

  it("is used by keyboard alone, and the focus goes on where one would go on", async () => {
    const front = new Front(url);
    await front.comeBack();
    page = await pages.visit(front.url, { expectsFailure: true });
    const press = (key: string) => page.keyboard.press(key);
    const tabTo = async (name: string | RegExp, key = "Tab") => {
      for (let steps = 0; steps < 40; steps++) {
        await press(key);
        if (new RegExp(name).test(await nameFocused())) return;
      }
      throw new Error(`Tab never comes to ${name}`);
    };
    await press("Tab");
    await press("Enter");
    // Past what is in the way, to the first thing of the view.
    await press("Tab");
    expect(await nameFocused()).toMatch(/^Mara put the brass key/);
    front.piecesOfAnswers = 2;
    await press("Enter");
    expect(await nameFocused()).toBe("Message");
    await button("Stop").waitFor();
    await press("Escape");
    await button("Send").waitFor();
    expect(await nameFocused()).toBe("Message");

    // Sending by the button, and stopping by it.
    await page.keyboard.type("Who are you?");
    await press("Tab");
    await press("Enter");
    await button("Stop").waitFor();
    expect(await nameFocused()).toBe("Message");
    await press("Tab");
    expect(await nameFocused()).toBe("Stop");
    await press("Space");
    await button("Send").waitFor();
    expect(await nameFocused()).toBe("Message");
    front.piecesOfAnswers = Number.POSITIVE_INFINITY;

    // A question in other words: left, then asked.
    await tabTo("^Edit$", "Shift+Tab");
    await press("Enter");
    await expect.poll(nameFocused).toBe("Question in other words");
    await press("Escape");
    await expect.poll(nameFocused).toBe("Edit");
    await press("Enter");
    await expect.poll(nameFocused).toBe("Question in other words");
    await press("Control+A");
    await page.keyboard.type("What is happening at the pier?");
    await press("Enter");
    await expect.poll(nameFocused).toBe("Message");
    await answers(page)
      .nth(1)
      .getByText(/first after/)
      .waitFor();
    await button("Send").waitFor();
    // A version is turned to and back, and the focus stays.
    await tabTo("^Version before$", "Shift+Tab");
    await press("Enter");
    await page.getByText("1 of 2").waitFor();
    expect(await nameFocused()).toBe("Version before");

    // The settings give the focus back.
    await tabTo("^Settings$", "Shift+Tab");
    await press("Enter");
    await page.getByRole("dialog", { name: "Settings" }).waitFor();
    expect(await nameFocused()).toMatch(/^Model/);
    await press("Escape");
    expect(await nameFocused()).toBe("Settings");

    // Renamed, renamed not, and deleted.
    await tabTo("^Rename");
    await press("Enter");
    await expect.poll(nameFocused).toBe("Title");
    await page.keyboard.type("Keys");
    await press("Enter");
    await expect.poll(nameFocused).toBe('Rename "Keys"');
    await press("Enter");
    await page.keyboard.type("Locks");
    await press("Escape");
    await expect.poll(nameFocused).toBe('Rename "Keys"');
    await tabTo("^New conversation$", "Shift+Tab");
    await press("Enter");
    await expect.poll(nameFocused).toBe("Message");
    await page.keyboard.type("Who are you?");
    await press("Enter");
    await button("Send").waitFor();
    await tabTo("^Delete", "Shift+Tab");
    page.once("dialog", (dialog) => dialog.accept());
    await press("Enter");
    await expect.poll(nameFocused).toBe("Keys");
    await tabTo("^Delete");
    page.once("dialog", (dialog) => dialog.accept());
    await press("Enter");
    await expect.poll(nameFocused).toBe("New conversation");

    // The log.
    await tabTo("^Endless log$", "Shift+Tab");
    await press("Enter");
    await button("Start the log").waitFor();
    await tabTo("^Start the log$");
    await press("Enter");
    await expect.poll(nameFocused).toBe("Question about the log");
    await tabTo("^End$", "Shift+Tab");
    await press("Enter");
    await expect.poll(nameFocused).toBe("Start the log");
    await front.goAway();
  });

  it("opens the conversations over a narrow page, takes the focus there, and gives it back on Escape", async () => {
    page = await pages.visit(url, ZOOMED);
    const menu = button("Conversations");
    await menu.focus();
    await page.keyboard.press("Enter");
    await expect.poll(nameFocused).toBe("New conversation");
    expect(await menu.getAttribute("aria-expanded")).toBe("true");
    await page.keyboard.press("Escape");
    await expect.poll(nameFocused).toBe("Conversations");
    expect(await menu.getAttribute("aria-expanded")).toBe("false");
    await page.keyboard.press("Enter");
    await page.locator("main").click({ position: { x: 600, y: 50 } });
    await button("New conversation").waitFor({ state: "hidden" });
  });

  interface Node {
    readonly role: string;
    readonly name: string;
    readonly level: unknown;
    readonly live: unknown;
  }

  /** The page as Chromium tells it to a screen reader. */
  async function tree(): Promise<Node[]> {
    const client = await page.context().newCDPSession(page);
    const { nodes } = await client.send("Accessibility.getFullAXTree");
    await client.detach();
    return nodes
      .filter(({ ignored }) => !ignored)
      .map(({ role, name, properties = [] }) => {
        const property = (wanted: string) => properties.find((one) => one.name === wanted)?.value.value;
        return {
          role: String(role?.value),
          name: String(name?.value ?? ""),
          level: property("level"),
          live: property("live"),
        };
      });
  }

  it("has landmarks, headings, names and a picture that tells what it shows", async () => {
    page = await pages.visit(url);
    await askAndWait(page, "Who are you?");
    const chat = await tree();
    const landmarks = (nodes: readonly Node[]) =>
      nodes
        .filter(({ role }) => ["banner", "navigation", "main", "complementary", "region"].includes(role))
        .map(({ role, name }) => `${role} ${name}`.trim())
        .sort();
    expect(landmarks(chat)).toEqual([
      "banner",
      "complementary What the server does",
      "main",
      "navigation Conversations",
      "navigation Views",
      "region What was said",
    ]);
    const headings = (nodes: readonly Node[]) =>
      nodes
        .filter(({ role }) => role === "heading")
        .map(({ name, level }) => `${level} ${name}`)
        .sort();
    expect(headings(chat)).toEqual(["1 Millrace", "2 Now"]);
    const usable = ["button", "link", "textbox", "combobox", "slider", "spinbutton"];
    expect(chat.filter(({ role, name }) => usable.includes(role) && name === "")).toEqual([]);
    expect(chat.filter(({ role }) => role === "listitem").map(({ name }) => name)).toEqual(
      expect.arrayContaining(["Question", "Answer"]),
    );

    await startLog(page);
    await page.locator(".picture").waitFor();
    const log = await tree();
    expect(headings(log)).toEqual(["1 Millrace", "2 Now", "2 The endless log"]);
    expect(log.find(({ role }) => role === "image")?.name).toMatch(
      /^[\d,]+ tokens in 5 layers\. Layer 1: [\d,]+ in memory/,
    );
    await page.getByText("The same in figures").click();
    const rows = await page.locator(".same tbody tr").allInnerTexts();
    expect(rows.map((row) => row.split(/\s+/)[0])).toEqual(["1", "2", "3", "4", "5"]);
    // The log runs on without a word; what is told is told in two places only.
    const told = log.filter(({ live }) => live !== undefined && live !== "off");
    expect(told.map(({ role }) => role)).toEqual(["status", "status"]);
  });

  it("tells that an answer is coming and then all of it, not word by word", async () => {
    page = await pages.visit(url);
    await page.evaluate(() => {
      const told: string[] = [];
      Object.assign(window, { told });
      const status = document.querySelector('.hidden[role="status"]')!;
      new MutationObserver(() => told.push(status.textContent ?? "")).observe(status, {
        characterData: true,
        childList: true,
        subtree: true,
      });
    });
    await askAndWait(page, "Who are you?");
    const text = (await answers(page).locator(".text").textContent())!.trim();
    const told = await page.evaluate(() => (window as unknown as { told: string[] }).told);
    expect(told.map((words) => words.trim()).filter((words) => words !== "")).toEqual([
      "The answer is being written.",
      text,
    ]);
  });

  it("does not move by itself for those who want no motion", async () => {
    const front = new Front(url);
    await front.comeBack();
    front.piecesOfAnswers = 0;
    const running = () => page.evaluate(() => document.getAnimations().length);
    for (const [reducedMotion, moving] of [
      ["no-preference", 1],
      ["reduce", 0],
    ] as const) {
      page = await pages.visit(front.url, { reducedMotion, expectsFailure: true });
      await ask(page, "Message", "Who are you?");
      await page.locator(".turn .thinking").waitFor();
      expect(Math.min(1, await running())).toBe(moving);
      await button("Stop").click();
      await button("Send").waitFor();
    }
    await front.goAway();
  });
});
