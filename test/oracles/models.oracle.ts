/**
 * Asks llama.cpp (through node-llama-cpp, `npm --prefix bench install`) what the tiny models say, and writes it to
 * test/fixtures/models/. Run by hand: npx vitest run --config test/oracles/vitest.config.ts models
 */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ModelFixture } from "../support/model-fixtures.js";
import { logSoftmax } from "../support/run-tape.js";
import { TINY_NAMES, TINY_SEED, tinyModel, tinyPrompt, writeTinyGguf } from "../support/tiny-models.js";

/** The part of node-llama-cpp that is asked. */
interface Peer {
  getLlama(options: { gpu: false; build: "never" }): Promise<{
    loadModel(options: { modelPath: string }): Promise<{
      createContext(options: Record<string, unknown>): Promise<PeerContext>;
      dispose(): Promise<void>;
    }>;
    dispose(): Promise<void>;
  }>;
}

interface PeerContext {
  readonly contextSize: number;
  getSequence(): {
    controlledEvaluate(
      input: [token: number, options: { generateNext: { logits: true } }][],
    ): Promise<({ next: { logits?: Map<number, number> } } | undefined)[]>;
  };
}

const CONTEXT = 256;
const PROMPT = 40;
const GENERATED = 24;
const TOP = 4;
/** Greedy choices must be clear: a nearer runner-up means that a recipe needs another seed or scale. */
const MARGIN = 0.015;

/** Models that llama.cpp runs without something that their file asks for: it knows no window for "llama". */
const SKIPPED = new Set<string>(["mistral"]);

describe("llama.cpp on tiny models", () => {
  const output = resolve(import.meta.dirname, "../fixtures/models");
  let folder = "";
  let llama: Awaited<ReturnType<Peer["getLlama"]>>;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-oracle-"));
    await mkdir(output, { recursive: true });
    const entry = resolve(import.meta.dirname, "../../bench/node_modules/node-llama-cpp/dist/index.js");
    const peer = (await import(pathToFileURL(entry).href)) as Peer;
    llama = await peer.getLlama({ gpu: false, build: "never" });
  });

  afterAll(async () => {
    await llama.dispose();
    await rm(folder, { recursive: true });
  });

  it.for(TINY_NAMES.filter((name) => !SKIPPED.has(name)))("%s", async (name) => {
    const modelPath = await writeTinyGguf(tinyModel(name), folder);
    const model = await llama.loadModel({ modelPath });
    const context = await model.createContext({
      contextSize: CONTEXT,
      threads: 1,
      flashAttention: false,
      experimentalKvCacheKeyType: "F32",
      experimentalKvCacheValueType: "F32",
    });
    expect(context.contextSize).toBe(CONTEXT);
    const sequence = context.getSequence();
    const evaluate = async (tokens: readonly number[]): Promise<Float32Array[]> => {
      const out = await sequence.controlledEvaluate(
        tokens.map((token) => [token, { generateNext: { logits: true } }]),
      );
      return out.map((item) => {
        const logits = item?.next.logits ?? new Map<number, number>();
        return Float32Array.from({ length: logits.size }, (_, id) => logits.get(id) ?? Number.NaN);
      });
    };

    const prompt = tinyPrompt(PROMPT);
    const steps = await evaluate(prompt);
    const predicted = steps.map((logits) => ranked(logits)[0]!.id);
    const greedy: number[] = [];
    const top: [number, number][][] = [];
    let margin = Number.POSITIVE_INFINITY;
    for (let logits = steps.at(-1)!; ; logits = (await evaluate(greedy.slice(-1)))[0]!) {
      const best = ranked(logits).slice(0, TOP);
      margin = Math.min(margin, best[0]!.logprob - best[1]!.logprob);
      top.push(best.map(({ id, logprob }) => [id, Number(logprob.toFixed(5))]));
      greedy.push(best[0]!.id);
      if (greedy.length === GENERATED) break;
    }
    console.log(name, "margin", margin.toFixed(4), "distinct", new Set(greedy).size, greedy.join(" "));
    const fixture: ModelFixture = { seed: TINY_SEED, context: CONTEXT, prompt, predicted, greedy, top };
    await writeFile(join(output, `${name}.json`), `${JSON.stringify(fixture)}\n`);
    await model.dispose();
    expect(margin).toBeGreaterThan(MARGIN);
  });
});

function ranked(logits: Float32Array): { id: number; logprob: number }[] {
  return Array.from(logSoftmax(logits), (logprob, id) => ({ id, logprob })).sort(
    (a, b) => b.logprob - a.logprob,
  );
}
