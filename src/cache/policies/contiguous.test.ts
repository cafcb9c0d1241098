import { describe, expect, it } from "vitest";
import { difference, TinyHost } from "../../../test/support/cache-runner.js";
import { viewOf } from "../../../test/support/lane-view.js";
import { TestRandom } from "../../../test/support/random.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createNull } from "../../backends/null.js";
import { createReference } from "../../backends/reference/index.js";
import type { KvLayer } from "../../tape/tape.js";
import type { CodecName } from "../codecs/contract.js";
import { codecs } from "../codecs/index.js";
import type { CachePolicy } from "../contract.js";
import { pagesFor, planLayout } from "../layout.js";
import { KvPool } from "../pool.js";
import { Rotations } from "../rotations.js";
import { byScore } from "../score.js";
import { SequenceCache } from "../sequence.js";
import { Draft } from "../tiers/blocks.js";
import { contiguous } from "./contiguous.js";
import { h2o } from "./h2o.js";
import { lacache } from "./lacache.js";

const TOKENS = 32;
const BLOCK = 8;
const WIDTH = 16;

/** Lets tokens go whose positions' hashes are least, the newest block never: which those are is anybody's guess. */
const scattered = (): CachePolicy =>
  byScore({
    id: "scattered",
    tokens: TOKENS,
    block: BLOCK,
    score: (view) =>
      Float32Array.from(view.positions, (p) =>
        view.nextPosition - p <= BLOCK ? 2 : ((p * 2654435761) >>> 0) / 2 ** 32,
      ),
  });

const frequencies = Float64Array.from({ length: WIDTH / 2 }, (_, i) => 0.7 ** i);
const KV: KvLayer = {
  layer: 0,
  numKvHeads: 2,
  headWidth: WIDTH,
  window: null,
  rope: { id: 0, frequencies, magnitude: 1, style: "half" },
};

/** A key as it is stored for a token at `position`. */
function rotated(key: Float32Array, position: number): Float32Array {
  const out = key.slice();
  for (const [i, frequency] of frequencies.entries()) {
    const [a, b] = [key[i]!, key[i + WIDTH / 2]!];
    const [cos, sin] = [Math.cos(position * frequency), Math.sin(position * frequency)];
    out[i] = a * cos - b * sin;
    out[i + WIDTH / 2] = a * sin + b * cos;
  }
  return out;
}

/** Largest error of any key at the end of a stream of `length` tokens, and that every token stood where it should. */
function stream(codec: CodecName, length: number): number {
  const layout = planLayout({
    kv: [KV],
    policy: contiguous(scattered(), BLOCK),
    codec,
    step: 8,
    pageTokens: 16,
  });
  const numPages = pagesFor(layout, Number.POSITIVE_INFINITY);
  const pool = new KvPool(createNull(), {
    pageBytes: layout.pageBytes,
    budgetBytes: numPages * layout.pageBytes,
  });
  const cache = new SequenceCache(pool, layout);
  const random = new TestRandom(3);
  const keys = new Map<number, Float32Array>();
  const rotations = new Rotations();
  const value = new Float32Array(WIDTH);
  const page = (slot: number, lane: number) => {
    const view = cache.views[0]!;
    const ids = view.region.int32(view.pageIdsAt, view.numPages * 2);
    return pool.arena.bytes(ids[Math.floor(slot / 16) * 2 + lane]! * pool.pageBytes, pool.pageBytes);
  };
  let worst = 0;
  for (let at = 0; at < length; at++) {
    rotations.clear();
    const { slots } = cache.prepare(Int32Array.of(at), rotations);
    const slot = slots[0]![0]!;
    keys.set(at, random.floats(WIDTH));
    for (const lane of [0, 1])
      codecs[codec].store(page(slot, lane), slot % 16, rotated(keys.get(at)!, at), value);
    if (at < length - BLOCK && at % 97 !== 0) continue;
    const view = cache.views[0]!;
    const positions = view.region.int32(view.positionsAt, view.numPages * 16);
    const rows = view.region.int32(view.rotationsAt, view.numPages);
    const held = [...positions.keys()].filter((s) => positions[s]! >= 0);
    held.sort((a, b) => positions[a]! - positions[b]!);
    for (const [i, s] of held.entries()) {
      // One after another, the newest being the query itself.
      const stands = at - held.length + 1 + i;
      const row = rows[Math.floor(s / 16)]!;
      const want = rotated(keys.get(positions[s]!)!, stands + (row < 0 ? 0 : rotations.values()[row]!));
      const got = new Float32Array(WIDTH);
      for (const lane of [0, 1]) {
        codecs[codec].load(page(s, lane), s % 16, got, value);
        for (const [d, x] of got.entries()) worst = Math.max(worst, Math.abs(x - want[d]!));
      }
    }
  }
  expect(pool.usage().peak).toBeLessThanOrEqual(numPages);
  return worst;
}

