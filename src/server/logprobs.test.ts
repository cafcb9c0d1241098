import { describe, expect, it } from "vitest";
import { completionLogprobs, contentLogprobs } from "./logprobs.js";
import { Vocabulary } from "./vocabulary.js";

/** "a", the euro sign in three tokens, " b", and half a character behind a letter. */
const BYTES = [[0x61], [0xe2], [0x82], [0xac], [0x20, 0x62], [0x63, 0xf0, 0x9f]];

const asked: number[] = [];
const vocabulary = new Vocabulary({
  tokenBytes: async (id) => {
    asked.push(id);
    return Uint8Array.from(BYTES[id]!);
  },
});
const score = (id: number, ...top: number[]) => ({
  id,
  logprob: -id - 1,
  top: top.map((other) => ({ id: other, logprob: Number.NEGATIVE_INFINITY })),
});

describe("log-probabilities", () => {
  it("give exact bytes, and in chats what is no whole character as OpenAI writes it", async () => {
    const entries = await contentLogprobs(vocabulary, [score(0, 5), score(1), score(2), score(3), score(4)]);
    expect(entries.map(({ bytes }) => bytes)).toEqual(BYTES.slice(0, 5));
    expect(Buffer.from(entries.flatMap(({ bytes }) => bytes)).toString()).toBe("a€ b");
    expect(entries.map(({ token }) => token)).toEqual(["a", "\\xe2", "\\x82", "\\xac", " b"]);
    expect(entries[0]!.top_logprobs).toEqual([{ token: "c\\xf0\\x9f", bytes: BYTES[5], logprob: -9999 }]);
  });

  it("tell different bytes apart in completions, and where in the text each token begins", async () => {
    const scores = [score(0, 1, 2), score(1), score(2), score(3), score(4)];
    const { tokens, top_logprobs, text_offset } = await completionLogprobs(vocabulary, scores, 10);
    expect(tokens).toEqual(["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", " b"]);
    expect(Object.keys(top_logprobs[0]!)).toEqual(["bytes:\\xe2", "bytes:\\x82"]);
    expect(text_offset).toEqual([10, 11, 11, 11, 12]);
  });

  it("ask the model once for each token", () => {
    expect(asked.length).toBe(new Set(asked).size);
  });
});
