/** The page in a real browser: Chromium where the machine has one. */
import { existsSync } from "node:fs";
import { createServer as createHttp, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import {
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  chromium,
  type Page,
} from "playwright-core";
import { afterAll, afterEach, beforeAll, expect } from "vitest";
import { type Model, open } from "../../dist/index.js";
import { createServer, type ServerOptions } from "../../dist/server/create.js";
import { type Listening, listen } from "../../dist/server/serve.js";

const CHROMIUM = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/google-chrome"].find(
  (path) => path !== undefined && existsSync(path),
);
const built = existsSync(fileURLToPath(new URL("../../dist/web/index.html", import.meta.url)));

/** Why these tests cannot run; empty: they can. */
export const why = CHROMIUM === undefined ? "no Chromium here" : built ? "" : "the page is not built";
export const titled = (name: string): string => (why === "" ? name : `${name} (skipped: ${why})`);

/** Browsers wait for what a busy machine does. */
export const PATIENCE = 60_000;

export interface Visit extends BrowserContextOptions {
  /** The server is meant to fail: what the browser says of that is no fault of the page. */
  readonly expectsFailure?: boolean;
  /** A context that is there, for another tab of it. */
  readonly context?: BrowserContext;
  /** Runs in the page before its own scripts. */
  readonly before?: () => void;
}

/** A model, its server, and a browser. */
export class Pages {
  /** What a page must never have: errors, and requests to anybody but its server. */
  readonly complaints: string[] = [];
  readonly model: Model;
  readonly #browser: Browser;
  readonly #servers: Listening[] = [];
  readonly #contexts = new Set<BrowserContext>();

  private constructor(model: Model, browser: Browser) {
    this.model = model;
    this.#browser = browser;
  }

  static async start(): Promise<Pages> {
    const args = [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-background-networking",
      "--disable-component-update",
    ];
    const [model, browser] = await Promise.all([
      open(),
      chromium.launch({ executablePath: CHROMIUM!, args }),
    ]);
    return new Pages(model, browser);
  }

  /** Serves the model, under these names. */
  async serve(options: ServerOptions = {}, names: readonly string[] = ["harbour"]): Promise<Listening> {
    const models = names.map((name) => ({ name, model: this.model }));
    const server = await listen(createServer(models, options), { port: 0 });
    this.#servers.push(server);
    return server;
  }

  async visit(
    url: string,
    { expectsFailure = false, context, before, ...options }: Visit = {},
  ): Promise<Page> {
    const within =
      context ?? (await this.#browser.newContext({ viewport: { width: 1280, height: 800 }, ...options }));
    this.#contexts.add(within);
    const page = await within.newPage();
    page.setDefaultTimeout(PATIENCE);
    if (before) await page.addInitScript(before);
    const complain = (text: string) => this.complaints.push(text);
    page.on("console", (said) => said.type() === "error" && !expectsFailure && complain(said.text()));
    page.on("pageerror", (error) => complain(String(error)));
    page.on("request", (asked) => {
      if (!asked.url().startsWith(new URL(url).origin) && !asked.url().startsWith("data:"))
        complain(asked.url());
    });
    await page.goto(url);
    return page;
  }

  async leave(): Promise<void> {
    for (const context of this.#contexts) await context.close();
    this.#contexts.clear();
  }

  async close(): Promise<void> {
    await this.#browser.close();
    for (const server of this.#servers) await server.close(0);
    await this.model.close();
  }
}

/**
 * A browser and a server for the tests of a `describe`, given to `take` before the first of them. After each no page is left,
 * and there must have been nothing to complain of.
 */
export function withPages(take: (pages: Pages, url: string) => void): void {
  let pages: Pages | undefined;
  beforeAll(async () => {
    pages = await Pages.start();
    take(pages, (await pages.serve()).url);
  }, 2 * PATIENCE);
  afterEach(async () => {
    expect(pages!.complaints).toEqual([]);
    await pages!.leave();
  });
  afterAll(() => pages?.close());
}

/** Writes into a box and sends it. */
export async function ask(
  page: Page,
  label: "Message" | "Question about the log",
  text: string,
): Promise<void> {
  await page.getByRole("textbox", { name: label }).fill(text);
  await page.keyboard.press("Enter");
}

/** As `ask`, in the chat; resolves when the answer is whole. */
export async function askAndWait(page: Page, text: string): Promise<void> {
  await ask(page, "Message", text);
  await page.getByRole("button", { name: "Answer again" }).last().waitFor();
  await page.getByRole("button", { name: "Send" }).waitFor();
}

export const answers = (page: Page) => page.getByRole("listitem", { name: "Answer" });

/** Starts the log; resolves when it says something. */
export async function startLog(page: Page): Promise<void> {
  await page.getByRole("link", { name: "Endless log" }).click();
  await page.getByRole("button", { name: "Start the log" }).click();
  await page.locator(".told").first().waitFor();
}

/** Stands before a server, and does what networks do: holds an answer back in its middle, and goes away and comes back. */
export class Front {
  /** Chat answers that are asked for from now on never come further than so many pieces. */
  piecesOfAnswers = Number.POSITIVE_INFINITY;
  readonly #open = new Set<ServerResponse>();
  readonly #server;
  #port = 0;

  constructor(behind: string) {
    const { hostname, port } = new URL(behind);
    this.#server = createHttp((asked, answered) => {
      this.#open.add(answered);
      answered.on("close", () => this.#open.delete(answered));
      const { url: path, method, headers } = asked;
      const most = path === "/v1/chat/completions" ? this.piecesOfAnswers : Number.POSITIVE_INFINITY;
      const forward = request({ hostname, port, path, method, headers }, (answer) => {
        answered.writeHead(answer.statusCode!, answer.headers);
        let pieces = 0;
        answer.on("data", (piece: Buffer) => {
          if (pieces++ < most) answered.write(piece);
        });
        answer.on("end", () => pieces <= most && answered.end());
        answer.on("error", () => answered.destroy());
      });
      forward.on("error", () => answered.destroy());
      answered.on("close", () => forward.destroy());
      asked.pipe(forward);
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Also when it was away: at the same address. */
  comeBack(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.listen(this.#port, "127.0.0.1", () => {
        this.#port = (this.#server.address() as AddressInfo).port;
        resolve();
      });
    });
  }

  goAway(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
      for (const answered of this.#open) answered.destroy();
      this.#server.closeAllConnections();
    });
  }
}
