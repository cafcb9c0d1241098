// The inner loops of attention: a few query rows against a block of up to four groups of 16 keys.
//
// Each (row, key) score is one chain of fused multiplications over the head's elements, and each (row, element) of
// the result one chain over the keys, whatever else is computed beside it. So a row's result does not depend on how
// rows were gathered into tiles.
#ifndef MILLRACE_ATTENTION_TILE_H
#define MILLRACE_ATTENTION_TILE_H

#include "math.h"
#include "page.h"

#define BLOCK_GROUPS 4
#define BLOCK_KEYS (BLOCK_GROUPS * GROUP)

// Accumulators of 16 lanes that the registers hold, and query rows that share one load of a key.
#if W == 16
#define ACCUMULATORS 16
#define ROW_BLOCK 8
#elif W == 8 || defined(__ARM_NEON)
#define ACCUMULATORS 4
#define ROW_BLOCK 4
#elif W == 4
#define ACCUMULATORS 2
#define ROW_BLOCK 2
#else
#define ACCUMULATORS 1
#define ROW_BLOCK 1
#endif
// How many vectors each of `rows` rows may keep in registers.
#define SHARE(rows) ((rows) * 4 <= ACCUMULATORS ? 4 : (rows) * 2 <= ACCUMULATORS ? 2 : 1)
#if ROW_BLOCK == 8
#define EACH_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#elif ROW_BLOCK == 4
#define EACH_ROWS(X) X(1) X(2) X(3) X(4)
#elif ROW_BLOCK == 2
#define EACH_ROWS(X) X(1) X(2)
#else
#define EACH_ROWS(X) X(1)
#endif

// 16 tokens of one lane, as some rows see them.
typedef struct Group16 {
  const uint8_t *keys;       // [K][16]
  const uint8_t *values;     // [16][Dp]
  const float *scales;       // of the 16 keys, then of the 16 values; 0 where the codec has none
  const int32_t *positions;  // [16]
  float *mass;               // [16], or 0
  const float *log_counts;   // [16], or 0
  const int32_t *shown;      // [16], bit per token of the span: attends to it; or 0, where all do
  ptrdiff_t ahead;           // from here to the group that will be read a block later
  uint32_t live;             // bit per token: some row sees it
  int masked;                // some row does not see all 16
} Group16;

INLINE f32x16 load_elements(const int codec, const uint8_t *p, size_t i) {
  return codec == CODEC_F32   ? f32x16_load((const float *)p + i)
         : codec == CODEC_F16 ? f32x16_load_f16((const uint16_t *)p + i)
                              : f32x16_load_i8((const int8_t *)p + i);
}

// scores[r][16 g + l] = sum over d of q[d][r] * keys[g][d][l]
INLINE void score_some(const int codec, const int rows, const int groups, const float *q, int width,
                       const Group16 *group, float *scores) {
  f32x16 sum[ROW_BLOCK][BLOCK_GROUPS];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) sum[r][g] = f32x16_zero();
  }
  const size_t line = GROUP * codec_element_bytes(codec);
  for (int d = 0; d < width; d++) {
    f32x16 key[BLOCK_GROUPS];
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) {
      key[g] = load_elements(codec, group[g].keys + d * line, 0);
      if (codec != CODEC_F32) __builtin_prefetch(group[g].keys + d * line + group[g].ahead);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      f32x16 element = f32x16_set1(q[d * rows + r]);
#pragma GCC unroll 4
      for (int g = 0; g < groups; g++) sum[r][g] = f32x16_fma(element, key[g], sum[r][g]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) f32x16_store(scores + r * BLOCK_KEYS + g * GROUP, sum[r][g]);
  }
}

// sum[r][c] += p[r][0] * values[16 c ..]
INLINE void add_token(const int codec, const int rows, const int vectors, const float *p, const uint8_t *values,
                      ptrdiff_t ahead, f32x16 sum[ROW_BLOCK][4]) {
  const size_t vector = 16 * codec_element_bytes(codec);
  f32x16 value[4];
#pragma GCC unroll 4
  for (int c = 0; c < vectors; c++) {
    value[c] = load_elements(codec, values + c * vector, 0);
    if (codec != CODEC_F32 && c * vector % 64 == 0) __builtin_prefetch(values + c * vector + ahead);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
    f32x16 weight = f32x16_set1(p[r * BLOCK_KEYS]);
#pragma GCC unroll 4
    for (int c = 0; c < vectors; c++) sum[r][c] = f32x16_fma(weight, value[c], sum[r][c]);
  }
}

