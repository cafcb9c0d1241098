// Driver of node-llama-cpp for `millrace bench … --against node-llama-cpp`: loads a model, runs sequences at once, and
// reports when each token arrived. Speaks the messages of src/bench/peer.ts over the process's IPC channel.
import { getLlama } from "node-llama-cpp";

const OPTIONS = { temperature: 0, yieldEogToken: true };

/**
 * How long, in milliseconds, the peer gathers sequences for a batch after the first of them is ready; it never waits when
 * all are. Its own default is not to wait: 0. Since each of its sequences samples by itself, that can cut the batch of many
 * into several, so whichever of these is fastest here is taken.
 */
const GATHERING = [0, 2, 10, 40];

let sequences = [];
let gathering = 0;

async function openModel({ path, threads, contextSize, sequences: count }) {
  const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error" });
  const model = await llama.loadModel({ modelPath: path });
  const context = await model.createContext({
    contextSize,
    sequences: count,
    batchSize: 512,
    threads: { ideal: threads, min: threads },
    batching: {
      dispatchSchedule: (dispatch) =>
        gathering === 0 ? setImmediate(dispatch) : setTimeout(dispatch, gathering),
    },
  });
  sequences = Array.from({ length: count }, () => context.getSequence());
  if (count > 1) gathering = await fastestGathering();
  const gathers = count > 1 ? `, gathers batches for ${gathering} ms` : "";
  return `node-llama-cpp, ${threads} threads, flash attention ${context.flashAttention}${gathers}`;
}

async function fastestGathering() {
  const prompts = sequences.map((_, at) => Array.from({ length: 8 }, (_, i) => 300 + at * 8 + i));
  let best = { gathering: 0, ms: Number.POSITIVE_INFINITY };
  await runWork({ prompts, generate: 4 });
  for (const each of GATHERING) {
    gathering = each;
    const { times } = await runWork({ prompts, generate: 12 });
    const ms = Math.max(...times.map((t) => t.at(-1))) - Math.max(...times.map((t) => t[0]));
    if (ms < best.ms) best = { gathering: each, ms };
  }
  return best.gathering;
}

async function runWork({ prompts, generate }) {
  for (const sequence of sequences) await sequence.clearHistory();
  const start = performance.now();
  const times = await Promise.all(
    prompts.map(async (prompt, at) => {
      const arrived = [];
      for await (const _ of sequences[at].evaluate(prompt, OPTIONS)) {
        arrived.push(performance.now() - start);
        if (arrived.length === generate) break;
      }
      return arrived;
    }),
  );
  return { times };
}

/** As `stallOf` of src/bench/stall.ts. */
async function runStall({ prompts, late, settle, most }) {
  for (const sequence of sequences) await sequence.clearHistory();
  const start = performance.now();
  const times = prompts.map(() => []);
  let done = false;
  let settled = () => {};
  const waitFor = (counts) =>
    new Promise((resolve) => {
      settled = () => times.every((each, i) => each.length >= counts[i]) && resolve();
      settled();
    });
  const streams = prompts.map(async (prompt, at) => {
    for await (const _ of sequences[at].evaluate(prompt, OPTIONS)) {
      times[at].push(performance.now() - start);
      settled();
      if (done) return;
      if (times[at].length === most) throw new Error(`a stream had all of its ${most} tokens too early`);
    }
  });
  const measured = async () => {
    await waitFor(prompts.map(() => settle));
    const cameAt = performance.now() - start;
    for await (const _ of sequences[prompts.length].evaluate(late, OPTIONS)) break;
    const firstAt = performance.now() - start;
    await waitFor(times.map((each) => each.length + settle));
    return { times: times.map((each) => [...each]), cameAt, firstAt };
  };
  const failed = new Promise((_, reject) => {
    for (const stream of streams) stream.catch(reject);
  });
  try {
    return await Promise.race([measured(), failed]);
  } finally {
    done = true;
    await Promise.allSettled(streams);
  }
}

async function answer({ type, options, work }) {
  if (type === "open") return { type: "ready", description: await openModel(options) };
  if (type === "run") return { type: "arrivals", arrivals: await runWork(work) };
  return { type: "stalled", arrivals: await runStall(work) };
}

process.on("message", async (message) => {
  try {
    process.send(await answer(message));
  } catch (error) {
    process.send({ type: "failed", message: String(error?.stack ?? error) });
  }
});
process.on("disconnect", () => process.exit(0));
