// Elementary functions over 16 lanes, for builds that have no C library. Polynomials are minimax fits (Remez) of the
// stated interval; errors are relative and exclude the rounding of the operations themselves.
#ifndef MILLRACE_MATH_H
#define MILLRACE_MATH_H

#include "simd.h"

// 2^x for x <= 127.4; 0 below -126.5, also for minus infinity. 2^f on -1/2 .. 1/2: 2e-9.
INLINE f32x16 f32x16_exp2(f32x16 x) {
  x = f32x16_max(x, f32x16_set1(-127.f));
  f32x16 n = f32x16_round(x), f = f32x16_sub(x, n);
  f32x16 y = f32x16_set1(1.5353599e-4f);
  y = f32x16_fma(y, f, f32x16_set1(1.3398853e-3f));
  y = f32x16_fma(y, f, f32x16_set1(9.6184364e-3f));
  y = f32x16_fma(y, f, f32x16_set1(5.5503325e-2f));
  y = f32x16_fma(y, f, f32x16_set1(0.24022648f));
  y = f32x16_fma(y, f, f32x16_set1(0.69314720f));
  return f32x16_scale(f32x16_fma(y, f, f32x16_set1(1.f)), n);
}

// e^x; 0 below -87.6, about 2^127.5 above 88.3. e^r on -ln2/2 .. ln2/2: 3e-9.
INLINE f32x16 f32x16_exp(f32x16 x) {
  x = f32x16_min(f32x16_max(x, f32x16_set1(-88.f)), f32x16_set1(88.3f));
  f32x16 n = f32x16_round(f32x16_mul(x, f32x16_set1(1.44269504f)));
  // ln 2 in two parts, the first of so few bits that its product with n is exact
  f32x16 r = f32x16_fma(n, f32x16_set1(-0.693359375f), x);
  r = f32x16_fma(n, f32x16_set1(2.12194440e-4f), r);
  f32x16 y = f32x16_set1(1.38168737e-3f);
  y = f32x16_fma(y, r, f32x16_set1(8.36864021e-3f));
  y = f32x16_fma(y, r, f32x16_set1(4.16683399e-2f));
  y = f32x16_fma(y, r, f32x16_set1(0.166665214f));
  y = f32x16_fma(y, r, f32x16_set1(0.499999937f));
  y = f32x16_fma(f32x16_mul(r, r), y, f32x16_add(r, f32x16_set1(1.f)));
  return f32x16_scale(y, n);
}

INLINE f32x16 f32x16_abs(f32x16 x) {
  return f32x16_from_bits(i32x16_and(i32x16_from_bits(x), i32x16_set1(0x7fffffff)));
}

// |magnitude| with the sign of `sign`.
INLINE f32x16 f32x16_copysign(f32x16 magnitude, f32x16 sign) {
  i32x16 s = i32x16_and(i32x16_from_bits(sign), i32x16_set1((int32_t)0x80000000));
  return f32x16_from_bits(i32x16_or(i32x16_from_bits(f32x16_abs(magnitude)), s));
}

// x + x^3 P(x^2) below 0.625 (6e-9), else 1 - 2 / (e^2|x| + 1).
INLINE f32x16 f32x16_tanh(f32x16 x) {
  f32x16 a = f32x16_abs(x), u = f32x16_mul(x, x), one = f32x16_set1(1.f);
  f32x16 p = f32x16_set1(-5.64908799e-3f);
  p = f32x16_fma(p, u, f32x16_set1(2.05992680e-2f));
  p = f32x16_fma(p, u, f32x16_set1(-5.37316827e-2f));
  p = f32x16_fma(p, u, f32x16_set1(0.133314169f));
  p = f32x16_fma(p, u, f32x16_set1(-0.333332852f));
  f32x16 small = f32x16_fma(f32x16_mul(a, u), p, a);
  f32x16 e = f32x16_exp(f32x16_min(f32x16_add(a, a), f32x16_set1(20.f)));
  f32x16 large = f32x16_sub(one, f32x16_div(f32x16_set1(2.f), f32x16_add(e, one)));
  mask16 is_large = i32x16_gt(i32x16_from_bits(a), i32x16_set1((int32_t)0x3f200000));
  return f32x16_copysign(f32x16_blend(is_large, large, small), x);
}

// 1 / (1 + e^-x)
INLINE f32x16 f32x16_sigmoid(f32x16 x) {
  f32x16 one = f32x16_set1(1.f);
  return f32x16_div(one, f32x16_add(one, f32x16_exp(f32x16_sub(f32x16_zero(), x))));
}

