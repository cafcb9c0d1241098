import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";
import type { ServerOptions } from "./create.js";

const bearer = (key: string) => ({ headers: { Authorization: `Bearer ${key}` } });
const prompt = Array.from({ length: 100 }, (_, i) => 1 + (i % 300));
const messages = [{ role: "user", content: "the rest of the rest ".repeat(4) }];

describe("whose prompts share what they begin with", () => {
  let model: Model;
  beforeEach(async () => {
    model = await openNull();
  });
  afterEach(() => model.close());

  /** Tokens of a prompt that were in the cache, asked by one key after another. */
  async function cached(options: ServerOptions, asked: readonly (readonly [string, string?])[]) {
    const server = serverOf({ tiny: model }, options);
    const found: number[] = [];
    for (const [key, cacheKey] of asked) {
      const body = { model: "tiny", prompt, max_tokens: 1, ...(cacheKey && { prompt_cache_key: cacheKey }) };
      const answer = await server.ask("/v1/completions", body, bearer(key));
      expect(answer.status).toBe(200);
      found.push(answer.body.usage.prompt_tokens_details.cached_tokens);
    }
    return found;
  }

  it("are those of one key where there are several", async () => {
    const keys = ["a", "b"];
    expect(await cached({ keys }, [["a"], ["b"], ["a"], ["b"]])).toEqual([0, 0, 99, 99]);
  });

  it("are all, with one key or where it is allowed", async () => {
    expect(await cached({ keys: ["a"] }, [["a"], ["a"]])).toEqual([0, 99]);
    const keys = ["a", "b"];
    expect(await cached({ keys, sharePrefixes: "all" }, [["a"], ["b"]])).toEqual([99, 99]);
  });

  it("are fewer where requests say so, and keys stay apart", async () => {
    const keys = ["a", "b"];
    const asked = [["a", "x"], ["a", "y"], ["a"], ["b", "x"], ["a", "x"], ["b", "x"]] as const;
    expect(await cached({ keys }, asked)).toEqual([0, 0, 0, 0, 99, 99]);
    expect(
      await cached({ keys, sharePrefixes: "all" }, [
        ["a", "x"],
        ["b", "x"],
        ["b", "z"],
      ]),
    ).toEqual([0, 99, 0]);
  });

  it("hold for conversations and responses, streamed ones too", async () => {
    const server = serverOf({ tiny: model }, { keys: ["a", "b"] });
    const chat = { model: "tiny", messages, max_tokens: 1 };
    const first = await server.ask("/v1/chat/completions", chat, bearer("a"));
    const { prompt_tokens: tokens } = first.body.usage;
    for (const [path, body] of [
      ["/v1/chat/completions", chat],
      ["/v1/responses", { model: "tiny", input: messages, max_output_tokens: 1 }],
    ] as const) {
      const narrowed = await server.ask(path, { ...body, prompt_cache_key: path }, bearer("a"));
      const { usage } = narrowed.body;
      const details = usage.prompt_tokens_details ?? usage.input_tokens_details;
      expect([path, details.cached_tokens]).toEqual([path, 0]);
    }
    const stream = { ...chat, stream: true, stream_options: { include_usage: true } };
    const streamed = await server.ask("/v1/chat/completions", stream, bearer("b"));
    expect(streamed.body).toContain('"cached_tokens":0');
    const again = await server.ask("/v1/chat/completions", chat, bearer("b"));
    expect(again.body.usage.prompt_tokens_details.cached_tokens).toBe(tokens - 1);
  });
});
