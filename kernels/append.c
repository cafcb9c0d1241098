// OP_APPEND: stores each token's keys and values in the slot that the step names, encoded as the page's codec says.
// i: [K, D, kv heads of the layers before]   p: [k f32 [T, K*D], v f32 [T, K*D]]
#include "page.h"
#include "simd.h"
#include "work.h"

// Keys stand 16 elements apart (element-major), values next to each other and padded with zeros.
static void store_f32(float *keys, float *values, const float *k, const float *v, int width) {
  for (int i = 0; i < width; i++) keys[i * GROUP] = k[i];
  for (int i = 0; i < width; i++) values[i] = v[i];
  for (int i = width; i < padded_width(width); i++) values[i] = 0;
}

static void store_f16(uint16_t *keys, uint16_t *values, const float *k, const float *v, int width) {
  uint16_t halves[16];
  for (int i = 0; i < width; i += 16) {
    int n = width - i < 16 ? width - i : 16;
    f32x16_store_f16(halves, n == 16 ? f32x16_load(k + i) : f32x16_load_part(k + i, n));
    for (int j = 0; j < n; j++) keys[(i + j) * GROUP] = halves[j];
    f32x16_store_f16(values + i, n == 16 ? f32x16_load(v + i) : f32x16_load_part(v + i, n));
  }
}

// Returns 127 / max |x|, and max |x| / 127 in *scale; both 0 where the largest element counts as zero.
static float int8_scale(const float *x, int width, float *scale) {
  float max = 0;
  for (int i = 0; i < width; i++) {
    float a = x[i] < 0 ? -x[i] : x[i];
    max = a > max ? a : max;
  }
  if (max < 0x1p-100f) max = 0;
  *scale = max / 127.f;
  return max == 0 ? 0 : 127.f / max;
}

static void store_int8(float *scales, int token, int8_t *keys, int8_t *values, const float *k, const float *v,
                       int width) {
  f32x16 key_inverse = f32x16_set1(int8_scale(k, width, &scales[token]));
  f32x16 value_inverse = f32x16_set1(int8_scale(v, width, &scales[GROUP + token]));
  int8_t codes[16];
  for (int i = 0; i < width; i += 16) {
    int n = width - i < 16 ? width - i : 16;
    f32x16 x = n == 16 ? f32x16_load(k + i) : f32x16_load_part(k + i, n);
    i32x16_store_i8(codes, i32x16_round(f32x16_mul(x, key_inverse)));
    for (int j = 0; j < n; j++) keys[(i + j) * GROUP] = codes[j];
    x = n == 16 ? f32x16_load(v + i) : f32x16_load_part(v + i, n);
    i32x16_store_i8(values + i, i32x16_round(f32x16_mul(x, value_inverse)));
  }
}

static void store_token(const Op *op, const Span *span, int t) {
  int num_heads = op->i[0], width = op->i[1];
  const int32_t *lanes = AT(const int32_t, span->lanes) + 2 * op->i[2];
  for (int head = 0; head < num_heads; head++) {
    int group = lanes[2 * head], lane = lanes[2 * head + 1];
    const View *view = AT(const View, AT(const uint64_t, span->views)[group]);
    int slot = AT(const int32_t, AT(const uint64_t, span->slots)[group])[t - span->start], token = slot % GROUP;
    int64_t bytes = group_bytes(view->codec, width, width);
    uint8_t *at = group_address(span, view, lane, slot / view->page_tokens, slot, bytes);
    int element = codec_element_bytes(view->codec);
    uint8_t *keys = at + codec_scale_bytes(view->codec) + token * element;
    uint8_t *values = keys + (GROUP * width + token * (padded_width(width) - 1)) * element;
    const float *k = AT(const float, op->p[0]) + ((size_t)t * num_heads + head) * width;
    const float *v = AT(const float, op->p[1]) + ((size_t)t * num_heads + head) * width;
    switch (view->codec) {
      case CODEC_F32: store_f32((float *)keys, (float *)values, k, v, width); break;
      case CODEC_F16: store_f16((uint16_t *)keys, (uint16_t *)values, k, v, width); break;
      case CODEC_INT8: store_int8((float *)at, token, (int8_t *)keys, (int8_t *)values, k, v, width); break;
      default: __builtin_trap();
    }
  }
}

void kernel_append(const Op *op, const Step *step, Work *work) {
  const Span *spans = AT(const Span, step->spans);
  const int32_t *token_span = AT(const int32_t, step->token_span);
  int begin, end;
  while (work_take(work, step->num_tokens, 8, &begin, &end)) {
    for (int t = begin; t < end; t++) store_token(op, &spans[token_span[t]], t);
  }
}
