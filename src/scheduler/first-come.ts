/**
 * First come, first served, with chunked prefill (Sarathi-Serve, arXiv 2403.02310): every running answer gets its
 * next token in every step, and what room is left is filled with prompt chunks in order of arrival, so that all of
 * it rides in one ragged batch.
 *
 * Fair by arrival: a request is admitted only when everything that came before it has been, and only when the cache
 * can hold the most it will ever need; so nothing that runs can run out of pages, nothing is preempted, and a large
 * request at the head of the line is not overtaken for ever by small ones.
 */
import type { Plan, Queue, RunningRequest, Scheduler, Work } from "./contract.js";

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
    for (const request of waiting) {
      if (running.length + admit.length >= limits.maxSequences || request.pages > pages || tokens === 0)
        break;
      admit.push(request.id);
      pages -= request.pages;
      prefill(request);
    }
    return { admit, work };
  },
};
