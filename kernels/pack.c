// Repacks rows from the file's block layouts into panels (formats.h), and reads single rows back out of panels.
// Block layouts: the GGUF specification's quantisation types.
#include "formats.h"
#include "simd.h"

#define EXPORT __attribute__((visibility("default"), used))

EXPORT int32_t mill_wants_quantized(int32_t type) { return !is_float(type); }

// Bytes of one packed panel of 16 rows; 0 where the type cannot hold such rows.
EXPORT int64_t mill_panel_bytes(int32_t type, int32_t columns) {
  if (type < 0 || type >= NUM_WEIGHT_TYPES || columns <= 0) return 0;
  if (is_float(type)) return (int64_t)columns * PANEL * (type == W_F32 ? 4 : 2);
  if (columns % (has_supers(type) ? 256 : BLOCK) != 0 || columns > MAX_COLUMNS) return 0;
  const int64_t blocks = columns / BLOCK;
  int64_t bytes = blocks * (block_code_bytes(type) + block_scale_bytes(type)) + blocks / 8 * super_bytes(type);
  return (bytes + 63) & ~(int64_t)63;
}

// One row's block of 32 columns, read from the file's layout.
typedef struct Block {
  uint8_t codes[32];
  // What the panel stores beside the codes: halves for simple types, bytes for types with superblocks.
  uint16_t scale, minimum;
  uint8_t byte_scale[2], byte_minimum[2];
  uint16_t super_scale, super_minimum;
} Block;

CONST_FN int file_block_elements(int type) { return has_supers(type) ? 256 : is_float(type) ? 1 : 32; }

CONST_FN int file_block_bytes(int type) {
  switch (type) {
    case W_F32: return 4;
    case W_F16: return 2;
    case W_BF16: return 2;
    case W_Q4_0: return 18;
    case W_Q4_1: return 20;
    case W_Q5_0: return 22;
    case W_Q5_1: return 24;
    case W_Q8_0: return 34;
    case W_Q2_K: return 84;
    case W_Q3_K: return 110;
    case W_Q4_K: return 144;
    case W_Q5_K: return 176;
    case W_Q6_K: return 210;
    case W_IQ4_NL: return 18;
    default: return 136;  // IQ4_XS
  }
}

