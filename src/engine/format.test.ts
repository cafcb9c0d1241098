import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { openNull } from "../../test/support/local-thread.js";
import { TestRandom } from "../../test/support/random.js";
import type { AnswerFormat, JsonSchema } from "../sampling/grammar/format.js";
import type { Model } from "../session/model.js";

/** Tokens by hash: as random a model as there is. It ends an answer as soon as it is allowed to, by chance. */
let model: Model;
let folder: string;
beforeAll(async () => {
  model = await openNull({ context: 8192, sequences: 8 });
  folder = await mkdtemp(join(tmpdir(), "millrace-format-"));
});
afterAll(async () => {
  await model.close();
  await rm(folder, { recursive: true });
});

const ask = (format: AnswerFormat, seed: number, maxTokens = 800) =>
  model.generate(`Answer ${seed}:`, { format, temperature: 1, seed, maxTokens }).result;

const SCHEMAS: readonly JsonSchema[] = [
  {
    type: "object",
    properties: {
      name: { type: "string", maxLength: 9 },
      age: { type: "integer", minimum: 0, maximum: 150 },
    },
    required: ["name", "age"],
  },
  {
    type: "object",
    properties: {
      a: { type: "integer", minimum: -5, maximum: 5 },
      b: { type: "boolean" },
      c: { type: "null" },
    },
  },
  { type: "array", items: { enum: ["red", "green", 3, null, true] }, minItems: 2, maxItems: 5 },
  { type: "string", pattern: "^[a-z]{2,5}-[0-9]{3}$" },
  { type: "integer", minimum: -3, maximum: 120 },
  {
    anyOf: [
      { type: "string", maxLength: 4 },
      { type: "object", properties: { x: { type: "integer", maximum: 9, minimum: 1 } }, required: ["x"] },
    ],
  },
  {
    $defs: {
      tree: {
        type: "object",
        properties: { leaf: { type: "boolean" }, left: { $ref: "#/$defs/tree" } },
        required: ["leaf"],
      },
    },
    $ref: "#/$defs/tree",
  },
  {
    type: "array",
    prefixItems: [{ type: "string", maxLength: 3 }, { type: "boolean" }],
    minItems: 2,
    maxItems: 2,
    items: false,
  },
  {
    type: "object",
    properties: {
      place: {
        type: "object",
        properties: { lat: { type: "integer", minimum: -90, maximum: 90 }, lon: { type: "boolean" } },
        required: ["lat", "lon"],
      },
      tags: { type: "array", items: { type: "string", minLength: 1, maxLength: 6 }, maxItems: 3 },
      other: { type: ["string", "null"], maxLength: 5 },
    },
    required: ["place", "tags", "other"],
  },
];