describe("contiguous", () => {
  it("lets every key stand where its rank says, through thousands of tokens", () => {
    expect(stream("f32", 3000)).toBeLessThan(2e-5);
  });

  it("writes a key anew seldom enough for few bits, however long the stream", () => {
    // Elements are below 1: one rounding errs by up to 2^-12 and 1/254 of what stands in a key.
    expect(stream("f16", 3000)).toBeLessThan(8 * 2 ** -11);
    expect(stream("int8", 3000)).toBeLessThan(8 / 254);
  });

  it("gives tokens to the tier below with keys that stand where they stood in the stream", () => {
    const policy = contiguous(scattered(), BLOCK);
    const [group] = planLayout({ kv: [KV], policy, codec: "f32", step: 8, pageTokens: 16 }).groups;
    const draft = new Draft(group!);
    const page = new Uint8Array(codecs.f32.groupBytes(WIDTH));
    const [key, got, value] = [
      new TestRandom(1).floats(WIDTH),
      new Float32Array(WIDTH),
      new Float32Array(WIDTH),
    ];
    codecs.f32.store(page, 3, rotated(key, 40), value);
    draft.add([{ slot: 3, position: 50, count: 1, id: -1, moved: -10 }], () => page);
    for (const lane of [0, 1]) {
      codecs.f32.load(draft.pages.subarray((lane * draft.pages.length) / 2), 0, got, value);
      for (const [d, x] of got.entries()) expect(x).toBeCloseTo(rotated(key, 50)[d]!, 5);
    }
  });

  it("leaves what stays and what goes to the policy within", () => {
    const view = viewOf(Array.from({ length: TOKENS }, (_, i) => i));
    expect(contiguous(scattered(), BLOCK).plan(view)).toEqual([
      ...scattered().plan(view),
      { kind: "settle" },
    ]);
  });

  it("knows only differences of positions: a stream that begins elsewhere gives the same", async () => {
    const host = await TinyHost.open("llama", createReference());
    const policy = lacache({ tokens: 24 });
    const layout = planLayout({ kv: host.tape.kv, policy, codec: "f32", step: 16, pageTokens: 16 });
    const runner = await host.runner(layout, 2 * pagesFor(layout, Number.POSITIVE_INFINITY));
    const tokens = tinyPrompt(70);
    const want = await runner.run(runner.open(), tokens);
    expect(difference(await runner.run(runner.open(), tokens, { from: 1000 }), want)).toBeLessThan(2e-4);
  });

  it("is an option of policies that thin", () => {
    expect(h2o({ heavy: 24, recent: 8, positions: "contiguous" })).toMatchObject({
      id: "contiguous(h2o(heavy=24, recent=8, weigh=mean, per=head))",
      sinks: 30,
      settles: 2,
    });
    expect(() => h2o({ heavy: 24, recent: 8, positions: "moved" as "original" })).toThrow(
      /positions is "moved"; one of "original", "contiguous" is wanted/,
    );
  });
});