// 1 - erf(z) for z >= 0: e^(-z^2) t P(t) with t = 1 / (1 + z/2) (4e-8 up to z = 11, where the result is 0).
INLINE f32x16 f32x16_erfc_positive(f32x16 z) {
  f32x16 t = f32x16_div(f32x16_set1(1.f), f32x16_fma(z, f32x16_set1(0.5f), f32x16_set1(1.f)));
  f32x16 p = f32x16_set1(-5.92773114e-2f);
  p = f32x16_fma(p, t, f32x16_set1(0.285592521f));
  p = f32x16_fma(p, t, f32x16_set1(-0.489308902f));
  p = f32x16_fma(p, t, f32x16_set1(0.280482112f));
  p = f32x16_fma(p, t, f32x16_set1(-2.82905567e-2f));
  p = f32x16_fma(p, t, f32x16_set1(0.203391686f));
  p = f32x16_fma(p, t, f32x16_set1(0.242925592f));
  p = f32x16_fma(p, t, f32x16_set1(0.282399791f));
  p = f32x16_fma(p, t, f32x16_set1(0.282085023f));
  z = f32x16_min(z, f32x16_set1(11.f));
  f32x16 square = f32x16_mul(z, z), zero = f32x16_zero();
  f32x16 lost = f32x16_fma(z, z, f32x16_sub(zero, square));  // what rounding took off z^2, where fma is fused
  f32x16 e = f32x16_exp(f32x16_sub(zero, square));
  e = f32x16_fma(f32x16_sub(zero, lost), e, e);
  return f32x16_mul(f32x16_mul(e, t), p);
}

// ln x for positive normal x: x = 2^n m with m in sqrt(1/2) .. sqrt 2, ln m = 2 artanh(s), s = (m - 1) / (m + 1), by
// its series (2e-9 of ln m).
INLINE f32x16 f32x16_log(f32x16 x) {
  i32x16 bits = i32x16_from_bits(x);
  i32x16 shifted = i32x16_add(bits, i32x16_set1(0x3f800000 - 0x3f3504f3));
  i32x16 exponent = i32x16_sub(i32x16_shr(shifted, 23), i32x16_set1(127));
  f32x16 m = f32x16_from_bits(i32x16_sub(bits, i32x16_shl(exponent, 23)));
  f32x16 s = f32x16_div(f32x16_sub(m, f32x16_set1(1.f)), f32x16_add(m, f32x16_set1(1.f)));
  f32x16 u = f32x16_mul(s, s), n = f32x16_from_i32(exponent);
  f32x16 y = f32x16_set1(0.222222222f);
  y = f32x16_fma(y, u, f32x16_set1(0.285714286f));
  y = f32x16_fma(y, u, f32x16_set1(0.4f));
  y = f32x16_fma(y, u, f32x16_set1(0.666666667f));
  y = f32x16_fma(f32x16_mul(y, u), s, f32x16_add(s, s));
  // ln 2 in two parts, the first of so few bits that its product with n is exact
  y = f32x16_fma(n, f32x16_set1(-2.12194440e-4f), y);
  return f32x16_fma(n, f32x16_set1(0.693359375f), y);
}

INLINE f32x16 f32x16_silu(f32x16 x) { return f32x16_mul(x, f32x16_sigmoid(x)); }

// Share of a standard normal below x: (1 + erf(x / sqrt 2)) / 2, through erfc so that the negative tail keeps its
// digits.
INLINE f32x16 f32x16_normal_share(f32x16 x) {
  f32x16 z = f32x16_mul(f32x16_abs(x), f32x16_set1(0.707106781f));
  f32x16 tail = f32x16_mul(f32x16_set1(0.5f), f32x16_erfc_positive(z));
  mask16 negative = i32x16_gt(i32x16_set1(0), i32x16_from_bits(x));
  return f32x16_blend(negative, tail, f32x16_sub(f32x16_set1(1.f), tail));
}

INLINE f32x16 f32x16_gelu(f32x16 x) { return f32x16_mul(x, f32x16_normal_share(x)); }

// x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
INLINE f32x16 f32x16_gelu_tanh(f32x16 x) {
  f32x16 cube = f32x16_mul(f32x16_mul(x, x), x);
  f32x16 u = f32x16_mul(f32x16_set1(1.59576912f), f32x16_fma(cube, f32x16_set1(0.044715f), x));
  return f32x16_mul(x, f32x16_sigmoid(u));
}

#endif
