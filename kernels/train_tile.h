// The register tile under every product of f32 matrices, and what brings operands into its reach.
//
// A tile is TILE_ROWS x TILE_COLUMNS sums held in registers. Its left operand lies in a slab, either row by row (pitch
// floats from row to row) or transposed (step k's TILE_ROWS numbers side by side); its right operand gives
// TILE_COLUMNS numbers side by side for every k. Every sum runs over k in ascending order on its own, so a number
// does not depend on where its tile lies or on what else the tile holds.
#ifndef MILLRACE_TRAIN_TILE_H
#define MILLRACE_TRAIN_TILE_H

#include "matmul_tile.h"
#include "train.h"

#if W == 16  // 32 registers of 16 lanes
#define TILE_ROWS 12
#define TILE_VECTORS 2
#elif W == 4 && !defined(__wasm__)  // NEON: 32 registers
#define TILE_ROWS 8
#define TILE_VECTORS 2
#elif W == 1
#define TILE_ROWS 4
#define TILE_VECTORS 2
#else  // 16 registers
#define TILE_ROWS 6
#define TILE_VECTORS 2
#endif
#define TILE_COLUMNS (TILE_VECTORS * W)

#define BLOCK_ROWS 96    // a multiple of every TILE_ROWS and TILE_COLUMNS
#define BLOCK_DEPTH 256  // of k at a time; also the widest head
#define SLAB 272         // floats from row to row of a slab of BLOCK_DEPTH columns: not a power of two, for the cache's sake
#define SLAB_FLOATS (BLOCK_ROWS * SLAB)
#define SCORES 112       // the same for BLOCK_ROWS columns

INLINE int32_t round_up(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

// Copies rows of `columns` numbers; to a stride of its own, zeros up to `padded` columns.
INLINE void copy_rows(const float *from, int64_t from_stride, int rows, int columns, int padded, float *to,
                      int64_t to_stride) {
  const f32x16 zero = f32x16_zero();
  for (int r = 0; r < rows; r++, from += from_stride, to += to_stride) {
    int c = 0;
    for (; c + 16 <= columns; c += 16) f32x16_store(to + c, f32x16_load(from + c));
    if (c < columns) f32x16_store_part(to + c, f32x16_load_part(from + c, columns - c), columns - c);
    for (c = columns; c + 16 <= padded; c += 16) f32x16_store(to + c, zero);
    for (; c < padded; c++) to[c] = 0.f;
  }
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t quad_order __attribute__((vector_size(16)));
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (quad_order){i, j, k, l})
#endif
typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

// to[c][r] = from[r][c] for rows x columns numbers, zeros for rows .. padded - 1 of the result's columns.
INLINE void copy_transposed(const float *from, int64_t from_stride, int rows, int columns, int padded, float *to,
                            int64_t to_stride) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float *at = from + r * from_stride;
    int c = 0;
    for (; c + 4 <= columns; c += 4) {
      const quad a = *(const quad *)(at + c), b = *(const quad *)(at + from_stride + c);
      const quad d = *(const quad *)(at + 2 * from_stride + c), e = *(const quad *)(at + 3 * from_stride + c);
      const quad ab = SHUFFLE(a, b, 0, 4, 1, 5), ab2 = SHUFFLE(a, b, 2, 6, 3, 7);
      const quad de = SHUFFLE(d, e, 0, 4, 1, 5), de2 = SHUFFLE(d, e, 2, 6, 3, 7);
      *(quad *)(to + c * to_stride + r) = SHUFFLE(ab, de, 0, 1, 4, 5);
      *(quad *)(to + (c + 1) * to_stride + r) = SHUFFLE(ab, de, 2, 3, 6, 7);
      *(quad *)(to + (c + 2) * to_stride + r) = SHUFFLE(ab2, de2, 0, 1, 4, 5);
      *(quad *)(to + (c + 3) * to_stride + r) = SHUFFLE(ab2, de2, 2, 3, 6, 7);
    }
    for (; c < columns; c++) {
      for (int i = 0; i < 4; i++) to[c * to_stride + r + i] = at[i * from_stride + c];
    }
  }
  for (; r < padded; r++) {
    for (int c = 0; c < columns; c++) to[c * to_stride + r] = r < rows ? from[r * from_stride + c] : 0.f;
  }
}

