// OP_LOW_RANK_DOWN: projected[r, j] = down[j] . x[r]
// i: [rowsKind, width, maxRank, adapters]
// p: [x f32 [rows, width], pairs LowRank [adapters], projected f32 [rows, maxRank]]
// OP_LOW_RANK_UP: out[r] += sum over j of projected[r, j] * up[j]
// i: [rowsKind, width, maxRank, adapters]   p: [projected, pairs, out f32 [rows, width]]
// Rows whose span names no adapter, or one that has no pair here, are left alone.
#include "simd.h"
#include "work.h"

#define COLUMNS 256  // of a row of out, that one thread takes at a time

// The pair that row r's adapter has, or 0.
static const LowRank *pair_of(const Op *op, const Step *step, int r) {
  int token = op->i[0] == ROWS_OUTPUTS ? AT(const int32_t, step->outputs)[r] : r;
  int span = AT(const int32_t, step->token_span)[token];
  int adapter = AT(const Span, step->spans)[span].adapter;
  if (adapter < 0 || adapter >= op->i[3]) return 0;
  const LowRank *pair = AT(const LowRank, op->p[1]) + adapter;
  return pair->rank > 0 ? pair : 0;
}

INLINE float dot(const float *a, const float *b, int n) {
  f32x16 even = f32x16_zero(), odd = f32x16_zero();
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    even = f32x16_fma(f32x16_load(a + i), f32x16_load(b + i), even);
    odd = f32x16_fma(f32x16_load(a + i + 16), f32x16_load(b + i + 16), odd);
  }
  for (; i + 16 <= n; i += 16) even = f32x16_fma(f32x16_load(a + i), f32x16_load(b + i), even);
  if (i < n) odd = f32x16_fma(f32x16_load_part(a + i, n - i), f32x16_load_part(b + i, n - i), odd);
  return f32x16_reduce_add(f32x16_add(even, odd));
}

void kernel_low_rank_down(const Op *op, const Step *step, Work *work) {
  int width = op->i[1], most = op->i[2], begin, end;
  while (work_take(work, op_rows(op->i[0], 1, step) * most, 8, &begin, &end)) {
    for (int item = begin; item < end; item++) {
      int r = item / most, j = item % most;
      const LowRank *pair = pair_of(op, step, r);
      if (!pair || j >= pair->rank) continue;
      const float *x = AT(const float, op->p[0]) + (size_t)r * width;
      AT(float, op->p[2])[item] = dot(AT(const float, pair->down) + (size_t)j * width, x, width);
    }
  }
}

void kernel_low_rank_up(const Op *op, const Step *step, Work *work) {
  int width = op->i[1], most = op->i[2], begin, end;
  int parts = (width + COLUMNS - 1) / COLUMNS;
  while (work_take(work, op_rows(op->i[0], 1, step) * parts, 2, &begin, &end)) {
    for (int item = begin; item < end; item++) {
      int r = item / parts, from = item % parts * COLUMNS;
      int to = from + COLUMNS < width ? from + COLUMNS : width;
      const LowRank *pair = pair_of(op, step, r);
      if (!pair) continue;
      const float *projected = AT(const float, op->p[0]) + (size_t)r * most, *up = AT(const float, pair->up);
      float *out = AT(float, op->p[2]) + (size_t)r * width;
      for (int c = from; c < to; c += 16) {
        int n = to - c < 16 ? to - c : 16;
        f32x16 sum = n == 16 ? f32x16_load(out + c) : f32x16_load_part(out + c, n);
        for (int j = 0; j < pair->rank; j++) {
          const float *row = up + (size_t)j * width + c;
          f32x16 value = n == 16 ? f32x16_load(row) : f32x16_load_part(row, n);
          sum = f32x16_fma(f32x16_set1(projected[j]), value, sum);
        }
        if (n == 16) f32x16_store(out + c, sum);
        else f32x16_store_part(out + c, sum, n);
      }
    }
  }
}
