import type { Tape } from "../../tape/tape.js";
import type { KvGroup, KvLayout, KvPages, Span, Step } from "../contract.js";

/** A weight decoded to plain numbers, [experts x rows, columns]. */
export interface Matrix {
  readonly data: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

/** Chosen experts and their weights, [T, perToken]. */
export interface RouteData {
  readonly ids: Int32Array;
  readonly weights: Float32Array;
}

/** All that an op reads and writes while one step runs. */
export interface Run {
  readonly tape: Tape;
  readonly step: Step;
  /** How the caches of spans without pages of their own are cut. */
  readonly kv: KvLayout;
  /** By buffer id: f32, row-major. */
  readonly buffers: readonly Float32Array[];
  /** By weight id. */
  readonly weights: readonly Matrix[];
  /** By vector id. */
  readonly vectors: readonly Float32Array[];
  /** By rope id: f32 [T + rotations, 2, pairs], see fillRopeTable. */
  readonly ropes: readonly Float32Array[];
  /** By route id. */
  readonly routes: readonly RouteData[];
}

/** Where a span's pages lie, how they are cut, and the slots of its tokens. */
export function pagesOf({ step, kv }: Run, { start, count, pages }: Span): KvPages {
  if (pages) return pages;
  const { arena, slots } = step;
  return { kv, arena, slots: slots.map((all) => all.subarray(start, start + count)) };
}

/** The group that holds a lane, and the lane's place in it. */
export function findLane(
  kv: KvLayout,
  layer: number,
  head: number,
): { group: number; lane: number; spec: KvGroup } {
  for (const [group, spec] of kv.groups.entries()) {
    const lane = spec.lanes.findIndex((each) => each.layer === layer && each.head === head);
    if (lane >= 0) return { group, lane, spec };
  }
  throw new Error(`No group holds layer ${layer} head ${head}.`);
}
