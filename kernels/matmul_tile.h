// The inner kernel of every matrix product: one packed panel (16 rows) times one tile of 1, 2, 4, 8 or 16 tokens.
// `type` and `n` are constants wherever these functions are used, so each use becomes its own straight-line code;
// tokens are independent and summed in the same order for every n, so a token's result does not depend on what
// else is in the batch.
#ifndef MILLRACE_MATMUL_TILE_H
#define MILLRACE_MATMUL_TILE_H

#include "formats.h"
#include "simd.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// Bits `at` .. of every byte moved to bit `to`, then masked.
#define MOVE_BITS(v, at, to, mask) \
  ((at) > (to) ? u8x64_shr_mask(v, (at) - (to), mask) : u8x64_mask(u8x64_shl(v, (to) - (at)), mask))

// Codes of quad j as unsigned bytes.
INLINE u8x64 load_codes(const int type, const uint8_t *block, const int j) {
  u8x64 codes;
  if (low_bits(type) == 8) {
    codes = u8x64_load(block + 64 * j);
  } else if (low_bits(type) == 4) {
    codes = u8x64_load(block + 64 * (j & 3));
    codes = j < 4 ? u8x64_mask(codes, 15) : u8x64_shr_mask(codes, 4, 15);
  } else {
    codes = u8x64_load(block + 64 * (j & 1));
    codes = j < 2 ? u8x64_mask(codes, 3) : u8x64_shr_mask(codes, 2 * (j >> 1), 3);
  }
  const uint8_t *high = block + 64 * low_bits(type);
  if (high_bits(type) == 1) {
    const int to = low_bits(type);
    codes = u8x64_or(codes, MOVE_BITS(u8x64_load(high), j, to, 1 << to));
  } else if (high_bits(type) == 2) {
    codes = u8x64_or(codes, MOVE_BITS(u8x64_load(high + 64 * (j & 1)), 2 * (j >> 1), 4, 0x30));
  }
  return is_table(type) ? u8x64_lut16(table_iq4, codes) : codes;
}

// Scale and minimum of the 16 rows for half `g` of block b (types with one scale per block ignore g).
INLINE void load_scales(const int type, const uint8_t *scales, const uint8_t *supers, const int g, f32x16 *scale,
                        f32x16 *minimum) {
  if (!has_supers(type)) {
    *scale = f32x16_load_f16((const uint16_t *)scales);
    if (has_minima(type)) *minimum = f32x16_load_f16((const uint16_t *)scales + 16);
    return;
  }
  const f32x16 d = f32x16_load_f16((const uint16_t *)supers);
  if (type == W_Q2_K) {
    i32x16 both = i32x16_load_u8(scales + 16 * g);
    *scale = f32x16_mul(d, f32x16_from_i32(i32x16_and(both, i32x16_set1(15))));
    *minimum = f32x16_mul(f32x16_load_f16((const uint16_t *)supers + 16),
                          f32x16_from_i32(i32x16_sub(i32x16_set1(0), i32x16_shr(both, 4))));
  } else if (has_minima(type)) {
    *scale = f32x16_mul(d, f32x16_load_u8(scales));
    *minimum = f32x16_mul(f32x16_load_f16((const uint16_t *)supers + 16),
                          f32x16_sub(f32x16_zero(), f32x16_load_u8(scales + 16)));
  } else {
    *scale = f32x16_mul(d, f32x16_load_i8((const int8_t *)scales + (has_half_groups(type) ? 16 * g : 0)));
    if (type == W_Q3_K) *minimum = f32x16_mul(*scale, f32x16_set1(-4.f));
  }
}

#define DOT(type, acc, w, a) \
  (low_bits(type) == 8 || is_table(type) ? dot16_u8(acc, w, a) : dot16_u7(acc, w, a))

