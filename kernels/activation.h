// The gate functions of gated feed-forwards, and their derivatives. `activation` is a constant wherever these are used.
#ifndef MILLRACE_ACTIVATION_H
#define MILLRACE_ACTIVATION_H

#include "math.h"
#include "millrace.h"

INLINE f32x16 activate(int activation, f32x16 x) {
  return activation == ACT_SILU   ? f32x16_silu(x)
         : activation == ACT_GELU ? f32x16_gelu(x)
                                  : f32x16_gelu_tanh(x);
}

// Value and derivative at once.
INLINE f32x16 activate_both(int activation, f32x16 x, f32x16 *slope) {
  const f32x16 one = f32x16_set1(1.f);
  if (activation == ACT_SILU) {  // s (1 + x (1 - s))
    f32x16 s = f32x16_sigmoid(x);
    *slope = f32x16_mul(s, f32x16_fma(x, f32x16_sub(one, s), one));
    return f32x16_mul(x, s);
  }
  if (activation == ACT_GELU) {  // P(x) + x p(x), P and p of the standard normal
    f32x16 p = f32x16_normal_share(x);
    f32x16 e = f32x16_exp(f32x16_mul(f32x16_mul(x, x), f32x16_set1(-0.5f)));
    *slope = f32x16_fma(f32x16_mul(x, f32x16_set1(0.398942280f)), e, p);
    return f32x16_mul(x, p);
  }
  // x s(w), w = 2 sqrt(2/pi) (x + 0.044715 x^3): s + x s (1 - s) w'
  f32x16 square = f32x16_mul(x, x);
  f32x16 inner = f32x16_fma(square, f32x16_set1(0.0713548163f), f32x16_set1(1.59576912f));
  f32x16 s = f32x16_sigmoid(f32x16_mul(x, inner));
  f32x16 dw = f32x16_fma(square, f32x16_set1(0.214064449f), f32x16_set1(1.59576912f));
  f32x16 y = f32x16_mul(x, s);
  *slope = f32x16_fma(f32x16_mul(y, f32x16_sub(one, s)), dw, s);
  return y;
}

#endif