INLINE uint16_t half_at(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

INLINE void nibbles(const uint8_t *from, uint8_t *codes) {
  for (int i = 0; i < 16; i++) {
    codes[i] = from[i] & 15;
    codes[i + 16] = from[i] >> 4;
  }
}

INLINE void fifth_bits(const uint8_t *from, uint8_t *codes) {
  const uint32_t bits = (uint32_t)half_at(from) | (uint32_t)half_at(from + 2) << 16;
  for (int i = 0; i < 32; i++) codes[i] |= ((bits >> i) & 1) << 4;
}

// Six-bit scale and minimum of block `j` of a Q4_K or Q5_K superblock.
INLINE void six_bit_pair(const uint8_t *p, int j, uint8_t *scale, uint8_t *minimum) {
  if (j < 4) {
    *scale = p[j] & 63;
    *minimum = p[j + 4] & 63;
  } else {
    *scale = (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
    *minimum = (p[j + 4] >> 4) | (p[j] >> 6) << 4;
  }
}

// Six-bit signed scale `g` (of 16) of a Q3_K superblock, stored with 32 added.
INLINE int8_t q3_scale(const uint8_t *p, int g) {
  const int low = g < 8 ? p[g] & 15 : p[g - 8] >> 4;
  return (int8_t)((low | ((p[8 + (g & 3)] >> (2 * (g >> 2))) & 3) << 4) - 32);
}

// Block `b` (of 32 columns) of the row at `row`.
INLINE void read_block(const int type, const uint8_t *row, int b, Block *out) {
  const int per = file_block_elements(type) / 32;
  const uint8_t *p = row + (int64_t)(b / per) * file_block_bytes(type);
  const int j = b % per;
  switch (type) {
    case W_Q4_0:
    case W_IQ4_NL:
      out->scale = half_at(p);
      nibbles(p + 2, out->codes);
      break;
    case W_Q4_1:
      out->scale = half_at(p);
      out->minimum = half_at(p + 2);
      nibbles(p + 4, out->codes);
      break;
    case W_Q5_0:
      out->scale = half_at(p);
      nibbles(p + 6, out->codes);
      fifth_bits(p + 2, out->codes);
      break;
    case W_Q5_1:
      out->scale = half_at(p);
      out->minimum = half_at(p + 2);
      nibbles(p + 8, out->codes);
      fifth_bits(p + 4, out->codes);
      break;
    case W_Q8_0:
      out->scale = half_at(p);
      for (int i = 0; i < 32; i++) out->codes[i] = p[2 + i] ^ 0x80;
      break;
    case W_Q2_K:  // scales[16], qs[64], d, dmin
      for (int g = 0; g < 2; g++) {
        out->byte_scale[g] = p[2 * j + g] & 15;
        out->byte_minimum[g] = p[2 * j + g] >> 4;
      }
      for (int i = 0; i < 32; i++) out->codes[i] = (p[16 + 32 * (j / 4) + i] >> (2 * (j % 4))) & 3;
      out->super_scale = half_at(p + 80);
      out->super_minimum = half_at(p + 82);
      break;
    case W_Q3_K:  // hmask[32], qs[64], scales[12], d
      for (int g = 0; g < 2; g++) out->byte_scale[g] = (uint8_t)q3_scale(p + 96, 2 * j + g);
      for (int i = 0; i < 32; i++) {
        out->codes[i] = ((p[32 + 32 * (j / 4) + i] >> (2 * (j % 4))) & 3) | ((p[i] >> j) & 1) << 2;
      }
      out->super_scale = half_at(p + 108);
      break;
    case W_Q4_K:  // d, dmin, scales[12], qs[128]
    case W_Q5_K:  // d, dmin, scales[12], qh[32], qs[128]
      out->super_scale = half_at(p);
      out->super_minimum = half_at(p + 2);
      six_bit_pair(p + 4, j, &out->byte_scale[0], &out->byte_minimum[0]);
      {
        const uint8_t *low = p + (type == W_Q4_K ? 16 : 48) + 32 * (j / 2);
        for (int i = 0; i < 32; i++) {
          out->codes[i] = j & 1 ? low[i] >> 4 : low[i] & 15;
          if (type == W_Q5_K) out->codes[i] |= ((p[16 + i] >> j) & 1) << 4;
        }
      }
      break;
    case W_Q6_K:  // ql[128], qh[64], scales[16], d; halves of 128 columns in four runs of 32
      for (int g = 0; g < 2; g++) out->byte_scale[g] = p[192 + 2 * j + g];
      for (int i = 0; i < 32; i++) {
        const uint8_t low = p[64 * (j / 4) + 32 * (j % 2) + i];
        const uint8_t high = p[128 + 32 * (j / 4) + i];
        out->codes[i] = ((j % 4) < 2 ? low & 15 : low >> 4) | ((high >> (2 * (j % 4))) & 3) << 4;
      }
      out->super_scale = half_at(p + 208);
      break;
    default:  // IQ4_XS: d, scales_h (u16), scales_l[4], qs[128]
      out->super_scale = half_at(p);
      out->byte_scale[0] =
          (uint8_t)(((p[4 + j / 2] >> (4 * (j & 1)) & 15) | ((half_at(p + 2) >> (2 * j)) & 3) << 4) - 32);
      nibbles(p + 8 + 16 * j, out->codes);
      break;
  }
}

// Four codes at a time: the four columns of a quad are neighbours in the file's block and in the panel's vectors.
INLINE void write_codes(const int type, const Block *block, int lane, uint8_t *to) {
  const int bits = low_bits(type);
  const uint32_t low_mask = 0x01010101u * ((1u << bits) - 1), one = 0x01010101u, three = 0x03030303u;
  uint32_t quad[8], *vector = (uint32_t *)to + lane, *high = vector + 16 * bits;
  __builtin_memcpy(quad, block->codes, 32);
  if (bits == 8) {
    for (int j = 0; j < 8; j++) vector[16 * j] = quad[j];
  } else if (bits == 4) {
    for (int v = 0; v < 4; v++) vector[16 * v] = (quad[v] & low_mask) | (quad[v + 4] & low_mask) << 4;
  } else {
    for (int v = 0; v < 2; v++) {
      uint32_t word = 0;
      for (int i = 0; i < 4; i++) word |= (quad[v + 2 * i] & low_mask) << (2 * i);
      vector[16 * v] = word;
    }
  }
  if (high_bits(type) == 1) {
    uint32_t word = 0;
    for (int j = 0; j < 8; j++) word |= ((quad[j] >> bits) & one) << j;
    *high = word;
  } else if (high_bits(type) == 2) {
    for (int v = 0; v < 2; v++) {
      uint32_t word = 0;
      for (int i = 0; i < 4; i++) word |= ((quad[v + 2 * i] >> bits) & three) << (2 * i);
      high[16 * v] = word;
    }
  }
}

INLINE void write_scales(const int type, const Block *block, int lane, uint8_t *to) {
  if (!has_supers(type)) {
    ((uint16_t *)to)[lane] = block->scale;
    if (has_minima(type)) ((uint16_t *)to)[16 + lane] = block->minimum;
  } else if (type == W_Q2_K) {
    for (int g = 0; g < 2; g++) to[16 * g + lane] = block->byte_scale[g] | block->byte_minimum[g] << 4;
  } else {
    to[lane] = block->byte_scale[0];
    if (has_half_groups(type)) to[16 + lane] = block->byte_scale[1];
    if (has_minima(type)) to[16 + lane] = block->byte_minimum[0];
  }
}

static void pack_floats(int type, int rows, int columns, const uint8_t *from, uint8_t *to) {
  const int size = type == W_F32 ? 4 : 2;
  for (int k = 0; k < columns; k++) {
    for (int r = 0; r < rows; r++) {
      __builtin_memcpy(to + ((int64_t)k * PANEL + r) * size, from + ((int64_t)r * columns + k) * size, size);
    }
  }
}

// One panel of up to 16 rows of a block-quantised type.
INLINE void pack_panel(const int type, int lanes, int columns, const uint8_t *from, int64_t row_bytes, uint8_t *to) {
  const int blocks = columns / BLOCK;
  uint8_t *scales = to + (int64_t)blocks * block_code_bytes(type);
  uint8_t *supers = scales + (int64_t)blocks * block_scale_bytes(type);
  for (int b = 0; b < blocks; b++) {
    uint8_t *codes = to + (int64_t)b * block_code_bytes(type);
    for (int lane = 0; lane < lanes; lane++) {
      Block block;
      read_block(type, from + lane * row_bytes, b, &block);
      write_codes(type, &block, lane, codes);
      write_scales(type, &block, lane, scales + (int64_t)b * block_scale_bytes(type));
      if (has_supers(type) && b % 8 == 0) {
        uint16_t *super = (uint16_t *)(supers + (int64_t)(b / 8) * super_bytes(type));
        super[lane] = block.super_scale;
        if (has_minima(type)) super[16 + lane] = block.super_minimum;
      }
    }
  }
}

// Packs `rows` rows, contiguous at `source` in the file's layout, into ceil(rows / 16) panels at `target`; lanes
// past the last row become zero rows.
EXPORT void mill_pack(int32_t type, int32_t rows, int32_t columns, uint64_t source, uint64_t target) {
  const uint8_t *from = AT(const uint8_t, source);
  uint8_t *to = AT(uint8_t, target);
  const int64_t panel_bytes = mill_panel_bytes(type, columns);
  const int64_t row_bytes = (int64_t)(columns / file_block_elements(type)) * file_block_bytes(type);
  for (int first = 0; first < rows; first += PANEL, to += panel_bytes, from += PANEL * row_bytes) {
    const int lanes = rows - first < PANEL ? rows - first : PANEL;
    if (lanes < PANEL) __builtin_memset(to, 0, (size_t)panel_bytes);
    switch (type) {
#define CASE(type)                                          \
  case type:                                                \
    pack_panel(type, lanes, columns, from, row_bytes, to); \
    break;
      CASE(W_Q4_0)
      CASE(W_Q4_1)
      CASE(W_Q5_0)
      CASE(W_Q5_1)
      CASE(W_Q8_0)
      CASE(W_Q2_K)
      CASE(W_Q3_K)
      CASE(W_Q4_K)
      CASE(W_Q5_K)
      CASE(W_Q6_K)
      CASE(W_IQ4_NL)
      CASE(W_IQ4_XS)
#undef CASE
      default: pack_floats(type, lanes, columns, from, to);
    }
  }
}

static int code_at(int type, const uint8_t *codes, int lane, int k) {
  const int bits = low_bits(type), quad = k >> 2, byte = lane * 4 + (k & 3);
  int code = bits == 8   ? codes[quad * 64 + byte]
             : bits == 4 ? (codes[(quad & 3) * 64 + byte] >> (quad < 4 ? 0 : 4)) & 15
                         : (codes[(quad & 1) * 64 + byte] >> (2 * (quad >> 1))) & 3;
  if (high_bits(type) == 1) code |= ((codes[bits * 64 + byte] >> quad) & 1) << bits;
  if (high_bits(type) == 2) code |= ((codes[bits * 64 + (quad & 1) * 64 + byte] >> (2 * (quad >> 1))) & 3) << bits;
  return is_table(type) ? table_iq4[code] : code;
}

void unpack_row(int32_t type, int32_t columns, const uint8_t *panel, int32_t lane, float *out) {
  if (is_float(type)) {
    for (int k = 0; k < columns; k++) {
      const int64_t at = (int64_t)k * PANEL + lane;
      out[k] = type == W_F32   ? ((const float *)panel)[at]
               : type == W_F16 ? f16_to_f32(((const uint16_t *)panel)[at])
                               : bf16_to_f32(((const uint16_t *)panel)[at]);
    }
    return;
  }
  const int blocks = columns / BLOCK;
  const uint8_t *all_scales = panel + (int64_t)blocks * block_code_bytes(type);
  const uint8_t *all_supers = all_scales + (int64_t)blocks * block_scale_bytes(type);
  const int offset = type == W_Q3_K ? 4 : offset_shift(type) < 0 ? 0 : 8 << offset_shift(type);
  for (int b = 0; b < blocks; b++) {
    const uint8_t *codes = panel + (int64_t)b * block_code_bytes(type);
    const uint8_t *scales = all_scales + (int64_t)b * block_scale_bytes(type);
    const uint16_t *supers = (const uint16_t *)(all_supers + (int64_t)(b / 8) * super_bytes(type));
    for (int g = 0; g < 2; g++) {
      float scale, minimum = 0;
      if (!has_supers(type)) {
        scale = f16_to_f32(((const uint16_t *)scales)[lane]);
        if (has_minima(type)) minimum = f16_to_f32(((const uint16_t *)scales)[16 + lane]);
      } else {
        const float d = f16_to_f32(supers[lane]);
        const uint8_t byte = scales[(has_half_groups(type) ? 16 * g : 0) + lane];
        scale = d * (float)(type == W_Q2_K ? byte & 15 : has_minima(type) ? byte : (int8_t)byte);
        if (type == W_Q2_K) minimum = -f16_to_f32(supers[16 + lane]) * (float)(byte >> 4);
        else if (has_minima(type)) minimum = -f16_to_f32(supers[16 + lane]) * (float)scales[16 + lane];
      }
      for (int k = 16 * g; k < 16 * g + 16; k++) {
        out[b * BLOCK + k] = scale * (float)(code_at(type, codes, lane, k) - offset) + minimum;
      }
    }
  }
}

EXPORT void mill_unpack_row(int32_t type, int32_t columns, uint64_t panel, int32_t lane, uint64_t out) {
  unpack_row(type, columns, AT(const uint8_t, panel), lane, AT(float, out));
}
