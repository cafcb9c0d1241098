// How attention's work is cut, which every thread works out for itself.
//
// A stream is one span's tokens against one kv head. Its query rows (token, head) are cut into tiles of up to 64;
// its slots, all views one after another, into parts of 512 (doubled until 32 parts hold them). A tile computes each
// part with an online softmax of its own and folds the parts in order: so it makes no difference to any bit whether
// one thread works through all parts of a tile, or several write theirs to `partials` and the merge folds them.
// Tiles that are a large share of the step's work are split that way, others are not.
#ifndef MILLRACE_ATTENTION_PLAN_H
#define MILLRACE_ATTENTION_PLAN_H

#include "page.h"
#include "work.h"

#define TILE_ROWS 64
#define PART_SLOTS 512
#define MAX_PARTS 32
#define SPLITS_PER_THREAD 4

typedef struct Shape {
  int heads, kv_heads, per_kv_head, width, padded, window, pairs, halves;
  int tile_heads, head_tiles, tile_tokens;  // rows of a tile: tile_tokens x tile_heads
} Shape;

SHARED Shape shape_of(const Op *op) {
  Shape s = {.heads = op->i[0], .kv_heads = op->i[1], .width = op->i[2], .window = op->i[3], .pairs = op->i[4],
             .halves = op->i[5]};
  s.per_kv_head = s.heads / s.kv_heads;
  s.padded = padded_width(s.width);
  s.head_tiles = (s.per_kv_head + TILE_ROWS - 1) / TILE_ROWS;
  s.tile_heads = (s.per_kv_head + s.head_tiles - 1) / s.head_tiles;
  s.tile_tokens = TILE_ROWS / s.tile_heads;
  return s;
}

typedef struct Stream {
  const Span *span;
  const View *view;
  int kv_head, lane;
  int tiles, slots, part_slots, parts;
  int64_t tile_cost;
  int has_mass;     // some query of the span gives mass
  int has_queries;  // some query of the span adds to the lane's sums
} Stream;

// Of each kv head of the op's layer: the group that holds it in this span's cache, and its lane there.
static inline const int32_t *lane_map_of(const Op *op, const Span *span) {
  return AT(const int32_t, span->lanes) + 2 * op->i[7];
}

SHARED Stream stream_of(const Op *op, const Step *step, const Shape *shape, int index) {
  const Span *from = AT(const Span, step->spans) + index / shape->kv_heads;
  int head = index % shape->kv_heads;
  const int32_t *lane_map = lane_map_of(op, from);
  Stream s = {.span = from, .kv_head = head, .lane = lane_map[2 * head + 1]};
  s.view = AT(const View, AT(const uint64_t, s.span->views)[lane_map[2 * head]]);
  for (const View *view = s.view; view; view = AT(const View, view->next)) {
    s.slots += view->num_pages * view->page_tokens;
    s.has_mass |= view->mass != 0;
  }
  if (s.span->count > 0) {
    int32_t last = AT(const int32_t, step->positions)[s.span->start + s.span->count - 1];
    s.has_mass &= last >= s.view->mass_from;
    s.has_queries = s.view->queries != 0 && last >= s.view->queries_from;
  }
  s.part_slots = PART_SLOTS;
  while ((s.slots - 1) / MAX_PARTS >= s.part_slots) s.part_slots *= 2;
  s.parts = (s.slots + s.part_slots - 1) / s.part_slots;
  if (s.parts == 0) s.parts = 1;
  int tokens = s.span->count < shape->tile_tokens ? s.span->count : shape->tile_tokens;
  s.tiles = (s.span->count + shape->tile_tokens - 1) / shape->tile_tokens * shape->head_tiles;
  s.tile_cost = (int64_t)tokens * shape->tile_heads * s.slots;
  return s;
}

// Work comes in phases; a phase goes through all streams in order.
enum Phase {
  WHOLE_TILES,  // attention: tiles that one thread computes
  SPLIT_PARTS,  // attention: parts of the others
  FOLDS,        // merge: tiles that were split
  MASSES,       // merge: parts whose slots want their probabilities
  QUERIES,      // merge: lanes that want the squares of their queries
};

typedef struct Plan {
  const Op *op;
  const Step *step;
  Shape shape;
  int streams, threads;
  int64_t cost;
} Plan;

SHARED int is_split(const Plan *plan, const Stream *s) {
  return plan->threads > 1 && s->parts > 1 && s->tile_cost * SPLITS_PER_THREAD * plan->threads >= plan->cost;
}

SHARED int units_of(const Plan *plan, const Stream *s, int phase) {
  int split = is_split(plan, s);
  return phase == WHOLE_TILES   ? (split ? 0 : s->tiles)
         : phase == SPLIT_PARTS ? (split ? s->tiles * s->parts : 0)
         : phase == FOLDS       ? (split ? s->tiles : 0)
         : phase == MASSES      ? (s->has_mass ? s->parts : 0)
                                : s->has_queries;
}

SHARED Plan plan_of(const Op *op, const Step *step, int threads) {
  Plan plan = {.op = op, .step = step, .shape = shape_of(op), .threads = threads};
  plan.streams = step->num_spans * plan.shape.kv_heads;
  for (int i = 0; i < plan.streams; i++) {
    Stream s = stream_of(op, step, &plan.shape, i);
    plan.cost += s.tile_cost * s.tiles;
  }
  return plan;
}

SHARED int count_units(const Plan *plan, int first_phase, int last_phase) {
  int units = 0;
  for (int i = 0; i < plan->streams; i++) {
    Stream s = stream_of(plan->op, plan->step, &plan->shape, i);
    for (int phase = first_phase; phase <= last_phase; phase++) units += units_of(plan, &s, phase);
  }
  return units;
}

// Walks through units in ascending order.
typedef struct Cursor {
  int phase, index;  // of the current stream
  int first, units;  // units before it, and its own
  int splits;        // split tiles before it
  Stream stream;
} Cursor;

SHARED void enter_stream(const Plan *plan, Cursor *at) {
  at->stream = stream_of(plan->op, plan->step, &plan->shape, at->index);
  at->units = units_of(plan, &at->stream, at->phase);
}

SHARED Cursor cursor_at(const Plan *plan, int phase) {
  Cursor at = {.phase = phase};
  if (plan->streams) enter_stream(plan, &at);
  return at;
}

SHARED void seek(const Plan *plan, Cursor *at, int unit) {
  while (unit >= at->first + at->units) {
    at->first += at->units;
    if (is_split(plan, &at->stream)) at->splits += at->stream.tiles;
    if (++at->index == plan->streams) {
      at->index = 0;
      at->splits = 0;
      at->phase++;
    }
    enter_stream(plan, at);
  }
}

#endif
