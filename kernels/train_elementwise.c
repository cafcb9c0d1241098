// Elementwise training ops over strided matrices.
#include "math.h"
#include "train.h"

// OP_TRAIN_ADD: out = beta * out + alpha * x + constant; what is multiplied by 0 is not read.
// f: [alpha, beta, constant]   p: [{x, out}]
void kernel_train_add(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *out = x + 1;
  const f32x16 alpha = f32x16_set1(op->f[0]), beta = f32x16_set1(op->f[1]), constant = f32x16_set1(op->f[2]);
  (void)step;
  FOR_SEGMENTS(out, work, s) {
    const float *from = row_of(x, s.row) + s.column;
    float *to = row_of(out, s.row) + s.column;
    for (int i = 0; i < s.count; i += 16) {
      const int n = s.count - i;
      f32x16 y = constant;
      if (op->f[0] != 0.f) y = f32x16_fma(alpha, load_some(from + i, n), y);
      if (op->f[1] != 0.f) y = f32x16_fma(beta, load_some(to + i, n), y);
      store_some(to + i, y, n);
    }
  }
}

// OP_TRAIN_ADD_ROW: out[r] += row
// p: [{row, out}]
void kernel_train_add_row(const Op *op, const Step *step, Work *work) {
  const Matrix *row = AT(const Matrix, op->p[0]), *out = row + 1;
  (void)step;
  FOR_SEGMENTS(out, work, s) {
    const float *from = row_of(row, 0) + s.column;
    float *to = row_of(out, s.row) + s.column;
    for (int i = 0; i < s.count; i += 16) {
      const int n = s.count - i;
      store_some(to + i, f32x16_add(load_some(from + i, n), load_some(to + i, n)), n);
    }
  }
}

// OP_TRAIN_SCALE_ROWS: out[r] = scale[r] * x[r]
// p: [{x, scale [rows, 1], out (may be x)}]
void kernel_train_scale_rows(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *scale = x + 1, *out = x + 2;
  (void)step;
  FOR_SEGMENTS(out, work, s) {
    const float *from = row_of(x, s.row) + s.column;
    float *to = row_of(out, s.row) + s.column;
    const f32x16 factor = f32x16_set1(*row_of(scale, s.row));
    for (int i = 0; i < s.count; i += 16) {
      store_some(to + i, f32x16_mul(factor, load_some(from + i, s.count - i)), s.count - i);
    }
  }
}
