import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { MillraceError } from "../errors.js";
import { readTrace, type TraceRequest } from "./trace.js";
import { fittingScale, longestOf, tracePrompts } from "./trace-prompts.js";

const line = (fields: object): string =>
  JSON.stringify({ timestamp: 0, input_length: 1000, output_length: 10, hash_ids: [1, 2], ...fields });
const request = (
  timestamp: number,
  inputLength: number,
  hashIds: number[],
  outputLength = 8,
): TraceRequest => ({
  timestamp,
  inputLength,
  outputLength,
  hashIds,
});
/** Tokens with which two lists begin alike. */
const common = (a: readonly number[], b: readonly number[]): number => {
  const at = a.findIndex((token, i) => token !== b[i]);
  return at < 0 ? a.length : at;
};

describe("readTrace", () => {
  it("reads requests in order of their time, with or without an id for what is left over", () => {
    const text = [
      line({ timestamp: 30, hash_ids: [1] }),
      "",
      line({ timestamp: 20.5, input_length: 1024, chat_id: 7 }),
      "",
    ].join("\r\n");
    expect(readTrace(text, "t.jsonl")).toEqual([
      { timestamp: 20.5, inputLength: 1024, outputLength: 10, hashIds: [1, 2] },
      { timestamp: 30, inputLength: 1000, outputLength: 10, hashIds: [1] },
    ]);
  });

  it.each([
    ["{", "no JSON object"],
    ["[1]", "no JSON object"],
    ["null", "no JSON object"],
    [line({ timestamp: -1 }), "timestamp is -1"],
    [line({ timestamp: "0" }), 'timestamp is "0"'],
    [line({ input_length: 0, hash_ids: [] }), "input_length is 0"],
    [line({ input_length: undefined }), "input_length is missing"],
    [line({ output_length: 1.5 }), "output_length is 1.5"],
    [line({ hash_ids: [1, -2] }), "hash_ids is no list of whole numbers"],
    [line({ hash_ids: null }), "hash_ids is no list of whole numbers"],
    [line({ hash_ids: [] }), "0 hash_ids for 1000 tokens, one for each 512 is 2"],
    [line({ hash_ids: [1, 2, 3] }), "3 hash_ids for 1000 tokens, one for each 512 is 2"],
  ])("refuses %s and names the line", (bad, why) => {
    const read = () => readTrace(`${line({})}\n\n${bad}\n${line({})}`, "t.jsonl");
    expect(read).toThrow(MillraceError);
    expect(read).toThrow(
      expect.objectContaining({
        code: "BAD_FORMAT",
        message: expect.stringContaining(`t.jsonl, line 3: ${why}; `) as string,
        details: { path: "t.jsonl", line: 3 },
      }),
    );
  });

  it("refuses a file without requests", () => {
    expect(() => readTrace("\n \n", "t.jsonl")).toThrow(
      expect.objectContaining({ code: "BAD_FORMAT", message: "t.jsonl holds no requests." }),
    );
  });

  it("reads the sample", () => {
    const path = new URL("../../test/traces/sample.jsonl", import.meta.url);
    const requests = readTrace(readFileSync(path, "utf8"), "sample.jsonl");
    expect(requests).toHaveLength(200);
    expect(requests[0]!.timestamp).toBe(0);
  });
});

describe("tracePrompts", () => {
  const trace = [
    request(100, 1300, [7, 8, 9]),
    request(100, 1536, [7, 8, 10]),
    request(250, 600, [7, 11]),
    request(300, 1100, [7, 8]),
    request(400, 1300, [7, 8, 9]),
  ];

  it.each([1, 0.37, 0.01])("shares just what the trace shares, at scale %d", (scale) => {
    const prompts = tracePrompts(trace, { scale, vocabularySize: 1536 });
    const tokens = prompts.map((each) => each.tokens);
    expect(tokens.map(({ length }) => length)).toEqual(
      trace.map(({ inputLength }) => Math.round(inputLength * scale)),
    );
    const [first, second] = [Math.round(512 * scale), Math.round(1024 * scale)];
    expect(common(tokens[0]!, tokens[1]!)).toBe(second);
    expect(common(tokens[0]!, tokens[2]!)).toBe(first);
    // What has no id is like nothing else.
    expect(common(tokens[0]!, tokens[3]!)).toBe(second);
    expect(tokens[4]).toEqual(tokens[0]);
    // The last token is always run.
    expect(prompts.map(({ known }) => known)).toEqual([0, second, first, second, tokens[4]!.length - 1]);
  });

  it("keeps times, scales answers, and stays within the vocabulary", () => {
    const prompts = tracePrompts(trace, { scale: 0.25, vocabularySize: 320 });
    expect(prompts.map(({ at }) => at)).toEqual([0, 0, 150, 200, 300]);
    expect(prompts.map(({ answerTokens }) => answerTokens)).toEqual([2, 2, 2, 2, 2]);
    for (const { tokens } of prompts) {
      expect(Math.min(...tokens)).toBeGreaterThanOrEqual(160);
      expect(Math.max(...tokens)).toBeLessThan(320);
    }
  });

  it("counts of a block only what its prompts have had", () => {
    // The second block of the first is cut short.
    const prompts = tracePrompts([request(0, 700, [1, 2]), request(1, 1024, [1, 2])], {
      scale: 1,
      vocabularySize: 1000,
    });
    expect(prompts[1]!.known).toBe(700);
    expect(common(prompts[0]!.tokens, prompts[1]!.tokens)).toBe(700);
  });
});

describe("fittingScale", () => {
  it("lets the longest request fit, and no less than needed", () => {
    const trace = [
      request(
        0,
        87_169,
        Array.from({ length: 171 }, (_, i) => i),
        402,
      ),
      request(1, 915, [0, 1], 2),
    ];
    for (const context of [64, 1024, 8191, 8192]) {
      const scale = fittingScale(trace, context);
      expect(longestOf(trace, scale)).toBeLessThanOrEqual(context);
      expect(longestOf(trace, scale)).toBeGreaterThanOrEqual(context - 4);
    }
    expect(fittingScale(trace, 1e6)).toBe(1);
  });
});
