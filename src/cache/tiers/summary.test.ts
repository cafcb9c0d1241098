import { afterAll, describe, expect, it } from "vitest";
import { TinyHost } from "../../../test/support/cache-runner.js";
import { TestRandom } from "../../../test/support/random.js";
import { Folders, openRecall, SETTINGS } from "../../../test/support/recall.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import { codecs } from "../codecs/index.js";
import { pagesFor, planLayout } from "../layout.js";
import { sinks } from "../policies/sinks.js";
import { Rotations } from "../rotations.js";
import { SequenceCache } from "../sequence.js";
import { Probe, probeLimits, probePages } from "./probe.js";
import { recallPages } from "./recall-settings.js";
import { blockBytes, Summarizer, type Summary } from "./summary.js";

const folders = new Folders();
afterAll(() => folders.remove());

const WIDTH = 8;
const GROUP = { codec: "f32", pageTokens: 16, headWidth: WIDTH, lanes: [{ layer: 0, head: 0 }] } as const;

function pageOf(keys: readonly Float32Array[]): Uint8Array {
  const page = new Uint8Array(blockBytes(GROUP));
  for (const [slot, key] of keys.entries()) codecs.f32.store(page, slot, key, new Float32Array(WIDTH));
  return page;
}

const vectorsOf = ({ steps, bytes }: Summary): number[][] =>
  Array.from(steps, (step, v) =>
    Array.from(bytes.subarray(v * WIDTH, (v + 1) * WIDTH), (byte) => byte * step),
  );

describe("Summarizer", () => {
  it("gives the mean of all keys, or of each of the parts that they fall into", () => {
    const random = new TestRandom(1);
    const centers = [0, 1, 2].map(() => random.floats(WIDTH, 10));
    const keys = Array.from({ length: 15 }, (_, i) =>
      random.floats(WIDTH, 0.1).map((x, d) => x + centers[i % 3]![d]!),
    );
    const meanOf = (some: readonly Float32Array[]) =>
      Array.from({ length: WIDTH }, (_, d) => some.reduce((sum, key) => sum + key[d]!, 0) / some.length);
    const positions = Int32Array.from(keys.keys());
    const near = (got: readonly number[], want: readonly number[]) =>
      want.every((x, d) => Math.abs(x - got[d]!) <= Math.max(...want.map(Math.abs)) / 250);
    const [one] = vectorsOf(new Summarizer(GROUP, [null], 1).of(pageOf(keys), positions));
    expect(near(one!, meanOf(keys))).toBe(true);
    const three = vectorsOf(new Summarizer(GROUP, [null], 3).of(pageOf(keys), positions));
    for (const part of [0, 1, 2]) {
      const want = meanOf(keys.filter((_, i) => i % 3 === part));
      expect(three.filter((got) => near(got, want))).toHaveLength(1);
    }
    // Fewer keys than parts: the last part stands twice.
    const few = vectorsOf(
      new Summarizer(GROUP, [null], 3).of(pageOf(keys.slice(0, 2)), positions.subarray(0, 2)),
    );
    expect(few[1]).toEqual(few[2]);
  });

  it("parts anew what two summaries hold when they are put together", () => {
    const summarizer = new Summarizer(GROUP, [null], 2);
    const unit = (d: number, size: number) =>
      Float32Array.from({ length: WIDTH }, (_, i) => (i === d ? size : 0));
    const copyOf = ({ steps, bytes }: Summary) => ({ steps: steps.slice(), bytes: bytes.slice() });
    const positions = Int32Array.of(0, 1);
    const a = copyOf(summarizer.of(pageOf([unit(0, 10), unit(1, 8)]), positions));
    const b = copyOf(summarizer.of(pageOf([unit(0, 12), unit(1, 6)]), positions));
    summarizer.merge(a, b, a);
    const vectors = vectorsOf(a).sort((x, y) => y[0]! - x[0]!);
    expect(vectors[0]![0]).toBeCloseTo(11, 1);
    expect(vectors[1]![1]).toBeCloseTo(7, 1);
  });
});

