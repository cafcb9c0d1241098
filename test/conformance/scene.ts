/**
 * A scene is what one conformance case runs: a tape around an op, its weights in memory, page tables with crafted
 * contents, and a batch. The same scene runs on any backend; inputs reach an op through `embed` of crafted rows, so
 * that a buffer can hold anything.
 */
import type {
  Backend,
  ChoiceRule,
  KvChoice,
  KvGroup,
  KvThin,
  KvView,
  Program,
  Region,
  Step,
  Tempered,
} from "../../src/backends/contract.js";
import type { CodecName } from "../../src/cache/codecs/contract.js";
import { codecs } from "../../src/cache/codecs/index.js";
import type { TensorType } from "../../src/formats/checkpoint.js";
import { type MemoryTensor, memoryCheckpoint } from "../../src/formats/memory.js";
import {
  type BufferRef,
  type Tape,
  TapeBuilder,
  type VectorRef,
  type WeightRef,
} from "../../src/tape/tape.js";
import type { TestRandom } from "../support/random.js";

export class Scene {
  readonly tape = new TapeBuilder();
  readonly #tensors: Record<string, MemoryTensor> = {};
  #finished: Tape | null = null;

  /** A buffer whose row for token id i is row i of `data`. */
  input(data: Float32Array, width: number): BufferRef {
    return this.tape.embed(this.matrix({ data, rows: data.length / width, columns: width }));
  }

  /** A weight in one tensor of its own; `data` is F32 numbers or stored bytes of `type`. */
  matrix(spec: {
    data: Float32Array | Uint8Array;
    type?: TensorType;
    rows: number;
    columns: number;
    experts?: number;
  }): WeightRef {
    const { data, type = "F32", rows, columns, experts = 1 } = spec;
    const tensor = this.tensor({ data, type, shape: [experts * rows, columns] });
    return this.tape.weight({
      slices: [{ tensor, rowStart: 0, rowCount: experts * rows }],
      type,
      rows,
      columns,
      experts,
    });
  }

  vector(data: Float32Array, add = 0): VectorRef {
    const tensor = this.tensor({ data, shape: [data.length] });
    const slice = { tensor, rowStart: 0, rowCount: 1 };
    return this.tape.vector({ slice, type: "F32", width: data.length, add });
  }

  /** Stores a tensor and returns its name. */
  tensor(tensor: MemoryTensor): string {
    const name = `t${Object.keys(this.#tensors).length}`;
    this.#tensors[name] = tensor;
    return name;
  }

  /** Ends the tape; the logits are `result`, or the selected rows of it. */
  finish(result: BufferRef, states: BufferRef | null = null): this {
    const logits = result.rows === "outputs" ? result : this.tape.select(result);
    this.#finished = this.tape.finish(logits, states);
    return this;
  }

