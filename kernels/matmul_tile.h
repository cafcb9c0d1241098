// The inner kernel of every matrix product: one packed panel (16 rows) times one tile of tokens.
//
// Written at the width of a register (W lanes, vf/vi/vb of simd.h): a panel is PARTS registers wide, and the codes
// of one part stay in registers for all tokens of the tile. `type` and `n` are constants wherever these functions
// are used, so each use becomes its own straight-line code; tokens are independent and summed in the same order for
// every n, so a token's result does not depend on what else is in the batch.
#ifndef MILLRACE_MATMUL_TILE_H
#define MILLRACE_MATMUL_TILE_H

#include "formats.h"
#include "simd.h"

#define PARTS (PANEL / W)

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define NO_UNROLL _Pragma("GCC unroll 1")
#endif

// Bits from `at` on of every byte moved to bit `to`, then masked.
#define MOVE_BITS(v, at, to, mask) \
  vb_and((at) > (to) ? vb_shr16(v, (at) > (to) ? (at) - (to) : 0) : vb_shl16(v, (at) > (to) ? 0 : (to) - (at)), vb_set1(mask))

// Codes of quad j as unsigned bytes; `block` points at the part's bytes of the block's first vector.
INLINE vb load_codes(const int type, const uint8_t *block, const int j) {
  vb codes;
  if (low_bits(type) == 8) {
    codes = vb_load(block + 64 * j);
  } else if (low_bits(type) == 4) {
    codes = vb_load(block + 64 * (j & 3));
    codes = vb_and(j < 4 ? codes : vb_shr16(codes, 4), vb_set1(15));
  } else {
    codes = vb_load(block + 64 * (j & 1));
    codes = vb_and(j < 2 ? codes : vb_shr16(codes, 2 * (j >> 1)), vb_set1(3));
  }
  const uint8_t *high = block + 64 * low_bits(type);
  if (high_bits(type) == 1) {
    const int to = low_bits(type);
    codes = vb_or(codes, MOVE_BITS(vb_load(high), j, to, 1 << to));
  } else if (high_bits(type) == 2) {
    codes = vb_or(codes, MOVE_BITS(vb_load(high + 64 * (j & 1)), 2 * (j >> 1), 4, 0x30));
  }
  return is_table(type) ? vb_lut16(table_iq4, codes) : codes;
}

// Scale and minimum of one part's rows for half `g` of a block (types with one scale per block ignore g).
INLINE void load_scales(const int type, const uint8_t *scales, const uint8_t *supers, const int part, const int g,
                        vf *scale, vf *minimum) {
  const int at = part * W;
  if (!has_supers(type)) {
    *scale = vf_load_f16((const uint16_t *)scales + at);
    if (has_minima(type)) *minimum = vf_load_f16((const uint16_t *)scales + PANEL + at);
    return;
  }
  const vf d = vf_load_f16((const uint16_t *)supers + at);
  if (type == W_Q2_K) {
    const vi both = vi_load_u8(scales + PANEL * g + at);
    const vf d_minimum = vf_load_f16((const uint16_t *)supers + PANEL + at);
    *scale = vf_mul(d, vf_from_vi(vi_and(both, vi_set1(15))));
    *minimum = vf_mul(d_minimum, vf_from_vi(vi_sub(vi_set1(0), vi_shr(both, 4))));
  } else if (has_minima(type)) {
    const vf d_minimum = vf_load_f16((const uint16_t *)supers + PANEL + at);
    *scale = vf_mul(d, vf_from_vi(vi_load_u8(scales + at)));
    *minimum = vf_mul(d_minimum, vf_from_vi(vi_sub(vi_set1(0), vi_load_u8(scales + PANEL + at))));
  } else {
    *scale = vf_mul(d, vf_from_vi(vi_load_i8((const int8_t *)scales + (has_half_groups(type) ? PANEL * g : 0) + at)));
    if (type == W_Q3_K) *minimum = vf_mul(*scale, vf_set1(-4.f));
  }
}

// Quads first .. last - 1 of the codes times the activations at `a`, onto `start`.
INLINE vi dot_quads(const int type, const vb *codes, const int8_t *a, vi start, const int first, const int last) {
  if (low_bits(type) + high_bits(type) <= 4 && !is_table(type)) {
    vdot4 dot = vdot4_from(start);
    UNROLL for (int j = first; j < last; j++) dot = vdot4_add(dot, codes[j], vb_set4(a + 4 * j));
    return vdot4_finish(dot);
  }
  vdot dot = vdot_from(start);
  if (low_bits(type) == 8 || is_table(type)) {
    UNROLL for (int j = first; j < last; j++) dot = vdot_u8(dot, codes[j], vb_set4(a + 4 * j));
  } else {
    UNROLL for (int j = first; j < last; j++) dot = vdot_u7(dot, codes[j], vb_set4(a + 4 * j));
  }
  return vdot_finish(dot);
}

// What a sum starts from, so that the type's offset is taken off every code; `minus8` is -8 x sum of activations.
INLINE vi offset_start(const int type, int32_t minus8) {
  return vi_set1(offset_shift(type) < 0 ? 0 : minus8 * (1 << offset_shift(type)));
}

