// Weight types as kernels see them: what a packed panel looks like.
//
// A panel is 16 rows of a matrix, repacked so that one 64-byte load feeds one dot-product instruction for all 16
// rows. For block-quantised types the columns are cut into blocks of 32 (K / 32 of them), and a panel is
//
//   codes   [K/32] blocks; in each, low bits then high bits
//   scales  [K/32] per-block scales (and minima) of the 16 rows
//   supers  [K/256] half-precision factors of those, for types with superblocks
//
// Column k of a block belongs to quad j = k / 4; row r's four columns of a quad are bytes 4r .. 4r+3 of a vector.
//   8-bit codes: vector j holds quad j.
//   4-bit: vector j & 3 holds quad j (low nibble for j < 4, high for j >= 4).
//   2-bit: vector j & 1 holds quad j, shifted left by 2 (j >> 1).
//   1-bit: the one vector holds quad j, shifted left by j.
// Codes are unsigned; a type's fixed offset is taken off through the activation's sum. f32, f16 and bf16 panels are
// [K][16], one number per column and row.
#ifndef MILLRACE_FORMATS_H
#define MILLRACE_FORMATS_H

#include "millrace.h"
#include "simd.h"

enum WeightType {
  W_F32,
  W_F16,
  W_BF16,
  W_Q4_0,
  W_Q4_1,
  W_Q5_0,
  W_Q5_1,
  W_Q8_0,
  W_Q2_K,
  W_Q3_K,
  W_Q4_K,
  W_Q5_K,
  W_Q6_K,
  W_IQ4_NL,
  W_IQ4_XS,
  NUM_WEIGHT_TYPES
};

#define CONST_FN static inline __attribute__((always_inline, unused, const))

CONST_FN int is_float(int type) { return type <= W_BF16; }
CONST_FN int low_bits(int type) {
  return type == W_Q8_0 ? 8 : type == W_Q2_K || type == W_Q3_K ? 2 : 4;
}
CONST_FN int high_bits(int type) {
  return type == W_Q5_0 || type == W_Q5_1 || type == W_Q5_K || type == W_Q3_K ? 1 : type == W_Q6_K ? 2 : 0;
}
// Scales stand for 16 columns instead of 32.
CONST_FN int has_half_groups(int type) { return type == W_Q2_K || type == W_Q3_K || type == W_Q6_K; }
CONST_FN int has_supers(int type) { return (type >= W_Q2_K && type <= W_Q6_K) || type == W_IQ4_XS; }
CONST_FN int has_minima(int type) {
  return type == W_Q4_1 || type == W_Q5_1 || type == W_Q2_K || type == W_Q4_K || type == W_Q5_K;
}
CONST_FN int is_table(int type) { return type == W_IQ4_NL || type == W_IQ4_XS; }
// What is taken off every code: 0, or 8 << offset_shift. (Q3_K's 4 goes through its minimum.)
CONST_FN int offset_shift(int type) {
  return type == W_Q4_0 ? 0 : type == W_Q5_0 ? 1 : type == W_Q6_K ? 2 : type == W_Q8_0 || is_table(type) ? 4 : -1;
}
CONST_FN int block_code_bytes(int type) { return 64 * (low_bits(type) + high_bits(type)); }
CONST_FN int block_scale_bytes(int type) {
  if (!has_supers(type)) return has_minima(type) ? 64 : 32;
  return type == W_IQ4_XS ? 16 : 32;
}
CONST_FN int super_bytes(int type) { return !has_supers(type) ? 0 : has_minima(type) ? 64 : 32; }

static const uint8_t table_iq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

// ---- Quantised activations -------------------------------------------------------------------------------------
// Rows are grouped in tiles of MAX_TILE, and what remains in tiles of smaller powers of two. A tile of n rows is
// [K/32] blocks of 60 n bytes:
//   codes   int8 [n][32]     x / scale, rounded to nearest, in -127 .. 127
//   scale   f32  [n]         max |x| / 127
//   offset  i32  [n]         -8 x sum of codes
//   sum     f32  [n]         scale x sum of codes
//   offset2 i32  [2][n]      the same for columns 0 .. 15 and 16 .. 31
//   sum2    f32  [2][n]
// so a tile of rows r .. r+n-1 starts at byte r * K/32 * 60.
#define TILE_BLOCK 60
#define MAX_COLUMNS 65536  // of a block-quantised matrix

// As many rows as the target's registers hold sums for.
#if W == 16
#define MAX_TILE 16
#elif W == 8
#define MAX_TILE 8
#elif W == 4
#define MAX_TILE 4
#else
#define MAX_TILE 1
#endif

// The tile that row `row` of `rows` opens: MAX_TILE while they last, then the largest power of two that is left.
static inline int tile_width(int row, int rows) {
  int left = rows - row, width = MAX_TILE;
  while (width > left) width >>= 1;
  return width;
}

int64_t mill_panel_bytes(int32_t type, int32_t columns);
// Decodes row `lane` of a packed panel; exactly the numbers that the file's format defines.
void unpack_row(int32_t type, int32_t columns, const uint8_t *panel, int32_t lane, float *out);

#endif
