// OP_RMS_NORM: every run of normWidth elements becomes x / sqrt(mean(x^2) + epsilon) * weight
// i: [rowsKind, rowWidth, normWidth, per]   f: [epsilon]   p: [x, weight f32 [normWidth] or 0, out (may be x)]
#include "simd.h"
#include "work.h"

static float sum_of_squares(const float *x, int n) {
  f32x16 a = f32x16_zero(), b = a;
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    f32x16 u = f32x16_load(x + i), v = f32x16_load(x + i + 16);
    a = f32x16_fma(u, u, a);
    b = f32x16_fma(v, v, b);
  }
  for (; i < n; i += 16) {
    f32x16 u = i + 16 <= n ? f32x16_load(x + i) : f32x16_load_part(x + i, n - i);
    a = f32x16_fma(u, u, a);
  }
  return f32x16_reduce_add(f32x16_add(a, b));
}

void kernel_rms_norm(const Op *op, const Step *step, Work *work) {
  int width = op->i[2], per_row = op->i[1] / width;
  int total = op_rows(op->i[0], op->i[3], step) * per_row;
  int grain = width < 1024 ? 1024 / width : 1;
  const float *weight = AT(const float, op->p[1]);
  f32x16 one = f32x16_set1(1.f);
  int begin, end;
  while (work_take(work, total, grain, &begin, &end)) {
    for (int r = begin; r < end; r++) {
      const float *x = AT(const float, op->p[0]) + (size_t)r * width;
      float *out = AT(float, op->p[2]) + (size_t)r * width;
      f32x16 square = f32x16_set1(sum_of_squares(x, width) / (float)width + op->f[0]);
      f32x16 factor = f32x16_div(one, f32x16_sqrt(square));
      int i = 0;
      for (; i + 16 <= width; i += 16) {
        f32x16 y = f32x16_mul(f32x16_load(x + i), factor);
        f32x16_store(out + i, weight ? f32x16_mul(y, f32x16_load(weight + i)) : y);
      }
      if (i < width) {
        f32x16 y = f32x16_mul(f32x16_load_part(x + i, width - i), factor);
        if (weight) y = f32x16_mul(y, f32x16_load_part(weight + i, width - i));
        f32x16_store_part(out + i, y, width - i);
      }
    }
  }
}
