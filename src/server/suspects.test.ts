import { expect, it } from "vitest";
import type { BatchAnswer } from "../batch/journal.js";
import type { BatchRequest } from "../batch/lines.js";
import { MillraceError } from "../index.js";
import { Suspects } from "./suspects.js";

const request = (custom_id: string): BatchRequest => ({
  custom_id,
  method: "POST",
  url: "/v1/completions",
  body: {},
});
const fine: BatchAnswer = { response: { status_code: 200, request_id: "r", body: null }, error: null };

it("a request that crashes the engine each time is found, and no other answered for it", async () => {
  const suspects = new Suspects();
  let crashes = 0;
  /** Of the engine that runs now. */
  let crash = new AbortController();
  let [underWay, most] = [0, 0];
  const answerer = suspects.watch(
    {
      measure: async () => ({ tokens: [], answerTokens: 1 }),
      answer: async ({ custom_id }) => {
        const { signal } = crash;
        most = Math.max(most, ++underWay);
        for (let turn = 0; turn < 3; turn++) await null;
        underWay--;
        if (custom_id === "poison" && !signal.aborted) {
          crashes++;
          crash.abort();
          crash = new AbortController();
        }
        if (signal.aborted) throw new MillraceError("WORKER_CRASHED", "gone");
        return fine;
      },
    },
    () => crashes,
  );
  const signal = new AbortController().signal;
  let left = ["a", "poison", "b", "c"];
  const answers = new Map<string, BatchAnswer>();
  const rounds: string[][] = [];
  while (left.length > 0 && rounds.length < 10) {
    rounds.push([...left]);
    most = 0;
    const asked = await Promise.allSettled(left.map((id) => answerer.answer(request(id), signal)));
    asked.forEach((one, i) => {
      if (one.status === "fulfilled") answers.set(rounds.at(-1)![i]!, one.value);
    });
    left = left.filter((id) => !answers.has(id));
    if (rounds.length === 2) expect(most).toBe(1);
  }
  expect(crashes).toBe(3);
  expect(rounds.slice(1)).toEqual([["poison", "b", "c"], ["poison"]]);
  expect(answers.get("poison")).toMatchObject({ response: null, error: { code: "engine_crashed" } });
  for (const id of ["a", "b", "c"]) expect(answers.get(id)).toEqual(fine);
});

it("who finds the engine gone is no suspect", async () => {
  const suspects = new Suspects();
  const gone = suspects.watch(
    {
      measure: async () => ({ tokens: [], answerTokens: 1 }),
      answer: () => Promise.reject(new MillraceError("WORKER_CRASHED", "gone")),
    },
    () => 1,
  );
  for (let i = 0; i < 10; i++) {
    await expect(gone.answer(request("a"), new AbortController().signal)).rejects.toMatchObject({
      code: "WORKER_CRASHED",
    });
  }
});