typedef struct Sums {
  vf at[TILE_ROWS][TILE_VECTORS];
} Sums;

// What a product does with what is there.
enum Into { REPLACE, ADD };

INLINE void tile_store(const Sums *sums, float *c, int64_t stride, vf alpha, const int into) {
  UNROLL for (int i = 0; i < TILE_ROWS; i++) {
    UNROLL for (int j = 0; j < TILE_VECTORS; j++) {
      float *to = c + i * stride + j * W;
      vf_store(to, into == ADD ? vf_fma(alpha, sums->at[i][j], vf_load(to)) : vf_mul(alpha, sums->at[i][j]));
    }
  }
}

// One tile: c (rows x columns of it) = or += alpha * left right. `transposed` and `pitch` are constants.
INLINE void tile_product(const int transposed, const int pitch, const float *a, const float *b, int64_t b_step, int depth,
                         float *c, int64_t stride, int rows, int columns, float alpha, const int into) {
  Sums sums;
  UNROLL for (int i = 0; i < TILE_ROWS; i++) {
    UNROLL for (int j = 0; j < TILE_VECTORS; j++) sums.at[i][j] = vf_set1(0.f);
  }
  NO_UNROLL for (int k = 0; k < depth; k++) {
    vf right[TILE_VECTORS];
    UNROLL for (int j = 0; j < TILE_VECTORS; j++) right[j] = vf_load(b + j * W);
    UNROLL for (int i = 0; i < TILE_ROWS; i++) {
      const vf left = vf_set1(a[transposed ? i : i * pitch]);
      UNROLL for (int j = 0; j < TILE_VECTORS; j++) sums.at[i][j] = vf_fma(left, right[j], sums.at[i][j]);
    }
    a += transposed ? pitch : 1;
    b += b_step;
  }
  if (rows >= TILE_ROWS && columns >= TILE_COLUMNS) {
    tile_store(&sums, c, stride, vf_set1(alpha), into);
    return;
  }
  float part[TILE_ROWS * TILE_COLUMNS];
  if (rows > TILE_ROWS) rows = TILE_ROWS;
  if (columns > TILE_COLUMNS) columns = TILE_COLUMNS;
  if (into == ADD) {
    for (int i = 0; i < TILE_ROWS * TILE_COLUMNS; i++) part[i] = 0.f;
    for (int i = 0; i < rows; i++) {
      for (int j = 0; j < columns; j++) part[i * TILE_COLUMNS + j] = c[i * stride + j];
    }
  }
  tile_store(&sums, part, TILE_COLUMNS, vf_set1(alpha), into);
  for (int i = 0; i < rows; i++) {
    for (int j = 0; j < columns; j++) c[i * stride + j] = part[i * TILE_COLUMNS + j];
  }
}

// Tiles of a block: left [rows, depth] in a slab, its tiles' rows `tile` floats apart, right in strips of TILE_COLUMNS
// columns, `strip` floats apart. Rows of the slab up to the next whole tile are read, and columns of the last strip;
// what comes of them is not stored.
INLINE void block_product(const int transposed, const int pitch, const float *a, int64_t tile, const float *b,
                          int64_t b_step, int64_t strip, int depth, float *c, int64_t stride, int rows, int columns,
                          float alpha, const int into) {
  for (int j = 0; j < columns; j += TILE_COLUMNS, b += strip) {
    const float *left = a;
    NO_UNROLL for (int i = 0; i < rows; i += TILE_ROWS, left += tile) {
      tile_product(transposed, pitch, left, b, b_step, depth, c + i * stride + j, stride, rows - i, columns - j, alpha,
                   into);
    }
  }
}

#endif
