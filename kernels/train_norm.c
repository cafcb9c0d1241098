// RMS norms of training: every run of `width` elements of a row.
#include "math.h"
#include "train.h"

// Factor of a run, 1 / sqrt(mean(x^2) + epsilon).
INLINE float inverse_root(const float *x, int width, float epsilon) {
  f32x16 sum = f32x16_zero();
  for (int i = 0; i < width; i += 16) {
    const f32x16 v = load_some(x + i, width - i);
    sum = f32x16_fma(v, v, sum);
  }
  return 1.f / square_root(f32x16_reduce_add(sum) / (float)width + epsilon);
}

// OP_TRAIN_NORM: out = x * factor * weight
// i: [width, has weight]   f: [epsilon]   p: [{x, weight, out}]
void kernel_train_norm(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *out = x + 2;
  const int width = op->i[0], per_row = x->columns / width;
  const float *weight = op->i[1] ? row_of(x + 1, 0) : 0;
  int begin, end;
  (void)step;
  while (work_take(work, x->rows * per_row, width < 1024 ? 4096 / width : 4, &begin, &end)) {
    for (int run = begin; run < end; run++) {
      const float *from = row_of(x, run / per_row) + run % per_row * width;
      float *to = row_of(out, run / per_row) + run % per_row * width;
      const f32x16 factor = f32x16_set1(inverse_root(from, width, op->f[0]));
      for (int i = 0; i < width; i += 16) {
        const int n = width - i;
        f32x16 y = f32x16_mul(load_some(from + i, n), factor);
        if (weight) y = f32x16_mul(y, load_some(weight + i, n));
        store_some(to + i, y, n);
      }
    }
  }
}

// OP_TRAIN_NORM_BACKWARD: with y = x * factor and g = dOut * weight: dX += factor * (g - y * mean(g y)); the weight's
// gradient dOut * y is summed over every i[2] runs into a row of `parts`, which another op adds up.
// i: [width, has weight, runs per part, has parts]   f: [epsilon]   p: [{x, weight, dOut, dX, parts [n, width]}]
void kernel_train_norm_backward(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *d_out = x + 2, *d_x = x + 3, *parts = x + 4;
  const int width = op->i[0], per_row = x->columns / width, per_part = op->i[2], total = x->rows * per_row;
  const float *weight = op->i[1] ? row_of(x + 1, 0) : 0;
  int begin, end;
  (void)step;
  while (work_take(work, (total + per_part - 1) / per_part, 1, &begin, &end)) {
    for (int part = begin; part < end; part++) {
      float *sums = op->i[3] ? row_of(parts, part) : 0;
      if (sums) {
        for (int i = 0; i < width; i += 16) store_some(sums + i, f32x16_zero(), width - i);
      }
      const int last = (part + 1) * per_part < total ? (part + 1) * per_part : total;
      for (int run = part * per_part; run < last; run++) {
        const int row = run / per_row, column = run % per_row * width;
        const float *from = row_of(x, row) + column, *given = row_of(d_out, row) + column;
        float *to = row_of(d_x, row) + column;
        const float factor = inverse_root(from, width, op->f[0]);
        f32x16 dot = f32x16_zero();
        for (int i = 0; i < width; i += 16) {
          const int n = width - i;
          f32x16 g = load_some(given + i, n);
          if (weight) g = f32x16_mul(g, load_some(weight + i, n));
          dot = f32x16_fma(g, load_some(from + i, n), dot);
        }
        const float mean = f32x16_reduce_add(dot) * factor / (float)width;
        const f32x16 scale = f32x16_set1(factor), back = f32x16_set1(-mean);
        for (int i = 0; i < width; i += 16) {
          const int n = width - i;
          const f32x16 d = load_some(given + i, n), y = f32x16_mul(load_some(from + i, n), scale);
          const f32x16 g = weight ? f32x16_mul(d, load_some(weight + i, n)) : d;
          store_some(to + i, f32x16_fma(scale, f32x16_fma(y, back, g), load_some(to + i, n)), n);
          if (sums) store_some(sums + i, f32x16_fma(d, y, load_some(sums + i, n)), n);
        }
      }
    }
  }
}
