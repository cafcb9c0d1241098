// What training's attention shares forward and backward: blocks of BLOCK_ROWS keys by BLOCK_ROWS queries of one head.
// Both ops: i: [sequences, firstQuery, H, K, D, window (0: none), sinks, ...]   f: [scale, softcap]
#ifndef MILLRACE_TRAIN_ATTENTION_H
#define MILLRACE_TRAIN_ATTENTION_H

#include "math.h"
#include "train_tile.h"

typedef struct Shape {
  int sequences, first_query, heads, kv_heads, width, window, sinks;
  int n, m;     // queries and keys of one sequence
  int group;    // query heads per kv head
  int padded;   // width, to whole tiles
  float scale, softcap;
} Shape;

INLINE Shape shape_of(const Op *op, const Matrix *q, const Matrix *k) {
  const int32_t *i = op->i;
  return (Shape){.sequences = i[0], .first_query = i[1], .heads = i[2], .kv_heads = i[3], .width = i[4],
                 .window = i[5], .sinks = i[6], .n = q->rows / i[0], .m = k->rows / i[0], .group = i[2] / i[3],
                 .padded = round_up(i[4], TILE_COLUMNS), .scale = op->f[0], .softcap = op->f[1]};
}

enum Sight { SEES_NONE, SEES_SOME, SEES_ALL };

// Of keys first .. first + keys - 1, what queries at positions from .. from + queries - 1 see.
INLINE int sight(const Shape *s, int first, int keys, int from, int queries) {
  const int last_key = first + keys - 1, last_query = from + queries - 1;
  if (first > last_query) return SEES_NONE;
  const int in_window = !s->window || first > last_query - s->window || last_key < s->sinks;
  if (in_window) return last_key <= from ? SEES_ALL : SEES_SOME;
  return last_key <= from - s->window && first >= s->sinks ? SEES_NONE : SEES_SOME;
}

// Keys first .. first + 15 that the query at `position` sees, of which `keys` are there, as bits.
INLINE uint32_t seen_bits(const Shape *s, int first, int keys, int position) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; i++) {
    const int key = first + i;
    const int seen = key <= position && (!s->window || key > position - s->window || key < s->sinks);
    bits |= (uint32_t)(seen && i < keys) << i;
  }
  return bits;
}

INLINE f32x16 keep_lanes(f32x16 v, uint32_t bits, float other) {
  float lanes[16];
  f32x16_store(lanes, v);
  for (int i = 0; i < 16; i++) lanes[i] = bits >> i & 1 ? lanes[i] : other;
  return f32x16_load(lanes);
}

// One head's columns of rows `row` .. into a slab of whole tiles.
INLINE void load_slab(const Matrix *m, int64_t row, int rows, int column, const Shape *s, float *slab) {
  copy_rows(row_of(m, row) + column, m->stride, rows, s->width, s->padded, slab, SLAB);
}

// The same transposed: [width][BLOCK_ROWS].
INLINE void load_transposed(const Matrix *m, int64_t row, int rows, int column, const Shape *s, float *to) {
  copy_transposed(row_of(m, row) + column, m->stride, rows, s->width, BLOCK_ROWS, to, BLOCK_ROWS);
}

#endif
