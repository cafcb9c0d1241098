/**
 * First come, first served, with chunked prefill (Sarathi-Serve, arXiv 2403.02310): every running answer gets its
 * next token in every step, and what room is left is filled with prompt chunks in order of arrival, so that all of
 * it rides in one ragged batch.
 *
 * Fair by arrival: a request is admitted only when everything that came before it has been, and only when the cache
 * can hold the most it will ever need; so nothing that runs can run out of pages, nothing is preempted, and a large
 * request at the head of the line is not overtaken for ever by small ones. Residents, who need nothing that it waits for,
 * pass it by.
 */
import type { Limits, Plan, Queue, RunningRequest, Scheduler, Work } from "./contract.js";

type Chunked = Pick<RunningRequest, "id" | "pending" | "chunk" | "outputs">;

export const firstCome: Scheduler = {
  name: "first-come",

  plan({ waiting, running, limits, freePages }: Queue): Plan {
    const work: Work[] = [];
    let tokens = limits.maxTokens;
    let outputs = limits.maxOutputs;

    for (const { id, phase, pending } of running) {
      if (phase !== "decode" || pending === 0 || tokens === 0 || outputs === 0) continue;
      work.push({ id, tokens: 1, outputs: 1 });
      tokens -= 1;
      outputs -= 1;
    }
    if (work.length > 0) tokens = Math.min(tokens, limits.maxTokensBesideDecode);

    const prefill = ({ id, pending, chunk, outputs: wanted }: Chunked) => {
      let count = Math.min(pending, chunk, tokens);
      // A chunk is as long as the rows of logits that it must give allow.
      if (wanted === "all") count = Math.min(count, outputs);
      else if (wanted === "last" && count === pending && outputs === 0) count -= 1;
      if (count <= 0) return;
      const rows = wanted === "all" ? count : wanted === "last" && count === pending ? 1 : 0;
      work.push({ id, tokens: count, outputs: rows });
      tokens -= count;
      outputs -= rows;
    };

    for (const request of running) {
      if (request.phase === "prefill") prefill(request);
    }

    const admit: number[] = [];
    let pages = freePages;
    let places = limits.maxSequences - running.filter(({ resident }) => !resident).length;
    let rows = mostRunning(limits) - running.length;
    let isBlocked = false;
    for (const request of waiting) {
      if (rows <= 0 || tokens === 0) break;
      if (!request.resident) {
        isBlocked ||= places <= 0 || request.pages > pages;
        if (isBlocked) continue;
        places -= 1;
        pages -= request.pages;
      }
      rows -= 1;
      admit.push(request.id);
      prefill(request);
    }
    return { admit, work };
  },
};

/** Most that run at once, residents included: a step has rows for all to decode, and room for a prompt beside them. */
const mostRunning = ({ maxTokens, maxOutputs, maxSequences }: Limits): number =>
  Math.max(maxSequences, Math.min(maxOutputs, Math.floor((3 * maxTokens) / 4)));
