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

// Lanes of keys `first` .. first + 15, all before `end`, that the query at `position` sees; `other` in their stead.
INLINE f32x16 keep_seen(const Shape *s, f32x16 v, int first, int end, int position, float other) {
  static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const i32x16 keys = i32x16_add(i32x16_load(lanes), i32x16_set1(first));
  const f32x16 none = f32x16_set1(other);
  v = f32x16_blend(i32x16_gt(i32x16_set1(position < end ? position + 1 : end), keys), v, none);
  if (!s->window) return v;
  const f32x16 sinks = f32x16_blend(i32x16_gt(i32x16_set1(s->sinks), keys), v, none);
  return f32x16_blend(i32x16_gt(keys, i32x16_set1(position - s->window)), v, sinks);
}

// One head's columns of rows `row` .. into a slab of whole tiles.
INLINE void load_slab(const Matrix *m, int64_t row, int rows, int column, const Shape *s, float *slab) {
  copy_rows(row_of(m, row) + column, m->stride, rows, s->width, s->padded, slab, SLAB);
}

// The same transposed: [width][BLOCK_ROWS].
INLINE void load_transposed(const Matrix *m, int64_t row, int rows, int column, const Shape *s, float *to) {
  copy_transposed(row_of(m, row) + column, m->stride, rows, s->width, BLOCK_ROWS, to, BLOCK_ROWS);
}

// Three products over a block of which query r sees key c where c <= r + diagonal (or all, or fewer): tiles and steps
// in which no query of a tile sees a key are left out.

INLINE int clamp(int n, int least, int most) { return n < least ? least : n > most ? most : n; }

// scores = alpha * left right: queries by keys. What is left out is not written.
INLINE void score_product(const float *queries, const float *keys, int depth, float *scores, int rows, int diagonal,
                          float alpha) {
  for (int j = 0; j < BLOCK_ROWS; j += TILE_COLUMNS) {
    const int first = clamp(j - diagonal, 0, BLOCK_ROWS) / TILE_ROWS * TILE_ROWS;
    NO_UNROLL for (int i = first; i < rows; i += TILE_ROWS) {
      tile_product(0, SLAB, queries + i * SLAB, keys + j, BLOCK_ROWS, depth, scores + i * SCORES + j, SCORES, TILE_ROWS,
                   TILE_COLUMNS, alpha, REPLACE);
    }
  }
}

// out += weights values: queries by elements, over the keys.
INLINE void query_product(const float *weights, const float *values, int keys, float *out, int64_t stride, int rows,
                          int columns, int diagonal) {
  for (int j = 0; j < columns; j += TILE_COLUMNS) {
    NO_UNROLL for (int i = 0; i < rows; i += TILE_ROWS) {
      tile_product(0, SCORES, weights + i * SCORES, values + j, SLAB, clamp(i + TILE_ROWS + diagonal, 0, keys),
                   out + i * stride + j, stride, rows - i, columns - j, 1.f, ADD);
    }
  }
}

// slab += weights^T values: keys by elements, over the queries.
INLINE void key_product(const float *weights, const float *values, int queries, float *slab, int keys, int columns,
                        int diagonal) {
  for (int j = 0; j < columns; j += TILE_COLUMNS) {
    NO_UNROLL for (int i = 0; i < keys; i += TILE_ROWS) {
      const int first = clamp(i - diagonal, 0, queries);
      tile_product(1, SCORES, weights + first * SCORES + i, values + first * SLAB + j, SLAB, queries - first,
                   slab + i * SLAB + j, SLAB, TILE_ROWS, TILE_COLUMNS, 1.f, ADD);
    }
  }
}

#endif
