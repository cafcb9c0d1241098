// OP_QUANTIZE  i: [rowsKind, K, 0, per]  p: [x f32 [rows, K], q]
// Rows to int8 in blocks of 32, laid out in tiles as formats.h describes. A row's numbers depend on that row alone.
#include "formats.h"
#include "simd.h"
#include "work.h"

#define EXPORT __attribute__((visibility("default"), used))
#define BLOCKS_PER_ITEM 16

EXPORT int64_t mill_quantized_row_bytes(int32_t columns) { return (int64_t)(columns / BLOCK) * TILE_BLOCK; }

INLINE f32x16 f32x16_abs(f32x16 x) {
  return f32x16_from_bits(i32x16_and(i32x16_from_bits(x), i32x16_set1(0x7fffffff)));
}

// Block at `x` becomes row `t` of the tile block of width `n` at `to`.
static void quantize_block(const float *x, uint8_t *to, int n, int t) {
  f32x16 low = f32x16_load(x), high = f32x16_load(x + 16);
  float largest = f32x16_reduce_max(f32x16_max(f32x16_abs(low), f32x16_abs(high)));
  float scale = largest / 127.f;
  // The inverse of a subnormal scale would overflow: such a block is all zeros for every purpose.
  f32x16 inverse = f32x16_set1(scale > 0x1p-120f ? 1.f / scale : 0.f);
  i32x16 a = i32x16_round(f32x16_mul(low, inverse)), b = i32x16_round(f32x16_mul(high, inverse));
  i32x16_store_i8((int8_t *)to + t * 32, a);
  i32x16_store_i8((int8_t *)to + t * 32 + 16, b);
  int32_t sum_a = i32x16_reduce_add(a), sum_b = i32x16_reduce_add(b);
  float *f = (float *)(to + n * 32);
  int32_t *i = (int32_t *)(to + n * 32);
  f[t] = scale;
  i[n + t] = -8 * (sum_a + sum_b);
  f[2 * n + t] = scale * (float)(sum_a + sum_b);
  i[3 * n + t] = -8 * sum_a;
  i[4 * n + t] = -8 * sum_b;
  f[5 * n + t] = scale * (float)sum_a;
  f[6 * n + t] = scale * (float)sum_b;
}

void kernel_quantize(const Op *op, const Step *step, Work *work) {
  const int rows = op_rows(op->i[0], op->i[3], step), columns = op->i[1], blocks = columns / BLOCK;
  const int items = (blocks + BLOCKS_PER_ITEM - 1) / BLOCKS_PER_ITEM;
  const float *x = AT(const float, op->p[0]);
  uint8_t *q = AT(uint8_t, op->p[1]);
  int begin, end;
  while (work_take(work, rows * items, rows > 8 ? items : 1, &begin, &end)) {
    for (int item = begin; item < end; item++) {
      const int row = item / items, first = (item % items) * BLOCKS_PER_ITEM;
      const int last = first + BLOCKS_PER_ITEM < blocks ? first + BLOCKS_PER_ITEM : blocks;
      int start = row & ~(MAX_TILE - 1), n = tile_width(start, rows);
      while (start + n <= row) {
        start += n;
        n = tile_width(start, rows);
      }
      uint8_t *tile = q + (int64_t)start * blocks * TILE_BLOCK;
      for (int b = first; b < last; b++) {
        quantize_block(x + (int64_t)row * columns + b * BLOCK, tile + (int64_t)b * n * TILE_BLOCK, n, row - start);
      }
    }
  }
}
