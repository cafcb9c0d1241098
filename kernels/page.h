// Where things lie in a page: the layout of src/cache/codecs/contract.ts.
#ifndef MILLRACE_PAGE_H
#define MILLRACE_PAGE_H

#include "millrace.h"

// Functions of a header that not every file which includes it uses.
#define SHARED static __attribute__((unused))

static inline int padded_width(int head_width) { return (head_width + 15) & ~15; }

static inline int codec_element_bytes(int codec) { return codec == CODEC_F32 ? 4 : codec == CODEC_F16 ? 2 : 1; }

// Key scales f32 [16], value scales f32 [16]; only int8 has them.
static inline int codec_scale_bytes(int codec) { return codec == CODEC_INT8 ? 2 * GROUP * 4 : 0; }

// Bytes of a group: scales, keys [K][16], values [16][Dp], padded to 64. K is D, less where keys are thin.
static inline int64_t group_bytes(int codec, int key_width, int head_width) {
  int64_t elements = (int64_t)GROUP * (key_width + padded_width(head_width));
  return (codec_scale_bytes(codec) + elements * codec_element_bytes(codec) + 63) & ~(int64_t)63;
}

// The group of 16 tokens that holds slot `slot` of a view, in lane `lane`; the slot lies in page `page` of the view.
static inline uint8_t *group_address(const Span *span, const View *view, int lane, int page, int slot, int64_t bytes) {
  int64_t id = AT(const int32_t, view->page_ids)[(size_t)page * view->lanes + lane];
  return AT(uint8_t, span->arena) + id * span->page_bytes + (slot - page * view->page_tokens) / GROUP * bytes;
}

#endif