// Adds the panel times n quantised rows (one tile, see formats.h) onto sums[n].
INLINE void tile_quantized(const int type, const int n, const uint8_t *panel, int blocks, const uint8_t *tile,
                           f32x16 *sums) {
  const uint8_t *scales = panel + (int64_t)blocks * block_code_bytes(type);
  const uint8_t *supers = scales + (int64_t)blocks * block_scale_bytes(type);
  const int subtract = has_minima(type) || type == W_Q3_K;
  for (int b = 0; b < blocks; b++) {
    const uint8_t *block = panel + (int64_t)b * block_code_bytes(type);
    const uint8_t *block_scales = scales + (int64_t)b * block_scale_bytes(type);
    const uint8_t *block_supers = supers + (int64_t)(b >> 3) * super_bytes(type);
    // Blocks to come: far enough ahead that memory latency is covered, and across the page ends where hardware
    // prefetchers stop.
    for (int line = 0; line < block_code_bytes(type); line += 64) __builtin_prefetch(block + 2048 + line);
    const int8_t *a = (const int8_t *)tile + (int64_t)b * n * TILE_BLOCK;
    const float *f = (const float *)(a + n * BLOCK);
    const int32_t *offset = (const int32_t *)f;
    u8x64 w[8];
    UNROLL for (int j = 0; j < 8; j++) w[j] = load_codes(type, block, j);
    f32x16 scale, minimum;
    load_scales(type, block_scales, block_supers, 0, &scale, &minimum);
    if (!has_half_groups(type)) {
      UNROLL for (int t = 0; t < n; t++) {
        dot16 dot = dot16_from(offset_shift(type) < 0 ? i32x16_set1(0)
                                                      : i32x16_set1(offset[n + t] * (1 << offset_shift(type))));
        UNROLL for (int j = 0; j < 8; j++) dot = DOT(type, dot, w[j], a + t * BLOCK + 4 * j);
        sums[t] = f32x16_fma(f32x16_from_i32(dot16_finish(dot)), f32x16_mul(scale, f32x16_set1(f[t])), sums[t]);
        if (subtract) sums[t] = f32x16_fma(minimum, f32x16_set1(f[2 * n + t]), sums[t]);
      }
    } else {
      f32x16 scale1, minimum1;
      load_scales(type, block_scales, block_supers, 1, &scale1, &minimum1);
      UNROLL for (int t = 0; t < n; t++) {
        dot16 low = dot16_from(offset_shift(type) < 0 ? i32x16_set1(0)
                                                      : i32x16_set1(offset[3 * n + t] * (1 << offset_shift(type))));
        dot16 high = dot16_from(offset_shift(type) < 0 ? i32x16_set1(0)
                                                       : i32x16_set1(offset[4 * n + t] * (1 << offset_shift(type))));
        UNROLL for (int j = 0; j < 4; j++) low = DOT(type, low, w[j], a + t * BLOCK + 4 * j);
        UNROLL for (int j = 4; j < 8; j++) high = DOT(type, high, w[j], a + t * BLOCK + 4 * j);
        f32x16 both = f32x16_mul(f32x16_from_i32(dot16_finish(low)), scale);
        both = f32x16_fma(f32x16_from_i32(dot16_finish(high)), scale1, both);
        sums[t] = f32x16_fma(both, f32x16_set1(f[t]), sums[t]);
        if (subtract) {
          sums[t] = f32x16_fma(minimum, f32x16_set1(f[5 * n + t]), sums[t]);
          sums[t] = f32x16_fma(minimum1, f32x16_set1(f[6 * n + t]), sums[t]);
        }
      }
    }
  }
}

INLINE f32x16 load_floats(const int type, const uint8_t *panel, int64_t k) {
  if (type == W_F32) return f32x16_load((const float *)panel + k * PANEL);
  if (type == W_F16) return f32x16_load_f16((const uint16_t *)panel + k * PANEL);
  return f32x16_load_bf16((const uint16_t *)panel + k * PANEL);
}

// The same for f32, f16 and bf16 weights: x holds n rows, `stride` numbers apart. Even and odd columns are summed
// apart, for two chains of additions in flight per row.
INLINE void tile_floats(const int type, const int n, const uint8_t *panel, int columns, const float *const *x,
                        f32x16 *sums) {
  f32x16 odd[n];
  UNROLL for (int t = 0; t < n; t++) odd[t] = f32x16_zero();
  int k = 0;
  for (; k + 2 <= columns; k += 2) {
    const f32x16 w0 = load_floats(type, panel, k), w1 = load_floats(type, panel, k + 1);
    UNROLL for (int t = 0; t < n; t++) {
      sums[t] = f32x16_fma(w0, f32x16_set1(x[t][k]), sums[t]);
      odd[t] = f32x16_fma(w1, f32x16_set1(x[t][k + 1]), odd[t]);
    }
  }
  if (k < columns) {
    const f32x16 w = load_floats(type, panel, k);
    UNROLL for (int t = 0; t < n; t++) sums[t] = f32x16_fma(w, f32x16_set1(x[t][k]), sums[t]);
  }
  UNROLL for (int t = 0; t < n; t++) sums[t] = f32x16_add(sums[t], odd[t]);
}

#endif