  /** The tape, once `finish` was called. */
  get finished(): Tape {
    if (!this.#finished) throw new Error("finish() the scene first");
    return this.#finished;
  }

  /** Compiles the scene for batches of up to these sizes. Dispose the stage when done. */
  async on(backend: Backend, options: { maxTokens: number; groups?: readonly KvGroup[]; numPages?: number }) {
    const { maxTokens, groups = [], numPages = 1 } = options;
    const pageBytes = Math.max(
      64,
      ...groups.flatMap(({ pageTokens, headWidth }) =>
        Object.values(codecs).map((codec) => (pageTokens / 16) * codec.groupBytes(headWidth)),
      ),
    );
    const weights = await backend.load(this.finished, memoryCheckpoint(this.#tensors));
    const program = await backend.compile(this.finished, weights, {
      maxTokens,
      maxOutputs: maxTokens,
      maxStates: maxTokens,
      kv: { pageBytes, groups },
      keepBuffers: true,
    });
    return new Stage(backend, program, groups, pageBytes, backend.allocate(pageBytes * numPages), () => {
      program.dispose();
      weights.dispose();
    });
  }
}

/** One page table before it lies in a backend's memory. */
export interface Table {
  readonly codec: CodecName;
  readonly pageTokens: number;
  /** [numPages, lanes] */
  readonly pageIds: Int32Array;
  /** [numPages x pageTokens], -1 for an empty slot */
  readonly positions: Int32Array;
  /** [numPages] */
  readonly rotations: Int32Array;
  readonly wantsMass?: boolean;
  /** As in KvMass. */
  readonly massFrom?: number;
  readonly tempered?: Tempered;
  /** [numPages x pageTokens] */
  readonly logCounts?: Float32Array;
  /** As in KvThin; the first `width` elements of the keys that lie in thin rows are those that are stored. */
  readonly thin?: { readonly width: number; readonly elements: Int32Array; readonly rows: Int32Array };
  /** As in KvQueries. */
  readonly queriesFrom?: number;
  /** As in KvChoice; `chosen` are the slots that the query chose which stands in `chooser`. */
  readonly choice?: {
    readonly rule: ChoiceRule;
    readonly chosenAt: number;
    readonly chosen: readonly boolean[];
    readonly chooser: Float32Array;
  };
  /** Keys and values that lie there before the step: [lane][slot] -> [key, value]. */
  readonly contents: readonly (readonly (readonly [Float32Array, Float32Array] | null)[])[];
  readonly next?: Table;
}

export interface Batch {
  readonly tokens: readonly number[];
  readonly positions?: readonly number[];
  /** Default: every row. */
  readonly outputs?: readonly number[];
  /** Default: none. */
  readonly states?: readonly number[];
  /** Default: one span over all tokens with no tables. */
  readonly spans?: readonly {
    readonly count: number;
    readonly tables: readonly Table[];
    readonly adapter?: number;
  }[];
  /** By group: slot of each token. */
  readonly slots?: readonly (readonly number[])[];
  readonly rotations?: readonly number[];
}

/** A compiled scene on one backend, with an arena. */
export class Stage {
  /** Views of the last run, by span and group. */
  views: KvView[][] = [];
  readonly #regions: Region[] = [];

  constructor(
    readonly backend: Backend,
    readonly program: Program,
    readonly groups: readonly KvGroup[],
    readonly pageBytes: number,
    readonly arena: Region,
    readonly close: () => void,
  ) {}

  step(batch: Batch): Step {
    const numTokens = batch.tokens.length;
    const rows = Array.from({ length: numTokens }, (_, t) => t);
    const spans: NonNullable<Batch["spans"]> = batch.spans ?? [{ count: numTokens, tables: [] }];
    let start = 0;
    this.views = spans.map(({ tables }) =>
      tables.map((table, g) => this.#lay(table, this.groups[g]!.headWidth)),
    );
    return {
      tokens: Int32Array.from(batch.tokens),
      positions: Int32Array.from(batch.positions ?? rows),
      outputs: Int32Array.from(batch.outputs ?? rows),
      ...(batch.states && { states: Int32Array.from(batch.states) }),
      spans: spans.map(({ count, adapter }, s) => {
        start += count;
        const span = { start: start - count, count, views: this.views[s]! };
        return adapter === undefined ? span : { ...span, adapter };
      }),
      slots: (batch.slots ?? []).map((slots) => Int32Array.from(slots)),
      rotations: Float64Array.from(batch.rotations ?? []),
      arena: this.arena,
    };
  }

  async run(batch: Batch): Promise<void> {
    await this.program.run(this.step(batch));
  }

  /** A copy of a buffer after the last run. */
  read(buffer: BufferRef): Float32Array {
    return this.program.read(buffer.id).slice();
  }

  logits(): Float32Array {
    return this.program.logits().slice();
  }

  /** A page's bytes; the view is fresh. */
  page(id: number): Uint8Array {
    return this.arena.bytes(id * this.pageBytes, this.pageBytes);
  }

  dispose(): void {
    for (const region of this.#regions) region.free();
    this.arena.free();
    this.close();
  }

  #lay(table: Table, headWidth: number): KvView {
    const { codec, pageTokens, pageIds, positions, rotations } = table;
    const numPages = rotations.length;
    const lanes = pageIds.length / numPages;
    const region = this.#allocate(4 * (pageIds.length + positions.length + rotations.length));
    region.int32(0, pageIds.length).set(pageIds);
    const positionsAt = 4 * pageIds.length;
    region.int32(positionsAt, positions.length).set(positions);
    const rotationsAt = positionsAt + 4 * positions.length;
    region.int32(rotationsAt, numPages).set(rotations);
    table.contents.forEach((slots, lane) => {
      slots.forEach((pair, slot) => {
        const page = pageIds[Math.floor(slot / pageTokens) * lanes + lane]!;
        if (!pair) return;
        const isThin = table.thin?.rows[Math.floor(slot / pageTokens)] === 1;
        const key = isThin ? pair[0].subarray(0, table.thin!.width) : pair[0];
        codecs[codec].store(this.page(page), slot % pageTokens, key, pair[1]);
      });
    });
    const mass = table.wantsMass
      ? {
          region: this.#allocate(4 * lanes * positions.length),
          from: table.massFrom ?? 0,
          tempered: table.tempered ?? null,
        }
      : null;
    const logCounts = table.logCounts ? this.#allocate(4 * positions.length) : null;
    logCounts?.float32(0, positions.length).set(table.logCounts!);
    const thin = table.thin ? this.#layThin(table.thin) : null;
    const queries =
      table.queriesFrom === undefined
        ? null
        : { region: this.#allocate(4 * lanes * headWidth), from: table.queriesFrom };
    const choice = table.choice ? this.#layChoice(table.choice) : null;
    const next = table.next ? this.#lay(table.next, headWidth) : null;
    return {
      codec,
      lanes,
      pageTokens,
      numPages,
      region,
      pageIdsAt: 0,
      positionsAt,
      rotationsAt,
      mass,
      logCounts,
      thin,
      queries,
      choice,
      next,
    };
  }

  #layChoice({ rule, chosenAt, chosen, chooser }: NonNullable<Table["choice"]>): KvChoice {
    const shown = this.#allocate(4 * chosen.length);
    shown.int32(0, chosen.length).set(chosen.map((is) => (is ? 1 << 31 : 0)));
    const region = this.#allocate(4 + 4 * chooser.length);
    region.int32(0, 1)[0] = chosenAt;
    region.float32(4, chooser.length).set(chooser);
    return { rule, shown, chooser: region };
  }

  #layThin({ width, elements, rows }: NonNullable<Table["thin"]>): KvThin {
    const rowsAt = 4 * elements.length;
    const region = this.#allocate(rowsAt + 4 * rows.length);
    region.int32(0, elements.length).set(elements);
    region.int32(rowsAt, rows.length).set(rows);
    return { width, region, elementsAt: 0, rowsAt };
  }

  #allocate(byteLength: number): Region {
    const region = this.backend.allocate(byteLength);
    this.#regions.push(region);
    return region;
  }
}

/** Hands out page numbers of one arena, in shuffled order. */
export class PagePool {
  readonly #free: number[];

  constructor(
    readonly numPages: number,
    random: TestRandom,
  ) {
    this.#free = random.permutation(numPages);
  }

  take(count: number): Int32Array {
    if (count > this.#free.length) throw new Error(`${count} pages wanted, ${this.#free.length} left`);
    return Int32Array.from(this.#free.splice(0, count));
  }
}

/**
 * A table whose slots hold `positions` (-1 empty), page after page; filled slots in `stored` get random keys and
 * values, the others (the step's own tokens) are left for `append`.
 */
export function makeTable(
  random: TestRandom,
  pool: PagePool,
  options: {
    codec: CodecName;
    pageTokens: number;
    lanes: number;
    headWidth: number;
    positions: readonly number[];
    isStored?: (slot: number) => boolean;
    rotations?: readonly number[];
    wantsMass?: boolean;
    massFrom?: number;
    tempered?: Tempered;
    /** Most tokens that a slot stands for; random counts up to it, a fifth of the slots hidden. */
    mostCounts?: number;
    /** Elements of a thin key; rows that hold nothing but stored tokens are thin. */
    thin?: number;
    queriesFrom?: number;
    choice?: ChoiceRule;
    chosenAt?: number;
    next?: Table;
  },
): Table {
  const { codec, pageTokens, lanes, headWidth, positions } = options;
  const numPages = Math.max(1, Math.ceil(positions.length / pageTokens));
  const filled = Int32Array.from({ length: numPages * pageTokens }, (_, s) => positions[s] ?? -1);
  const isStored = options.isStored ?? (() => true);
  const thinRow = (row: number) =>
    filled
      .subarray(row * pageTokens, (row + 1) * pageTokens)
      .every((position, i) => position < 0 || isStored(row * pageTokens + i));
  return {
    codec,
    pageTokens,
    pageIds: pool.take(numPages * lanes),
    positions: filled,
    rotations: Int32Array.from({ length: numPages }, (_, p) => options.rotations?.[p] ?? -1),
    contents: Array.from({ length: lanes }, () =>
      Array.from(filled, (position, slot) =>
        position >= 0 && isStored(slot)
          ? ([random.floats(headWidth), random.floats(headWidth)] as const)
          : null,
      ),
    ),
    ...(options.wantsMass ? { wantsMass: true } : {}),
    ...(options.massFrom === undefined ? {} : { massFrom: options.massFrom }),
    ...(options.tempered === undefined ? {} : { tempered: options.tempered }),
    ...(options.mostCounts === undefined
      ? {}
      : {
          logCounts: Float32Array.from(filled, () =>
            Math.log(random.below(5) && 1 + random.below(options.mostCounts!)),
          ),
        }),
    ...(options.thin === undefined
      ? {}
      : {
          thin: {
            width: options.thin,
            elements: Int32Array.from(
              Array.from({ length: lanes }, () =>
                random
                  .permutation(headWidth)
                  .slice(0, options.thin)
                  .sort((a, b) => a - b),
              ).flat(),
            ),
            rows: Int32Array.from({ length: numPages }, (_, row) => Number(thinRow(row))),
          },
        }),
    ...(options.queriesFrom === undefined ? {} : { queriesFrom: options.queriesFrom }),
    ...(options.choice === undefined
      ? {}
      : {
          choice: {
            rule: options.choice,
            chosenAt: options.chosenAt ?? -1,
            chosen: Array.from(
              filled,
              (position, slot) => position >= 0 && isStored(slot) && random.below(3) > 0,
            ),
            chooser: random.floats(lanes * headWidth),
          },
        }),
    ...(options.next ? { next: options.next } : {}),
  };
}
