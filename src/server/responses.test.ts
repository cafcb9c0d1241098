import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";

describe("/v1/responses, by the official client", () => {
  let model: Model;
  let client: OpenAI;
  beforeAll(async () => {
    model = await openNull();
    const { app } = serverOf({ tiny: model });
    client = new OpenAI({
      apiKey: "none",
      baseURL: "http://localhost/v1",
      maxRetries: 0,
      fetch: async (url, init) => app.request(String(url), init as RequestInit),
    });
  });
  afterAll(() => model.close());

  const request = {
    model: "tiny",
    instructions: "Be kind.",
    max_output_tokens: 8,
    temperature: 0,
    ...{ ignore_eos: true },
  };
  const input = "the rest";

  it("answers as chat does", async () => {
    const chat = await client.chat.completions.create({
      model: "tiny",
      messages: [
        { role: "system", content: "Be kind." },
        { role: "user", content: input },
      ],
      max_tokens: 8,
      temperature: 0,
      ...{ ignore_eos: true },
    });
    const answer = await client.responses.create({ ...request, input });
    expect(answer.output_text).toBe(chat.choices[0]!.message.content);
    expect(answer).toMatchObject({
      status: "incomplete",
      incomplete_details: { reason: "max_output_tokens" },
      usage: { output_tokens: 8, input_tokens: chat.usage!.prompt_tokens },
    });
  });

  it("streams the same, event by event", async () => {
    const whole = await client.responses.create({ ...request, input });
    let text = "";
    const types: string[] = [];
    const numbers: number[] = [];
    for await (const event of await client.responses.create({ ...request, input, stream: true })) {
      if (types.at(-1) !== event.type) types.push(event.type);
      numbers.push(event.sequence_number);
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    expect(text).toBe(whole.output_text);
    expect(types).toEqual([
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.delta",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.incomplete",
    ]);
    expect(numbers).toEqual(numbers.map((_, i) => i));
  });

  it("takes a conversation with calls in it", async () => {
    const answer = await client.responses.create({
      ...request,
      input: [
        { role: "user", content: [{ type: "input_text", text: "the rest" }] },
        { type: "function_call", call_id: "c", name: "find", arguments: "{}" },
        { type: "function_call_output", call_id: "c", output: "here" },
      ],
    });
    expect(answer.output_text).not.toBe("");
  });

  it("refuses what it does not do", async () => {
    await expect(
      client.responses.create({ ...request, input, previous_response_id: "resp_1" }),
    ).rejects.toMatchObject({
      status: 400,
      code: "unsupported_parameter",
      param: "previous_response_id",
    });
    await expect(client.responses.create({ ...request, input: [] })).rejects.toMatchObject({ status: 400 });
  });
});
