import { describe, expect, it } from "vitest";
import { MillraceError } from "../errors.js";
import { SAMPLING_OPTION_NAMES, type SamplingOptions, validateSamplingOptions } from "./options.js";

function refusal(options: unknown): MillraceError {
  try {
    validateSamplingOptions(options as SamplingOptions, 100);
  } catch (error) {
    if (error instanceof MillraceError) return error;
    throw error;
  }
  throw new Error(`${JSON.stringify(options)} was accepted`);
}

describe("validateSamplingOptions", () => {
  it("accepts every option at the ends of its range", () => {
    const low: Required<SamplingOptions> = {
      temperature: 0,
      topK: 1,
      topP: Number.MIN_VALUE,
      minP: 0,
      typicalP: Number.MIN_VALUE,
      repetitionPenalty: Number.MIN_VALUE,
      presencePenalty: -2,
      frequencyPenalty: -2,
      penaltyWindow: 1,
      logitBias: { 0: -Infinity, 99: 1e9 },
      seed: 0,
      logprobs: 0,
    };
    validateSamplingOptions(low, 100);
    validateSamplingOptions(
      {
        ...low,
        temperature: 1e30,
        topP: 1,
        minP: 1,
        typicalP: 1,
        topK: 1e9,
        seed: 2 ** 53 - 1,
        logprobs: 100,
      },
      100,
    );
    validateSamplingOptions({}, 100);
    expect(Object.keys(low).sort()).toEqual([...SAMPLING_OPTION_NAMES].sort());
  });

  it.each([
    ["temperature", [-1, Number.NaN, Infinity, "1", null]],
    ["topK", [0, 1.5, -1, Infinity]],
    ["topP", [0, 1.1, Number.NaN]],
    ["minP", [-0.1, 1.1]],
    ["typicalP", [0, 2]],
    ["repetitionPenalty", [0, -1, Infinity]],
    ["presencePenalty", [Infinity, Number.NaN]],
    ["frequencyPenalty", [-Infinity, "0"]],
    ["penaltyWindow", [0, 2.5]],
    ["seed", [-1, 0.5, 2 ** 53]],
    ["logprobs", [-1, 101, 0.5, true]],
    [
      "logitBias",
      [[1], null, 3, { x: 1 }, { "-1": 1 }, { 100: 1 }, { "01": 1 }, { 1: Number.NaN }, { 1: Infinity }],
    ],
  ])("refuses values of %s outside its range, naming it", (name, values) => {
    for (const value of values) {
      const error = refusal({ temperature: 1, [name]: value });
      expect(error.code).toBe("INVALID_ARGUMENT");
      expect(error.details).toMatchObject({
        name,
        got: expect.any(String),
        expected: expect.any(String),
      });
      expect(error.message).toMatch(new RegExp(`^${name} is .*; expected `));
    }
  });

  it("refuses unknown names, listing the known ones", () => {
    const error = refusal({ top_k: 3 });
    expect(error.message).toContain('"top_k"');
    expect(error.message).toContain("topK");
    expect(error.details).toMatchObject({ name: "top_k" });
  });

  it("refuses a truncation that could do nothing for want of a temperature", () => {
    for (const name of ["topK", "topP", "minP", "typicalP"]) {
      expect(refusal({ [name]: 1 }).message).toContain("Give temperature too");
      validateSamplingOptions({ temperature: 0, [name]: 1 }, 100);
    }
  });

  it("refuses what is no object", () => {
    for (const options of [null, 3, "x", []])
      expect(refusal(options).details).toMatchObject({ name: "options" });
  });
});
