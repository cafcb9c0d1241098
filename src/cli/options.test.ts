import { InvalidArgumentError } from "commander";
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  count,
  countOrEndless,
  decimal,
  logitBias,
  modelSource,
  policySpec,
  samplingOptions,
  tokenIds,
} from "./options.js";

describe("values of options", () => {
  it.each([
    [count, "12", 12],
    [countOrEndless, "7", 7],
    [countOrEndless, "inf", Number.POSITIVE_INFINITY],
    [decimal, "-0.5", -0.5],
    [decimal, "1e-3", 0.001],
    [tokenIds, "1,2,3", [1, 2, 3]],
    [tokenIds, " [1, 2 3] ", [1, 2, 3]],
    [policySpec, "full", { policy: "full" }],
    [policySpec, "window:64", { policy: "window", tokens: 64 }],
    [policySpec, "sinks:window=64,sinks=2", { policy: "sinks", window: 64, sinks: 2 }],
    [logitBias, "5=-2.5,6=-inf", { 5: -2.5, 6: Number.NEGATIVE_INFINITY }],
  ] as [(text: string) => unknown, string, unknown][])("%o reads %s", (parse, text, value) => {
    expect(parse(text)).toEqual(value);
  });

  it.each([
    [count, ["0", "-1", "1.5", "x", "", "1e3", "99999999999999999999"]],
    [countOrEndless, ["0", "infinite", ""]],
    [decimal, ["", " ", "x", "1,5"]],
    [tokenIds, ["", "[]", "a", "1,-2", "1.5", "1;2"]],
    [policySpec, ["", "window", "window:", "window:0", "window:x", "sink:4"]],
    [logitBias, ["", "5", "5=", "=1", "a=1", "5=x"]],
  ] as [(text: string) => unknown, string[]][])("%o refuses %j", (parse, texts) => {
    for (const text of texts) expect(() => parse(text), text).toThrow(InvalidArgumentError);
  });

  it("adds up biases of several uses", () => {
    expect(logitBias("6=1", logitBias("5=2"))).toEqual({ 5: 2, 6: 1 });
  });

  it("takes the sampling options out of a command's", () => {
    const options = { temperature: 0, topK: 3, logitBias: { 4: 1 }, prompt: "a", json: true };
    expect(samplingOptions(options)).toEqual({ temperature: 0, topK: 3, logitBias: { 4: 1 } });
  });
});

describe("the model that was named", () => {
  afterEach(() => vi.unstubAllEnvs());

  it("is the argument, else $MILLRACE_MODEL, else the one in the box", () => {
    vi.stubEnv("MILLRACE_MODEL", "from-environment");
    expect(modelSource("named")).toBe("named");
    expect(modelSource(undefined)).toBe("from-environment");
    vi.stubEnv("MILLRACE_MODEL", "");
    expect(modelSource(undefined)).toBe("boxed:harbour");
  });
});
