/**
 * Which kv heads retrieve: measured on the model itself over a repeated random text, as RazorAttention (arXiv
 * 2407.15891) does.
 */
import type { Backend, LoadedWeights } from "../backends/contract.js";
import { codecs } from "../cache/codecs/index.js";
import type { Lane } from "../cache/contract.js";
import { pagesFor, planLayout } from "../cache/layout.js";
import { full } from "../cache/policies/full.js";
import type { HeadScores } from "../cache/policies/split.js";
import { KvPool } from "../cache/pool.js";
import { Rotations } from "../cache/rotations.js";
import { SequenceCache } from "../cache/sequence.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { buildTape, resolveArchitecture } from "../models/resolve.js";
import { createRandom } from "../sampling/random.js";
import type { Op, Tape } from "../tape/tape.js";
import { readHeads, storeHeads } from "./heads-file.js";

const COPIES = 4;
/** Length of the random text where the model's context takes it four times; the paper's is 2500. */
const MOST_TOKENS = 512;
/** Queries of the last copy that are looked at. */
const QUERIES = 64;
const STEP = 128;

/**
 * Runs a random text four times over and adds up, for queries of the last copy, the attention to earlier copies of
 * their own token (echo) and to the tokens after those (induction). Scores lie between 0 and 1: means over the queries,
 * and of the query heads that share a kv head the highest. `context` is what the model was trained for.
 */
export async function measureHeads(
  backend: Backend,
  tape: Tape,
  weights: LoadedWeights,
  context: number,
): Promise<HeadScores> {
  const length = Math.max(2, Math.min(MOST_TOKENS, Math.floor(context / COPIES)));
  const total = COPIES * length;
  const step = Math.min(STEP, total);
  const layout = planLayout({ kv: tape.kv, policy: full(), codec: "f16", step });
  const budgetBytes = pagesFor(layout, total) * layout.pageBytes;
  const pool = new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes });
  const attentions = tape.ops.filter((op) => op.op === "attention");
  const keepBuffers = attentions.map(({ q }) => q.id);
  const program = await backend.compile(tape, weights, {
    maxTokens: step,
    maxOutputs: 1,
    kv: layout,
    keepBuffers,
  });
  const cache = new SequenceCache(pool, layout);
  const rotations = new Rotations();
  const random = createRandom(0);
  const text = Int32Array.from({ length }, () => Math.floor(random.next() * tape.logits.width));
  const count = Math.min(QUERIES, length);
  const watched = Array.from({ length: count }, (_, i) => total - length + Math.floor((i * length) / count));
  /** By attention: what it asks at the watched positions, [H, D] each. */
  const queries = attentions.map((): Float32Array[] => []);
  try {
    while (cache.length < total) {
      const first = cache.length;
      const positions = Int32Array.from({ length: Math.min(step, total - first) }, (_, i) => first + i);
      rotations.clear();
      const { slots, views } = cache.prepare(positions, rotations);
      await program.run({
        tokens: positions.map((position) => text[position % length]!),
        positions,
        outputs: Int32Array.of(positions.length - 1),
        spans: [{ start: 0, count: positions.length, views }],
        slots,
        rotations: rotations.values(),
        arena: pool.arena,
      });
      for (const position of watched.filter((each) => each >= first && each < first + positions.length)) {
        for (const [i, { q }] of attentions.entries()) {
          const at = (position - first) * q.width;
          queries[i]!.push(program.read(q.id).slice(at, at + q.width));
        }
      }
    }
    const scores = { echo: zeros(tape), induction: zeros(tape) };
    for (const [i, op] of attentions.entries()) {
      const { numKvHeads, headWidth } = tape.kv[op.layer]!;
      const perKvHead = op.numHeads / numKvHeads;
      for (let head = 0; head < numKvHeads; head++) {
        const keys = keysOf(cache, pool, { layer: op.layer, head });
        for (let h = head * perKvHead; h < (head + 1) * perKvHead; h++) {
          let [echo, induction] = [0, 0];
          for (const [w, query] of watched.entries()) {
            const q = queries[i]![w]!.subarray(h * headWidth, (h + 1) * headWidth);
            const attended = attentionOf(op, query, q, keys);
            for (let back = length; back <= query; back += length) {
              echo += attended[query - back]! / count;
              induction += attended[query - back + 1]! / count;
            }
          }
          scores.echo[op.layer]![head] = Math.max(scores.echo[op.layer]![head]!, echo);
          scores.induction[op.layer]![head] = Math.max(scores.induction[op.layer]![head]!, induction);
        }
      }
    }
    return scores;
  } finally {
    cache.dispose();
    program.dispose();
    pool.dispose();
  }
}

/** Stored keys of a lane, by position. */
function keysOf(cache: SequenceCache, { arena, pageBytes }: KvPool, lane: Lane): Float32Array[] {
  const isHere = ({ layer, head }: Lane) => layer === lane.layer && head === lane.head;
  const group = cache.layout.groups.findIndex(({ lanes }) => lanes.some(isHere));
  const { headWidth, lanes, codec } = cache.layout.groups[group]!;
  const { region, pageIdsAt, positionsAt, numPages, pageTokens } = cache.views[group]!;
  const pages = region.int32(pageIdsAt, numPages * lanes.length);
  const value = new Float32Array(headWidth);
  const keys: Float32Array[] = [];
  for (const [slot, position] of region.int32(positionsAt, numPages * pageTokens).entries()) {
    if (position < 0) continue;
    const page = pages[Math.floor(slot / pageTokens) * lanes.length + lanes.findIndex(isHere)]!;
    keys[position] = new Float32Array(headWidth);
    const bytes = arena.bytes(page * pageBytes, pageBytes);
    codecs[codec].load(bytes, slot % pageTokens, keys[position]!, value);
  }
  return keys;
}

/** What a query attends to, by position. */
function attentionOf(
  { scale, softcap, window }: Pick<Extract<Op, { op: "attention" }>, "scale" | "softcap" | "window">,
  position: number,
  query: Float32Array,
  keys: readonly Float32Array[],
): Float64Array {
  const attended = new Float64Array(position + 1);
  let sum = 0;
  let most = Number.NEGATIVE_INFINITY;
  const first = window === null ? 0 : Math.max(0, position - window + 1);
  for (let p = first; p <= position; p++) {
    const score = scale * query.reduce((total, x, d) => total + x * keys[p]![d]!, 0);
    attended[p] = softcap > 0 ? softcap * Math.tanh(score / softcap) : score;
    most = Math.max(most, attended[p]!);
  }
  for (let p = first; p <= position; p++) {
    attended[p] = Math.exp(attended[p]! - most);
    sum += attended[p]!;
  }
  return attended.map((weight) => weight / sum);
}

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
