/**
 * Which kv heads retrieve: measured on the model itself over a repeated random text, as RazorAttention (arXiv
 * 2407.15891) does.
 */
import type { Backend, LoadedWeights } from "../backends/contract.js";
import { type CachePolicy, NOTHING } from "../cache/contract.js";
import { pagesFor, planLayout } from "../cache/layout.js";
import type { HeadScores } from "../cache/policies/split.js";
import { KvPool } from "../cache/pool.js";
import { Rotations } from "../cache/rotations.js";
import { SequenceCache } from "../cache/sequence.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { buildTape, resolveArchitecture } from "../models/resolve.js";
import { createRandom } from "../sampling/random.js";
import type { Tape } from "../tape/tape.js";
import { readHeads, storeHeads } from "./heads-file.js";

const COPIES = 4;
/** Length of the random text where the model's context takes it four times; the paper's is 2500. */
const MOST_TOKENS = 512;
/** Queries of the last copy that are looked at. */
const QUERIES = 64;
const STEP = 128;

/**
 * Runs a random text four times over and adds up, for queries of the last copy, the attention to earlier copies of
 * their own token (echo) and to the tokens after those (induction). Scores lie between 0 and 1; query heads that share
 * a kv head count by their mean. `context` is what the model was trained for.
 */
export async function measureHeads(
  backend: Backend,
  tape: Tape,
  weights: LoadedWeights,
  context: number,
): Promise<HeadScores> {
  const length = Math.max(2, Math.min(MOST_TOKENS, Math.floor(context / COPIES)));
  const total = COPIES * length;
  const layout = planLayout({ kv: tape.kv, policy: watch(total), codec: "f16", step: Math.min(STEP, total) });
  const budgetBytes = pagesFor(layout, total) * layout.pageBytes;
  const pool = new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes });
  const program = await backend.compile(tape, weights, { maxTokens: layout.step, maxOutputs: 1, kv: layout });
  const cache = new SequenceCache(pool, layout);
  const rotations = new Rotations();
  const random = createRandom(0);
  const text = Int32Array.from({ length }, () => Math.floor(random.next() * tape.logits.width));
  const scores = { echo: zeros(tape), induction: zeros(tape) };

  /** Runs tokens up to `end`; only the last step's mass stays. */
  const runTo = async (end: number) => {
    while (cache.length < end) {
      const first = cache.length;
      const count = Math.min(layout.step, end - first);
      const positions = Int32Array.from({ length: count }, (_, i) => first + i);
      rotations.clear();
      const { slots, views } = cache.prepare(positions, rotations);
      for (const { mass, lanes, numPages, pageTokens } of views) {
        mass?.region.float32(0, lanes * numPages * pageTokens).fill(0);
      }
      await program.run({
        tokens: positions.map((position) => text[position % length]!),
        positions,
        outputs: Int32Array.of(count - 1),
        spans: [{ start: 0, count, views }],
        slots,
        rotations: rotations.values(),
        arena: pool.arena,
      });
    }
  };

  /** Adds what the query at the last position gave to the scores. */
  const add = (share: number) => {
    const query = cache.length - 1;
    for (const [g, { region, positionsAt, numPages, pageTokens, mass }] of cache.views.entries()) {
      const slots = numPages * pageTokens;
      const positions = region.int32(positionsAt, slots);
      for (const [lane, { layer, head }] of layout.groups[g]!.lanes.entries()) {
        const received = mass!.region.float32(4 * lane * slots, slots);
        for (let slot = 0; slot < slots; slot++) {
          const back = query - positions[slot]!;
          if (positions[slot]! < 0 || back === 0) continue;
          if (back % length === 0) scores.echo[layer]![head]! += share * received[slot]!;
          if ((back + 1) % length === 0) scores.induction[layer]![head]! += share * received[slot]!;
        }
      }
    }
  };

  try {
    const queries = Math.min(QUERIES, length);
    for (let i = 0; i < queries; i++) {
      const query = (COPIES - 1) * length + Math.floor((i * length) / queries);
      await runTo(query);
      await runTo(query + 1);
      add(1 / queries);
    }
  } finally {
    cache.dispose();
    program.dispose();
    pool.dispose();
  }
  for (const op of tape.ops) {
    if (op.op !== "attention") continue;
    const { layer, numHeads } = op;
    const perKvHead = numHeads / tape.kv[layer]!.numKvHeads;
    for (const each of [scores.echo, scores.induction]) each[layer] = each[layer]!.map((x) => x / perKvHead);
  }
  return scores;
}

/** Keeps every token, and the attention that each received. */
const watch = (tokens: number): CachePolicy => ({
  id: "watch",
  mass: {},
  capacity: (demand) => Math.min(tokens, demand.tokens),
  plan: () => NOTHING,
});

const zeros = (tape: Tape): number[][] =>
  tape.kv.map(({ numKvHeads }) => new Array<number>(numKvHeads).fill(0));

/** Loads a checkpoint on `backend`, measures its heads and stores the scores; says in which file. */
export async function measureStoredHeads(
  checkpoint: Checkpoint,
  backend: Backend,
): Promise<{ readonly scores: HeadScores; readonly path: string }> {
  const trained = (await resolveArchitecture(checkpoint).configure(checkpoint, {})).contextLength;
  const context = Math.min(trained, COPIES * MOST_TOKENS);
  const { tape } = await buildTape(checkpoint, { context });
  const weights = await backend.load(tape, checkpoint);
  try {
    const scores = await measureHeads(backend, tape, weights, context);
    return { scores, path: await storeHeads(checkpoint, { scores }) };
  } finally {
    weights.dispose();
  }
}

/** Sees to it that the checkpoint's scores are stored; measures them where they are not. */
export async function needHeadScores(checkpoint: Checkpoint, backend: Backend): Promise<void> {
  const { tape } = await buildTape(checkpoint);
  const { scores } = await readHeads(checkpoint, tape);
  if (!scores) await measureStoredHeads(checkpoint, backend);
}
