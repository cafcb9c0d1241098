// Driver of node-llama-cpp for `millrace bench --against node-llama-cpp`: loads a model, runs sequences at once, and
// reports when each token arrived. Speaks the messages of src/cli/bench/peer.ts over the process's IPC channel.
import { getLlama } from "node-llama-cpp";

let sequences = [];

async function openModel({ path, threads, contextSize, sequences: count }) {
  const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error" });
  const model = await llama.loadModel({ modelPath: path });
  const context = await model.createContext({
    contextSize,
    sequences: count,
    batchSize: 512,
    threads: { ideal: threads, min: threads },
  });
  sequences = Array.from({ length: count }, () => context.getSequence());
  return `node-llama-cpp, ${threads} threads, flash attention ${context.flashAttention}`;
}

async function runWork({ prompts, generate }) {
  for (const sequence of sequences) await sequence.clearHistory();
  const start = performance.now();
  const times = await Promise.all(
    prompts.map(async (prompt, at) => {
      const arrived = [];
      for await (const _ of sequences[at].evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
        arrived.push(performance.now() - start);
        if (arrived.length === generate) break;
      }
      return arrived;
    }),
  );
  return { times };
}

process.on("message", async (message) => {
  try {
    if (message.type === "open") {
      process.send({ type: "ready", description: await openModel(message.options) });
    } else {
      process.send({ type: "arrivals", arrivals: await runWork(message.work) });
    }
  } catch (error) {
    process.send({ type: "failed", message: String(error?.stack ?? error) });
  }
});
process.on("disconnect", () => process.exit(0));