// out[r][16 c + l] = out[r][16 c + l] * factor[r] + sum over live tokens of p[r][token] * values[token][16 c + l]
INLINE void add_some_values(const int codec, const int rows, const int vectors, const float *p, const float *factor,
                            int padded, const Group16 *group, int groups, int column, float *out) {
  f32x16 sum[ROW_BLOCK][4];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
    f32x16 f = f32x16_set1(factor[r]);
#pragma GCC unroll 4
    for (int c = 0; c < vectors; c++) {
      sum[r][c] = f32x16_mul(f32x16_load(out + (size_t)r * padded + column + 16 * c), f);
    }
  }
  const size_t element = codec_element_bytes(codec), line = element * padded;
  for (int g = 0; g < groups; g++, p += GROUP) {
    const uint8_t *values = group[g].values + element * column;
    ptrdiff_t ahead = group[g].ahead;
    if (group[g].live == 0xffff) {
      for (int t = 0; t < GROUP; t++) add_token(codec, rows, vectors, p + t, values + t * line, ahead, sum);
      continue;
    }
    for (uint32_t live = group[g].live; live; live &= live - 1) {  // an empty slot may hold anything, even NaN
      int t = __builtin_ctz(live);
      add_token(codec, rows, vectors, p + t, values + t * line, ahead, sum);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
    for (int c = 0; c < vectors; c++) f32x16_store(out + (size_t)r * padded + column + 16 * c, sum[r][c]);
  }
}

INLINE void score_rows(const int codec, const int rows, const float *q, int width, const Group16 *group, int groups,
                       float *scores) {
  int g = 0;
  for (; g + SHARE(rows) <= groups; g += SHARE(rows)) {
    score_some(codec, rows, SHARE(rows), q, width, group + g, scores + g * GROUP);
  }
  for (; g < groups; g++) score_some(codec, rows, 1, q, width, group + g, scores + g * GROUP);
}

INLINE void add_row_values(const int codec, const int rows, const float *p, const float *factor, int padded,
                           const Group16 *group, int groups, float *out) {
  int c = 0;
  for (; c + 16 * SHARE(rows) <= padded; c += 16 * SHARE(rows)) {
    add_some_values(codec, rows, SHARE(rows), p, factor, padded, group, groups, c, out);
  }
  for (; c < padded; c += 16) add_some_values(codec, rows, 1, p, factor, padded, group, groups, c, out);
}

#define PER_CODEC(codec, name)                                                                                   \
  static void score_##name(int rows, const float *q, int width, const Group16 *group, int groups, float *scores) { \
    switch (rows) { EACH_ROWS(SCORE_CASE_##codec) }                                                              \
  }                                                                                                              \
  static void add_values_##name(int rows, const float *p, const float *factor, int padded, const Group16 *group, \
                                int groups, float *out) {                                                        \
    switch (rows) { EACH_ROWS(VALUE_CASE_##codec) }                                                              \
  }
#define SCORE_CASE(codec, n) \
  case n: score_rows(codec, n, q, width, group, groups, scores); break;
#define VALUE_CASE(codec, n) \
  case n: add_row_values(codec, n, p, factor, padded, group, groups, out); break;
#define SCORE_CASE_CODEC_F32(n) SCORE_CASE(CODEC_F32, n)
#define SCORE_CASE_CODEC_F16(n) SCORE_CASE(CODEC_F16, n)
#define SCORE_CASE_CODEC_INT8(n) SCORE_CASE(CODEC_INT8, n)
#define VALUE_CASE_CODEC_F32(n) VALUE_CASE(CODEC_F32, n)
#define VALUE_CASE_CODEC_F16(n) VALUE_CASE(CODEC_F16, n)
#define VALUE_CASE_CODEC_INT8(n) VALUE_CASE(CODEC_INT8, n)
PER_CODEC(CODEC_F32, f32)
PER_CODEC(CODEC_F16, f16)
PER_CODEC(CODEC_INT8, int8)

// Raw scores of up to ROW_BLOCK rows against up to BLOCK_GROUPS groups.
static void score_block(int codec, int rows, const float *q, int width, const Group16 *group, int groups,
                        float *scores) {
  switch (codec) {
    case CODEC_F32: score_f32(rows, q, width, group, groups, scores); break;
    case CODEC_F16: score_f16(rows, q, width, group, groups, scores); break;
    case CODEC_INT8: score_int8(rows, q, width, group, groups, scores); break;
    default: __builtin_trap();
  }
}

// Scales each row's sums by its factor, then adds the values, weighted.
SHARED void add_values_block(int codec, int rows, const float *p, const float *factor, int padded,
                             const Group16 *group, int groups, float *out) {
  switch (codec) {
    case CODEC_F32: add_values_f32(rows, p, factor, padded, group, groups, out); break;
    case CODEC_F16: add_values_f16(rows, p, factor, padded, group, groups, out); break;
    case CODEC_INT8: add_values_int8(rows, p, factor, padded, group, groups, out); break;
    default: __builtin_trap();
  }
}

// Elements of a group as f32: keys [K][16], values [16][Dp], without their scales.
static void unpack_group(int codec, const Group16 *group, int width, int padded, float *keys, float *values) {
  int size = GROUP * width, padded_size = GROUP * padded;
  switch (codec) {
    case CODEC_F16:
      for (int i = 0; i < size; i += 16) f32x16_store(keys + i, load_elements(CODEC_F16, group->keys, i));
      for (int i = 0; i < padded_size; i += 16) f32x16_store(values + i, load_elements(CODEC_F16, group->values, i));
      break;
    case CODEC_INT8:
      for (int i = 0; i < size; i += 16) f32x16_store(keys + i, load_elements(CODEC_INT8, group->keys, i));
      for (int i = 0; i < padded_size; i += 16) f32x16_store(values + i, load_elements(CODEC_INT8, group->values, i));
      break;
    default: __builtin_trap();
  }
}

#endif