describe.each(["llama", "qwen3"] as const)("keys and queries of %s, turned back", (model) => {
  it("do not depend on where in the stream their tokens stand", async () => {
    const backend = createReference();
    const host = await TinyHost.open(model, backend);
    const { tape } = host;
    const layout = planLayout({
      kv: tape.kv,
      policy: sinks({ window: 32 }),
      codec: "f32",
      step: 16,
      pageTokens: 16,
    });
    const pages =
      pagesFor(layout, Number.POSITIVE_INFINITY) +
      recallPages(tape, layout, SETTINGS.tokens) +
      probePages(layout);
    const { pool } = await host.runner(layout, pages);
    const program = await backend.compile(tape, host.weights, probeLimits(tape, layout));
    const probe = new Probe(program, tape, pool, layout);
    const question = Int32Array.from(tinyPrompt(12, 5));
    const ask = async (position: number) => {
      const cache = new SequenceCache(pool, layout);
      cache.prepare(Int32Array.of(position - 1), new Rotations());
      const used = pool.usage().used;
      const queries = await probe.ask(cache, question);
      expect(pool.usage().used).toBe(used);
      const each = await probe.ask(cache, question, { each: true });
      cache.dispose();
      // What a first layer asks for follows from its token alone.
      return tape.kv[0]!.numKvHeads === 2 ? [queries(0, 0), queries(0, 1), each(0, 1)] : [];
    };
    const [early, late] = [await ask(1), await ask(1_000_000)];
    expect(early).toHaveLength(3);
    for (const [i, vector] of early.entries()) {
      for (const [d, x] of vector.entries()) expect(Math.abs(x - late[i]![d]!)).toBeLessThan(2e-3 * 12);
    }
    // The mean (here a sum over tokens alike) of what each asks for is what all ask for.
    const width = layout.groups[0]!.headWidth;
    for (let d = 0; d < width; d++) {
      let sum = 0;
      for (let t = 0; t < question.length; t++) sum += early[2]![t * width + d]!;
      expect(sum).toBeCloseTo(early[1]![d]!, 3);
    }
    probe.dispose();
    program.dispose();
  });
});

it("leaves the cache that a question is asked beside as it is", async () => {
  const backend = createReference();
  const host = await TinyHost.open("llama", backend);
  const { tape } = host;
  const layout = planLayout({
    kv: tape.kv,
    policy: sinks({ window: 32 }),
    codec: "f16",
    step: 16,
    pageTokens: 16,
  });
  const pages =
    2 * pagesFor(layout, Number.POSITIVE_INFINITY) +
    2 * recallPages(tape, layout, SETTINGS.tokens) +
    probePages(layout);
  const runner = await host.runner(layout, pages);
  const parts = { pool: runner.pool, layout, tape };
  const program = await backend.compile(tape, host.weights, probeLimits(tape, layout));
  const probe = new Probe(program, tape, runner.pool, layout);
  const prompt = tinyPrompt(150);
  const logits: Float32Array[][] = [];
  for (const asks of [false, true]) {
    const { cache, recall } = await openRecall(parts, folders.fresh(), { by: "both" });
    const afterStep = (part: readonly number[]) => {
      const first = cache.nextPosition - part.length;
      recall.saw(
        Int32Array.from(part, (_, i) => first + i),
        part,
      );
    };
    await runner.run(cache, prompt.slice(0, 130), { afterStep });
    const ids = Int32Array.from(prompt.slice(60, 70));
    const queries = await probe.ask(cache, ids);
    const { tokens } = await recall.recall({ ids, queries });
    expect(tokens).toBeGreaterThan(SETTINGS.tokens / 2);
    if (asks) await probe.ask(cache, ids);
    logits.push(await runner.run(cache, prompt.slice(130), { afterStep }));
  }
  expect(logits[1]).toEqual(logits[0]);
});
