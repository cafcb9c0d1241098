// OP_TRAIN_ADAMW: m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
// w = keep * w - rate * m / (root * sqrt(v) + epsilon), where root = 1 / sqrt(1 - b2^step), keep = 1 - rate * decay, and
// rate (of the moments) holds 1 / (1 - b1^step).
// i: bits of [b1, 1 - b1, b2, 1 - b2, root, epsilon, rate, keep]   p: [{w, g, m, v}]
#include "train.h"

void kernel_train_adamw(const Op *op, const Step *step, Work *work) {
  const Matrix *w = AT(const Matrix, op->p[0]);
  f32x16 f[8];
  (void)step;
  for (int i = 0; i < 8; i++) f[i] = f32x16_set1(bits_to_f32((uint32_t)op->i[i]));
  FOR_SEGMENTS(w, work, s) {
    float *weight = row_of(w, s.row) + s.column, *mean = row_of(w + 2, s.row) + s.column;
    float *square = row_of(w + 3, s.row) + s.column;
    const float *gradient = row_of(w + 1, s.row) + s.column;
    for (int i = 0; i < s.count; i += 16) {
      const int n = s.count - i;
      const f32x16 g = load_some(gradient + i, n);
      const f32x16 m = f32x16_fma(f[0], load_some(mean + i, n), f32x16_mul(f[1], g));
      const f32x16 v = f32x16_fma(f[2], load_some(square + i, n), f32x16_mul(f32x16_mul(f[3], g), g));
      const f32x16 root = f32x16_fma(f[4], f32x16_sqrt(v), f[5]);
      const f32x16 move = f32x16_div(f32x16_mul(f[6], m), root);
      store_some(mean + i, m, n);
      store_some(square + i, v, n);
      store_some(weight + i, f32x16_sub(f32x16_mul(f[7], load_some(weight + i, n)), move), n);
    }
  }
}