describe("an answer with a format", () => {
  it.each(SCHEMAS.map((schema) => [JSON.stringify(schema).slice(0, 60), schema] as const))(
    "of a random model fits the schema, whatever the seed: %s",
    async (_, schema) => {
      const fits = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]);
      const answers = await Promise.all(
        Array.from({ length: 4 }, (_, seed) => ask({ type: "json-schema", schema }, seed)),
      );
      for (const { text, finishReason } of answers) {
        expect(finishReason).toBe("stop");
        expect(fits.safeParse(JSON.parse(text)), text).toMatchObject({ success: true });
      }
      // The same seed in other company gives the same tokens.
      const again = await ask({ type: "json-schema", schema }, 3);
      expect(again.tokens).toEqual(answers[3]!.tokens);
    },
  );

  it("is exactly what a constant is", async () => {
    const value = { kind: "exact", list: [1, 2.5, "thrée"] };
    const { text } = await ask({ type: "json-schema", schema: { const: value } }, 1);
    expect(JSON.parse(text)).toEqual(value);
  });

  it("is JSON, an object or a list, where any will do", async () => {
    for (let seed = 0; seed < 5; seed++) {
      const { text, finishReason } = await ask({ type: "json" }, seed);
      if (finishReason === "stop") expect(typeof JSON.parse(text), text).toBe("object");
      else expect(finishReason).toBe("length");
    }
  });

  it("has no properties beside those that are named, unless strict is false", async () => {
    const schema = { type: "object", properties: { a: { type: "integer" } }, required: ["a"] };
    for (let seed = 0; seed < 4; seed++) {
      const { text } = await ask({ type: "json-schema", schema }, seed);
      expect(Object.keys(JSON.parse(text))).toEqual(["a"]);
    }
    const loose = await Promise.all(
      Array.from({ length: 12 }, (_, seed) => ask({ type: "json-schema", schema, strict: false }, seed)),
    );
    const whole = loose
      .filter(({ finishReason }) => finishReason === "stop")
      .map(({ text }) => JSON.parse(text));
    expect(whole.every((value) => Number.isInteger(value.a))).toBe(true);
    expect(whole.some((value) => Object.keys(value).length > 1)).toBe(true);
  });

  it.each<[string, AnswerFormat, RegExp]>([
    ["expression", { type: "regex", pattern: "(yes|no)( [0-9]{1,3})?" }, /^(yes|no)( [0-9]{1,3})?$/],
    [
      "expression with characters of several bytes",
      { type: "regex", pattern: "(à|é|î){3}→(日|本)" },
      /^(à|é|î){3}→(日|本)$/u,
    ],
    [
      "expression with classes above ASCII",
      { type: "regex", pattern: "[àé日本]{3}\\x2d[а-я]" },
      /^[àé日本]{3}-[а-я]$/u,
    ],
    [
      "grammar with classes above ASCII",
      { type: "grammar", ebnf: 'root ::= "[x]" [à-öa]+ # [é\n' },
      /^\[x\][à-öa]+$/u,
    ],
    ["expression that begins with a space", { type: "regex", pattern: " [ab] +c" }, /^ [ab] +c$/],
    [
      "grammar",
      { type: "grammar", ebnf: 'root ::= move ("," move)*\nmove ::= [a-h] [1-8]\n' },
      /^[a-h][1-8](,[a-h][1-8])*$/,
    ],
  ])("fits its %s", async (_, format, expected) => {
    for (let seed = 0; seed < 4; seed++) {
      const { text, finishReason } = await ask(format, seed);
      expect(finishReason).toBe("stop");
      expect(text).toMatch(expected);
    }
  });

  it.each<[string, RegExp]>([
    ["^.{4}$", /^.{4}$/su],
    ["^[^a-z]{3}$", /^[^a-z]{3}$/u],
    ['^[!-~]{6}"\\\\$', /^[!-~]{6}"\\$/],
    ["^[à-ü]{2}\\n\\u00e9\\W$", /^[à-ü]{2}\né\W$/u],
    ["^[\\w ]{5}\\.$", /^[\w ]{5}\.$/],
  ])("is JSON whose string fits the pattern %s, quotes or not", async (pattern, expected) => {
    for (let seed = 0; seed < 4; seed++) {
      const { text } = await ask({ type: "json-schema", schema: { type: "string", pattern } }, seed);
      expect(JSON.parse(text), text).toMatch(expected);
    }
  });

  it("is followed by nothing: it ends where nothing else is allowed", async () => {
    const { text, finishReason } = await ask({ type: "regex", pattern: "done" }, 1);
    expect([text, finishReason]).toEqual(["done", "stop"]);
  });

  it("goes with bias, penalties, truncations and log-probabilities, which are the raw ones", async () => {
    const format = { type: "regex", pattern: "[abc]{40}" } as const;
    // The letter, and the byte that writes it.
    const [a] = (await model.tokenize("xa", { addSpecial: false })).slice(-1);
    const byte = 3 + "a".charCodeAt(0);
    const { text, scores } = await model.generate("Go", {
      format,
      temperature: 0.7,
      topK: 2,
      minP: 0.01,
      repetitionPenalty: 1.1,
      logitBias: { [a!]: Number.NEGATIVE_INFINITY, [byte]: Number.NEGATIVE_INFINITY },
      logprobs: 3,
      seed: 1,
    }).result;
    expect(text).toMatch(/^[bc]{40}$/);
    expect(scores).toHaveLength(40);
    // The null backend spreads 320 tokens over a range of 1: what the format leaves says nothing of the raw values.
    for (const { logprob, top } of scores!) {
      expect(logprob).toBeLessThan(Math.log(1 / 320) + 1);
      expect(top).toHaveLength(3);
      expect(top[0]!.logprob).toBeGreaterThanOrEqual(logprob);
    }
  });

  it("is refused with the compiler's reason where it is wrong, and others go on", async () => {
    const wrong: [AnswerFormat, RegExp][] = [
      [{ type: "json-schema", schema: { type: "strange" } }, /schema cannot be used: .*strange/],
      [{ type: "json-schema", schema: { $ref: "#/nowhere" } }, /nowhere/],
      [{ type: "json-schema", schema: { type: "integer", minimum: 5, maximum: 1 } }, /minimum/],
      [{ type: "grammar", ebnf: "root := broken" }, /line 1/],
      [{ type: "grammar", ebnf: 'other ::= "a"' }, /root/],
      [{ type: "regex", pattern: "(unclosed" }, /parenthesis/],
      [{ type: "regex", pattern: "a(?=b)" }, /Lookahead/],
    ];
    const beside = ask({ type: "regex", pattern: "[a-z]{400}" }, 7);
    for (const [format, reason] of wrong) {
      await expect(ask(format, 1)).rejects.toMatchObject({
        code: "INVALID_ARGUMENT",
        message: expect.stringMatching(reason),
        details: { name: "format" },
      });
    }
    expect((await beside).text).toMatch(/^[a-z]{400}$/);
  });

  it.each<[string, unknown, RegExp]>([
    ["no object", "json", /format is string/],
    ["an unknown type", { type: "xml" }, /format.type is "xml"/],
    ["an unknown key", { type: "json", schema: {} }, /the key "schema"/],
    ["no schema", { type: "json-schema" }, /format.schema is undefined/],
    ["a list as schema", { type: "json-schema", schema: [] }, /format.schema is a list/],
    ["a circle as schema", { type: "json-schema", schema: circle() }, /no JSON/],
    ["strict of another type", { type: "json-schema", schema: {}, strict: 1 }, /format.strict is 1/],
    ["an empty grammar", { type: "grammar", ebnf: "" }, /format.ebnf/],
    ["too much", { type: "regex", pattern: "a".repeat(2 ** 20 + 1) }, /1048577 characters/],
  ])("is refused at once where it is %s", (_, format, message) => {
    expect(() => model.generate("x", { format: format as AnswerFormat })).toThrowError(
      expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringMatching(message) }),
    );
  });

  it("has an end: no ignoreEos, no endless answer", () => {
    const format = { type: "json" } as const;
    expect(() => model.generate("x", { format, ignoreEos: true })).toThrowError(/ignoreEos/);
    expect(() => model.generate("x", { format, maxTokens: Number.POSITIVE_INFINITY })).toThrowError(
      /maxTokens/,
    );
  });

  it("ends early like any other: length, break, signal, also while its format is compiled", async () => {
    const format = { type: "regex", pattern: "[a-z]{500}" } as const;
    expect((await ask(format, 1, 30)).finishReason).toBe("length");
    const broken = model.generate("x", { format });
    for await (const _ of broken) break;
    expect((await broken.result).finishReason).toBe("aborted");
    const controller = new AbortController();
    const unseen = { type: "regex", pattern: "[a-z]{499}" } as const;
    const early = model.generate("x", { format: unseen, signal: controller.signal }).result;
    controller.abort();
    await expect(early).rejects.toMatchObject({ code: "ABORTED" });
    await expect.poll(async () => (await model.usage()).running, { timeout: 30_000 }).toBe(0);
  });

  it("in a session: is followed, saved in its middle, and goes on as it would have", async () => {
    const format = {
      type: "json-schema",
      schema: {
        type: "array",
        items: { type: "integer", minimum: 0, maximum: 9999 },
        minItems: 10,
        maxItems: 14,
      },
    } as const;
    const options = { format, temperature: 1, seed: 11, maxTokens: 3000 };
    const whole = model.session({ memory: "8 MiB" });
    await whole.append("List:");
    const expected = await whole.generate(options).result;
    expect(JSON.parse(expected.text).length).toBeGreaterThanOrEqual(10);

    const session = model.session({ memory: "8 MiB" });
    await session.append("List:");
    const answer = session.generate(options);
    let text = "";
    for (let i = 0; i < 12; i++) text += (await answer.next()).value!.text;
    const path = join(folder, "half.session");
    await session.save(path);
    await session.close();
    const restored = await model.restore(path);
    expect(restored.unfinished).toBe(true);
    const rest = await restored.resume().result;
    expect(rest.finishReason).toBe("stop");
    expect(expected.text.endsWith(rest.text)).toBe(true);
    expect(expected.text.startsWith(text)).toBe(true);
    await restored.close();
    await whole.close();
  });

  it("in a session takes its turn: what is appended afterwards comes after its beginning", async () => {
    const session = model.session({ memory: "4 MiB" });
    await session.append("One");
    const answer = session.generate({ format: { type: "regex", pattern: "[a-z]{9}" }, seed: 1 }).result;
    const later = session.append(" two");
    expect((await answer).text).toMatch(/^[a-z]{9}$/);
    await later;
    await expect(session.generate({ format: { type: "regex", pattern: "(" } }).result).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    expect((await session.generate({ maxTokens: 3 }).result).tokens).toHaveLength(3);
    await session.close();
  });
});

