// OP_TRAIN_ROPE: rotates, in place, the first 2 * pairs elements of every head of every row at the row's position, or
// back where `inverse`. Row r of a sequence of n rows takes row first + r mod n of the table.
// i: [headWidth, pairs, style (0: (2i, 2i+1), 1: (i, i + pairs)), n, first, inverse]
// p: [{x, table [positions, 2 * pairs]: cos, then sin}]
#include "train.h"

INLINE void rotate(float *x, const float *cos, const float *sin, int pairs, int halves, float sign) {
  const int next = halves ? pairs : 1, every = halves ? 1 : 2;
  int i = 0;
  if (halves) {
    const f32x16 signs = f32x16_set1(sign), zero = f32x16_zero();
    for (; i + 16 <= pairs; i += 16) {
      const f32x16 a = f32x16_load(x + i), b = f32x16_load(x + pairs + i), c = f32x16_load(cos + i);
      const f32x16 s = f32x16_mul(signs, f32x16_load(sin + i));
      f32x16_store(x + i, f32x16_fma(a, c, f32x16_sub(zero, f32x16_mul(b, s))));
      f32x16_store(x + pairs + i, f32x16_fma(a, s, f32x16_mul(b, c)));
    }
  }
  for (; i < pairs; i++) {
    const float a = x[every * i], b = x[every * i + next], s = sign * sin[i];
    x[every * i] = a * cos[i] - b * s;
    x[every * i + next] = a * s + b * cos[i];
  }
}

void kernel_train_rope(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *table = x + 1;
  const int head = op->i[0], pairs = op->i[1], n = op->i[3], first = op->i[4];
  const float sign = op->i[5] ? -1.f : 1.f;
  int begin, end;
  (void)step;
  while (work_take(work, x->rows, 16, &begin, &end)) {
    for (int r = begin; r < end; r++) {
      const float *cos = row_of(table, first + r % n), *sin = cos + pairs;
      for (int h = 0; h < x->columns; h += head) {
        if (op->i[2]) {
          rotate(row_of(x, r) + h, cos, sin, pairs, 1, sign);
        } else {
          rotate(row_of(x, r) + h, cos, sin, pairs, 0, sign);
        }
      }
    }
  }
}
