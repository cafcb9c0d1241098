// Sums over a training matrix. All are cut in ways that depend on the shape alone, so that they never depend on the
// number of threads.
#include "math.h"
#include "train.h"

static float sum_of_squares(const float *x, int n) {
  f32x16 a = f32x16_zero(), b = a;
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    f32x16 u = f32x16_load(x + i), v = f32x16_load(x + i + 16);
    a = f32x16_fma(u, u, a);
    b = f32x16_fma(v, v, b);
  }
  for (; i < n; i += 16) {
    f32x16 u = load_some(x + i, n - i);
    a = f32x16_fma(u, u, a);
  }
  return f32x16_reduce_add(f32x16_add(a, b));
}

// OP_TRAIN_ROW_NORMS: out[r] = L2 norm of x[r]
// p: [{x, out [rows, 1]}]
void kernel_train_row_norms(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *out = x + 1;
  int begin, end;
  (void)step;
  while (work_take(work, x->rows, 8, &begin, &end)) {
    for (int r = begin; r < end; r++) *row_of(out, r) = square_root(sum_of_squares(row_of(x, r), x->columns));
  }
}

// OP_TRAIN_SUM_SQUARES: out[segment] = sum of squares of every SEGMENT elements of a row, in order
// p: [{x, out [1, segments]}]
void kernel_train_sum_squares(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *out = x + 1;
  (void)step;
  FOR_SEGMENTS(x, work, s) {
    row_of(out, 0)[s.row * segments_.per_row + s.column / SEGMENT] = sum_of_squares(row_of(x, s.row) + s.column, s.count);
  }
}

// OP_TRAIN_SUM_ROWS: out += sum over the rows of x, row by row; threads take columns
// p: [{x, out [1, columns]}]
#define STRIP 64
void kernel_train_sum_rows(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *out = x + 1;
  int begin, end;
  (void)step;
  while (work_take(work, (x->columns + STRIP - 1) / STRIP, 1, &begin, &end)) {
    for (int strip = begin; strip < end; strip++) {
      const int count = x->columns - strip * STRIP < STRIP ? x->columns - strip * STRIP : STRIP;
      const float *from = row_of(x, 0) + strip * STRIP;
      float *to = row_of(out, 0) + strip * STRIP;
      f32x16 sums[STRIP / 16];
      for (int i = 0; i < STRIP / 16; i++) sums[i] = 16 * i < count ? load_some(to + 16 * i, count - 16 * i) : f32x16_zero();
      for (int r = 0; r < x->rows; r++, from += x->stride) {
        for (int i = 0; i < STRIP / 16; i++) {
          if (16 * i < count) sums[i] = f32x16_add(sums[i], load_some(from + 16 * i, count - 16 * i));
        }
      }
      for (int i = 0; i < STRIP / 16 && 16 * i < count; i++) store_some(to + 16 * i, sums[i], count - 16 * i);
    }
  }
}