describe("formats made at random", () => {
  it("are followed or refused, and never end the engine", { timeout: 300_000 }, async () => {
    const random = new TestRandom(3);
    const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
    const pieces = [
      '"a"',
      "[a-z]",
      "(",
      ")",
      "*",
      "+",
      "?",
      "{2,3}",
      "|",
      "root",
      "::=",
      "other",
      "\n",
      "\\",
      "^",
      "$",
      ".",
      "é",
      "\u0000",
    ];
    const text = () => Array.from({ length: 1 + random.below(8) }, () => pick(pieces)).join(pick(["", " "]));
    const value = (depth: number): unknown =>
      pick<() => unknown>([
        () => pick(["string", "object", "array", "x", ""]),
        () => random.below(9) - 4,
        () => pick([null, true, false]),
        () => (depth > 2 ? 1 : schema(depth + 1)),
        () => (depth > 2 ? [] : [value(depth + 1), value(depth + 1)]),
      ])();
    const keys = [
      "type",
      "properties",
      "items",
      "enum",
      "const",
      "$ref",
      "anyOf",
      "minimum",
      "maxLength",
      "pattern",
      "required",
      "format",
      "prefixItems",
    ];
    const schema = (depth: number): Record<string, unknown> =>
      Object.fromEntries(Array.from({ length: random.below(4) }, () => [pick(keys), value(depth)]));
    const outcomes = { followed: 0, refused: 0 };
    for (let i = 0; i < 30; i++) {
      const format: AnswerFormat = pick<() => AnswerFormat>([
        () => ({ type: "grammar", ebnf: `root ::= ${text()}` }),
        () => ({ type: "regex", pattern: text() }),
        () => ({ type: "json-schema", schema: schema(0) as JsonSchema }),
      ])();
      await ask(format, i, 20).then(
        () => outcomes.followed++,
        (error: unknown) => {
          expect(error, JSON.stringify(format)).toMatchObject({ code: "INVALID_ARGUMENT" });
          outcomes.refused++;
        },
      );
    }
    expect(outcomes.followed).toBeGreaterThan(2);
    expect(outcomes.refused).toBeGreaterThan(2);
  });
});

function circle(): Record<string, unknown> {
  const schema: Record<string, unknown> = {};
  schema.items = schema;
  return schema;
}