// Where a block of 32 columns lies: its codes, scales and factors in the panel, and the tile's rows.
typedef struct Columns {
  const uint8_t *codes, *scales, *supers;
  const int8_t *rows;
} Columns;

// Adds one part of the panel's rows times one block of n quantised rows onto sums[n].
INLINE void add_part(const int type, const int n, const int part, const Columns *at, vf *sums) {
  const int subtract = has_minima(type) || type == W_Q3_K;
  const int8_t *a = at->rows;
  const float *f = (const float *)(a + n * BLOCK);
  const int32_t *minus8 = (const int32_t *)f;
  vb codes[8];
  UNROLL for (int j = 0; j < 8; j++) codes[j] = load_codes(type, at->codes + part * W * 4, j);
  vf scale, minimum, scale1, minimum1;
  load_scales(type, at->scales, at->supers, part, 0, &scale, &minimum);
  if (has_half_groups(type)) load_scales(type, at->scales, at->supers, part, 1, &scale1, &minimum1);
  UNROLL for (int t = 0; t < n; t++) {
    vf sum = sums[t];
    if (!has_half_groups(type)) {
      vi dot = dot_quads(type, codes, a + t * BLOCK, offset_start(type, minus8[n + t]), 0, 8);
      sum = vf_fma(vf_from_vi(dot), vf_mul(scale, vf_set1(f[t])), sum);
      if (subtract) sum = vf_fma(minimum, vf_set1(f[2 * n + t]), sum);
    } else {
      vi low = dot_quads(type, codes, a + t * BLOCK, offset_start(type, minus8[3 * n + t]), 0, 4);
      vi high = dot_quads(type, codes, a + t * BLOCK, offset_start(type, minus8[4 * n + t]), 4, 8);
      vf both = vf_fma(vf_from_vi(high), scale1, vf_mul(vf_from_vi(low), scale));
      sum = vf_fma(both, vf_set1(f[t]), sum);
      if (subtract) {
        sum = vf_fma(minimum, vf_set1(f[5 * n + t]), sum);
        sum = vf_fma(minimum1, vf_set1(f[6 * n + t]), sum);
      }
    }
    sums[t] = sum;
  }
}

// Adds the panel times n quantised rows (one tile, see formats.h) onto sums[PARTS][n].
INLINE void tile_quantized(const int type, const int n, const uint8_t *panel, int blocks, const uint8_t *tile,
                           vf *sums) {
  Columns at = {.codes = panel, .scales = panel + (int64_t)blocks * block_code_bytes(type), .rows = (const int8_t *)tile};
  const uint8_t *supers = at.scales + (int64_t)blocks * block_scale_bytes(type);
  for (int b = 0; b < blocks; b++) {
    at.supers = supers + (int64_t)(b >> 3) * super_bytes(type);
    // Blocks to come: far enough ahead that memory latency is covered, and across the page ends where hardware
    // prefetchers stop.
    UNROLL for (int line = 0; line < block_code_bytes(type) / 64; line++) {
      __builtin_prefetch(at.codes + 2048 + 64 * line);
    }
    if (n == 1 && W > 1) {  // decoding: straight-line code, whose addresses are constant offsets
      UNROLL for (int part = 0; part < PARTS; part++) add_part(type, n, part, &at, sums + part * n);
    } else {
      NO_UNROLL for (int part = 0; part < PARTS; part++) add_part(type, n, part, &at, sums + part * n);
    }
    at.codes += block_code_bytes(type);
    at.scales += block_scale_bytes(type);
    at.rows += n * TILE_BLOCK;
  }
}

INLINE vf load_floats(const int type, const uint8_t *panel, int64_t at) {
  if (type == W_F32) return vf_load((const float *)panel + at);
  if (type == W_F16) return vf_load_f16((const uint16_t *)panel + at);
  return vf_from_bits(vi_shl(vi_load_u16((const uint16_t *)panel + at), 16));
}

// The same for f32, f16 and bf16 weights and the n rows at x. Even and odd columns are summed apart, for two chains
// of additions in flight per row.
INLINE void tile_floats(const int type, const int n, const uint8_t *panel, int columns, const float *const *x,
                        vf *sums) {
  NO_UNROLL for (int part = 0; part < PARTS; part++) {
    vf even[n], odd[n];
    UNROLL for (int t = 0; t < n; t++) even[t] = odd[t] = vf_set1(0.f);
    int k = 0;
    for (; k + 2 <= columns; k += 2) {
      const vf w0 = load_floats(type, panel, (int64_t)k * PANEL + part * W);
      const vf w1 = load_floats(type, panel, (int64_t)(k + 1) * PANEL + part * W);
      UNROLL for (int t = 0; t < n; t++) {
        even[t] = vf_fma(w0, vf_set1(x[t][k]), even[t]);
        odd[t] = vf_fma(w1, vf_set1(x[t][k + 1]), odd[t]);
      }
    }
    if (k < columns) {
      const vf w = load_floats(type, panel, (int64_t)k * PANEL + part * W);
      UNROLL for (int t = 0; t < n; t++) even[t] = vf_fma(w, vf_set1(x[t][k]), even[t]);
    }
    UNROLL for (int t = 0; t < n; t++) sums[part * n + t] = vf_add(even[t], odd[t]);
  }
}

#endif
