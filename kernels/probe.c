// OP_PROBE  i: [what, amount]  p: [region, sink]
// What this machine can do, measured by the same threads and vectors that the other kernels use; no model's program
// holds this op. what = 0: reads `amount` MiB at region once. what = 1: `amount` million 16-lane dot products of
// four byte pairs each (dot16_u7: 128 operations apiece). what = 2: `amount` million times 16 f32 multiply-adds in
// registers (32 operations apiece; what a target does not fuse, it does as two instructions). `sink` takes 64 bytes per thread, so that nothing is
// optimised away.
#include "simd.h"
#include "work.h"

#define CHAINS 12

static int32_t read_mebibyte(const uint8_t *p) {
  i32x16 a = i32x16_set1(0), b = a, c = a, d = a;
  for (int at = 0; at < 1 << 20; at += 256) {
    a = i32x16_add(a, i32x16_load((const int32_t *)(p + at)));
    b = i32x16_add(b, i32x16_load((const int32_t *)(p + at + 64)));
    c = i32x16_add(c, i32x16_load((const int32_t *)(p + at + 128)));
    d = i32x16_add(d, i32x16_load((const int32_t *)(p + at + 192)));
  }
  return i32x16_reduce_add(i32x16_add(i32x16_add(a, b), i32x16_add(c, d)));
}

static int32_t dot_million(const int8_t *activations) {
  const u8x64 w = u8x64_mask(u8x64_load((const uint8_t *)activations), 15);
  dot16 sums[CHAINS];
  for (int i = 0; i < CHAINS; i++) sums[i] = dot16_from(i32x16_set1(i));
  for (int n = 0; n < 1000000; n += CHAINS) {
#if defined(__clang__)
#pragma clang loop unroll(full)
#else
#pragma GCC unroll 12
#endif
    for (int i = 0; i < CHAINS; i++) sums[i] = dot16_u7(sums[i], w, activations);
  }
  i32x16 sum = dot16_finish(sums[0]);
  for (int i = 1; i < CHAINS; i++) sum = i32x16_add(sum, dot16_finish(sums[i]));
  return i32x16_reduce_add(sum);
}

static int32_t multiply_add_million(const float *factors) {
  vf sums[CHAINS];
  const vf w = vf_load(factors), x = vf_load(factors + 16);
  for (int i = 0; i < CHAINS; i++) sums[i] = vf_set1((float)i);
  for (int n = 0; n < 1000000 / W * 16; n += CHAINS) {
#if defined(__clang__)
#pragma clang loop unroll(full)
#else
#pragma GCC unroll 12
#endif
    for (int i = 0; i < CHAINS; i++) sums[i] = vf_fma(w, sums[i], x);
  }
  vf sum = sums[0];
  for (int i = 1; i < CHAINS; i++) sum = vf_add(sum, sums[i]);
  return (int32_t)vf_reduce_add(sum);
}

void kernel_probe(const Op *op, const Step *step, Work *work) {
  const uint8_t *region = AT(const uint8_t, op->p[0]);
  // Factors so small that nothing grows, and no less than normal.
  float factors[32];
  for (int i = 0; i < 32; i++) factors[i] = 0.5f + 0.001f * (float)region[i];
  int32_t sum = 0;
  int begin, end;
  (void)step;
  while (work_take(work, op->i[1], 1, &begin, &end)) {
    for (int i = begin; i < end; i++) {
      sum += op->i[0] == 0   ? read_mebibyte(region + ((int64_t)i << 20))
             : op->i[0] == 1 ? dot_million((const int8_t *)region)
                             : multiply_add_million(factors);
    }
  }
  AT(int32_t, op->p[1])[work->thread * 16] = sum;
}
