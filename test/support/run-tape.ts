/**
 * Runs a model's tape over one sequence with a full cache, on any backend and with any codec: what a test needs to
 * ask a model for logits without an engine, a scheduler or a cache policy.
 */
import type {
  Backend,
  KvLayout,
  KvView,
  LoadedWeights,
  Program,
  Region,
} from "../../src/backends/contract.js";
import type { CodecName } from "../../src/cache/codecs/contract.js";
import { codecs } from "../../src/cache/codecs/index.js";
import type { Checkpoint } from "../../src/formats/checkpoint.js";
import type { ModelConfig } from "../../src/models/contract.js";
import { buildTape } from "../../src/models/resolve.js";
import type { Tape } from "../../src/tape/tape.js";

export interface RunOptions {
  readonly codec?: CodecName;
  /** Tokens that the sequence may hold. */
  readonly capacity?: number;
  /** Tokens of one step at most. */
  readonly maxTokens?: number;
  readonly pageTokens?: number;
  /** Context that rotary scaling is chosen for; default: the model's. */
  readonly context?: number;
}

export class TapeRunner implements Disposable {
  /** Tokens stored so far. */
  length = 0;
  readonly #step: { views: KvView[]; positions: { region: Region; at: number }[]; arena: Region };

  private constructor(
    readonly config: ModelConfig,
    readonly tape: Tape,
    readonly program: Program,
    readonly capacity: number,
    readonly maxTokens: number,
    private readonly weights: LoadedWeights,
    backend: Backend,
    layout: KvLayout,
  ) {
    const positions: { region: Region; at: number }[] = [];
    let firstPage = 0;
    const views = layout.groups.map(({ codec, pageTokens, lanes }): KvView => {
      const numPages = Math.ceil(capacity / pageTokens);
      const ids = numPages * lanes.length;
      const region = backend.allocate(4 * (ids + numPages * pageTokens + numPages));
      for (let i = 0; i < ids; i++) region.int32(4 * i, 1)[0] = firstPage + i;
      const positionsAt = 4 * ids;
      const rotationsAt = positionsAt + 4 * numPages * pageTokens;
      region.int32(positionsAt, numPages * pageTokens).fill(-1);
      region.int32(rotationsAt, numPages).fill(-1);
      positions.push({ region, at: positionsAt });
      firstPage += ids;
      const shape = { codec, lanes: lanes.length, pageTokens, numPages };
      return {
        ...shape,
        region,
        pageIdsAt: 0,
        positionsAt,
        rotationsAt,
        mass: null,
        logCounts: null,
        thin: null,
        queries: null,
        next: null,
      };
    });
    this.#step = { views, positions, arena: backend.allocate(firstPage * layout.pageBytes) };
  }

  /** Reads the checkpoint's architecture, writes and compiles its tape, loads its weights. */
  static async open(backend: Backend, checkpoint: Checkpoint, options: RunOptions = {}): Promise<TapeRunner> {
    const { codec = "f32", capacity = 128, maxTokens = capacity, pageTokens = 16, context } = options;
    const { config, tape } = await buildTape(checkpoint, context === undefined ? {} : { context });
    const layout = oneGroupPerHeadWidth(tape, codec, pageTokens);
    const weights = await backend.load(tape, checkpoint);
    const limits = { maxTokens, maxOutputs: maxTokens, kv: layout };
    const program = await backend.compile(tape, weights, limits);
    return new TapeRunner(config, tape, program, capacity, maxTokens, weights, backend, layout);
  }

  /** Appends `tokens` in steps of at most `chunk`; the logits after each of them. */
  async evaluate(tokens: readonly number[], chunk = this.maxTokens): Promise<Float32Array[]> {
    const logits: Float32Array[] = [];
    for (let start = 0; start < tokens.length; start += chunk) {
      await this.#run(tokens.slice(start, start + chunk), logits);
    }
    return logits;
  }

  /** Greedy continuation of `prompt`: `count` ids, and the logits that chose each. */
  async greedy(
    prompt: readonly number[],
    count: number,
  ): Promise<{ readonly ids: number[]; readonly logits: Float32Array[] }> {
    const ids: number[] = [];
    const logits: Float32Array[] = [];
    let last = (await this.evaluate(prompt)).at(-1)!;
    while (ids.length < count) {
      logits.push(last);
      ids.push(argmax(last));
      if (ids.length < count) last = (await this.evaluate(ids.slice(-1)))[0]!;
    }
    return { ids, logits };
  }

  /** Forgets the sequence; weights and program stay. */
  reset(): void {
    this.length = 0;
    for (const [group, { region, at }] of this.#step.positions.entries()) {
      const { numPages, pageTokens } = this.#step.views[group]!;
      region.int32(at, numPages * pageTokens).fill(-1);
    }
  }

  [Symbol.dispose](): void {
    this.program.dispose();
    this.weights.dispose();
    this.#step.arena.free();
    for (const { region } of this.#step.positions) region.free();
  }

  async #run(tokens: readonly number[], logits: Float32Array[]): Promise<void> {
    const count = tokens.length;
    if (this.length + count > this.capacity)
      throw new Error(`The sequence holds ${this.capacity} tokens at most`);
    const positions = Int32Array.from(tokens, (_, t) => this.length + t);
    const { views, arena } = this.#step;
    for (const { region, at } of this.#step.positions) {
      region.int32(at + 4 * this.length, count).set(positions);
    }
    this.length += count;
    await this.program.run({
      tokens: Int32Array.from(tokens),
      positions,
      outputs: Int32Array.from(tokens, (_, t) => t),
      spans: [{ start: 0, count, views }],
      slots: views.map(() => positions),
      rotations: new Float64Array(0),
      arena,
    });
    const all = this.program.logits();
    const width = this.config.vocabularySize;
    for (let t = 0; t < count; t++) logits.push(all.slice(t * width, (t + 1) * width));
  }
}

function oneGroupPerHeadWidth(tape: Tape, codec: CodecName, pageTokens: number): KvLayout {
  const widths = [...new Set(tape.kv.map(({ headWidth }) => headWidth))];
  const pageBytes = Math.max(...widths.map((width) => (pageTokens / 16) * codecs[codec].groupBytes(width)));
  const groups = widths.map((headWidth) => ({
    codec,
    pageTokens,
    headWidth,
    lanes: tape.kv
      .filter((kv) => kv.headWidth === headWidth)
      .flatMap(({ layer, numKvHeads }) => Array.from({ length: numKvHeads }, (_, head) => ({ layer, head }))),
  }));
  return { pageBytes, groups };
}

/** Index of the largest value; the lowest where several are. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** Natural logarithms of softmax(logits), in double precision. */
export function logSoftmax(logits: Float32Array): Float64Array {
  const max = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  return Float64Array.from(logits, (logit) => logit - max - Math.log(sum));
}

/** Largest absolute difference of two vectors of one length. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) throw new Error(`Vectors of ${a.length} and ${b.length} have no difference`);
  return a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i]!)), 0);
}
