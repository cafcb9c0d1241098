// OP_TRAIN_NORMAL: out = beta * out + alpha * z, z the noise that src/backends/normal-noise.ts defines
// i: [k0, k1, k2]   f: [alpha, beta]   p: [{out}]
#include "math.h"
#include "train.h"

INLINE uint32_t hash(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// Elements `index` .. index + 15.
INLINE f32x16 noise(uint32_t k0, uint32_t k1, uint32_t k2, int64_t index) {
  float p[16], x[16], is_sine[16], sign[16];
  for (int i = 0; i < 16; i++) {
    const int64_t element = index + i;
    const uint32_t a = hash((uint32_t)(element >> 1) + k0) ^ k1, v = hash(a + k2);
    // The sine of an angle is the cosine a quadrant earlier.
    const uint32_t quadrant = ((v >> 30) + ((element & 1) ? 3 : 0)) & 3;
    p[i] = ((float)(int32_t)(hash(a) >> 9) + 0.5f) * 0x1p-23f;
    x[i] = ((float)(int32_t)((v >> 7) & 0x7fffff) + 0.5f) * 0x1p-23f - 0.5f;
    is_sine[i] = (float)(int32_t)(quadrant & 1);
    sign[i] = quadrant == 1 || quadrant == 2 ? -1.f : 1.f;
  }
  const f32x16 angle = f32x16_mul(f32x16_load(x), f32x16_set1(1.57079633f)), u = f32x16_mul(angle, angle);
  // Taylor, on -pi/4 .. pi/4: 3e-10 of the sine, 2e-9 of the cosine
  f32x16 sine = f32x16_set1(2.75573192e-6f);
  sine = f32x16_fma(sine, u, f32x16_set1(-1.98412698e-4f));
  sine = f32x16_fma(sine, u, f32x16_set1(8.33333333e-3f));
  sine = f32x16_fma(sine, u, f32x16_set1(-0.166666667f));
  sine = f32x16_fma(f32x16_mul(sine, u), angle, angle);
  f32x16 cosine = f32x16_set1(-2.75573192e-7f);
  cosine = f32x16_fma(cosine, u, f32x16_set1(2.48015873e-5f));
  cosine = f32x16_fma(cosine, u, f32x16_set1(-1.38888889e-3f));
  cosine = f32x16_fma(cosine, u, f32x16_set1(4.16666667e-2f));
  cosine = f32x16_fma(cosine, u, f32x16_set1(-0.5f));
  cosine = f32x16_fma(cosine, u, f32x16_set1(1.f));
  const mask16 odd = i32x16_gt(i32x16_from_bits(f32x16_load(is_sine)), i32x16_set1(0));
  const f32x16 wave = f32x16_mul(f32x16_load(sign), f32x16_blend(odd, sine, cosine));
  const f32x16 radius = f32x16_sqrt(f32x16_mul(f32x16_set1(-2.f), f32x16_log(f32x16_load(p))));
  return f32x16_mul(radius, wave);
}

void kernel_train_normal(const Op *op, const Step *step, Work *work) {
  const Matrix *out = AT(const Matrix, op->p[0]);
  const uint32_t k0 = (uint32_t)op->i[0], k1 = (uint32_t)op->i[1], k2 = (uint32_t)op->i[2];
  const f32x16 alpha = f32x16_set1(op->f[0]), beta = f32x16_set1(op->f[1]);
  (void)step;
  FOR_SEGMENTS(out, work, s) {
    float *to = row_of(out, s.row) + s.column;
    const int64_t first = (int64_t)s.row * out->columns + s.column;
    for (int i = 0; i < s.count; i += 16) {
      const int n = s.count - i;
      f32x16 y = f32x16_mul(alpha, noise(k0, k1, k2, first + i));
      if (op->f[1] != 0.f) y = f32x16_fma(beta, load_some(to + i, n), y);
      store_some(to + i, y, n);
    }
  }
}
