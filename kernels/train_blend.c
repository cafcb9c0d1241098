// Blends of training: of two matrices, in shares that gates say. A gate [1, G] rules `width` columns of every row.
#include "math.h"
#include "train.h"

// OP_TRAIN_BLEND: out = gate * x + (1 - gate) * y
// i: [width]   p: [{x, y, gates, out}]
void kernel_train_blend(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *y = x + 1, *gates = x + 2, *out = x + 3;
  const int width = op->i[0], per_row = gates->columns;
  int begin, end;
  (void)step;
  while (work_take(work, x->rows * per_row, width < 1024 ? 4096 / width : 4, &begin, &end)) {
    for (int run = begin; run < end; run++) {
      const int row = run / per_row, column = run % per_row * width;
      const float *a = row_of(x, row) + column, *b = row_of(y, row) + column;
      float *to = row_of(out, row) + column, gate = row_of(gates, 0)[run % per_row];
      const f32x16 share = f32x16_set1(gate), rest = f32x16_set1(1.f - gate);
      for (int i = 0; i < width; i += 16) {
        const int n = width - i;
        store_some(to + i, f32x16_fma(share, load_some(a + i, n), f32x16_mul(rest, load_some(b + i, n))), n);
      }
    }
  }
}

// OP_TRAIN_BLEND_BACKWARD: dX += gate * dOut, dY += (1 - gate) * dOut; dOut . (x - y) of every row and gate goes into
// `parts`, whose rows another op adds up.
// i: [width, has dX, has dY, has parts]   p: [{x, y, gates, dOut, dX, dY, parts [rows, G]}]
void kernel_train_blend_backward(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *y = x + 1, *gates = x + 2, *d_out = x + 3, *d_x = x + 4, *d_y = x + 5,
               *parts = x + 6;
  const int width = op->i[0], per_row = gates->columns;
  int begin, end;
  (void)step;
  while (work_take(work, x->rows * per_row, width < 1024 ? 4096 / width : 4, &begin, &end)) {
    for (int run = begin; run < end; run++) {
      const int row = run / per_row, g = run % per_row, column = g * width;
      const float *a = row_of(x, row) + column, *b = row_of(y, row) + column, *d = row_of(d_out, row) + column;
      float *to_x = op->i[1] ? row_of(d_x, row) + column : 0, *to_y = op->i[2] ? row_of(d_y, row) + column : 0;
      const f32x16 share = f32x16_set1(row_of(gates, 0)[g]), rest = f32x16_set1(1.f - row_of(gates, 0)[g]);
      f32x16 dot = f32x16_zero();
      for (int i = 0; i < width; i += 16) {
        const int n = width - i;
        const f32x16 given = load_some(d + i, n);
        if (op->i[3]) dot = f32x16_fma(given, f32x16_sub(load_some(a + i, n), load_some(b + i, n)), dot);
        if (to_x) store_some(to_x + i, f32x16_fma(share, given, load_some(to_x + i, n)), n);
        if (to_y) store_some(to_y + i, f32x16_fma(rest, given, load_some(to_y + i, n)), n);
      }
      if (op->i[3]) row_of(parts, row)[g] = f32x16_reduce_add(dot);
    }
  }
}
