// What attention's ops have in common: tiles of queries, and the walk over the blocks of keys that they see.
#ifndef MILLRACE_ATTENTION_WALK_H
#define MILLRACE_ATTENTION_WALK_H

#include "attention_plan.h"
#include "attention_tile.h"

#define LOG2_E 1.44269504f
#define LOWEST -3.0e38f  // the maximum before any score: finite, so that no difference is infinity - infinity

// -------------------------------------------------------------------------------------------------------- tiles

// A tile of query rows, and one thread's memory for it.
typedef struct Tile {
  int rows, tokens, first_token, heads, first_head;
  int span_start;          // where queries choose what they attend to: the span's first token; else -1
  int rotation;            // of the rows in `moved`, or -1
  const float *q;          // the rows as they are or moved: row blocks of [D][rows of the block]
  float *still, *moved;    // both of them
  float *thin;             // of q's rows, what thin keys meet: row blocks of [K][rows of the block]
  const View *thin_view;   // whose keys, or 0
  float *sums;             // [rows][Dp] weighted values of this part
  float *total;            // [rows][Dp] of all parts so far
  float *keys, *values;    // a block, as f32
  float *scores;           // [ROW_BLOCK][BLOCK_KEYS]
  float *lane_weights;     // [rows][16] sums of exponentials of this part
  float *max, *weight;     // [rows] of this part
  float *total_max, *total_weight;
  int32_t *positions;      // [rows]
  float cap;               // softcap in units of log2, or 0
  // What mass is taken from: the softmax itself, or a tempered one beside it.
  const View *tempered;    // whose temperature and noise, or 0
  const float *gumbel;
  uint32_t *hashes;        // [rows]
  float *mass_max, *mass_weight, *mass_total_max, *mass_total_weight;  // [rows]
} Tile;

SHARED Tile tile_memory(const Plan *plan, int thread) {
  int padded = plan->shape.padded, size = TILE_ROWS * padded;
  float *memory = AT(float, plan->op->p[4]) + (size_t)thread * (448 * padded + 3072);
  Tile tile = {.still = memory, .moved = memory + size, .sums = memory + 2 * size, .total = memory + 3 * size,
               .keys = memory + 4 * size, .values = memory + 5 * size, .thin = memory + 6 * size};
  memory += 7 * size;
  tile.scores = memory;
  tile.lane_weights = memory + 512;
  tile.max = memory + 1536;
  tile.weight = memory + 1664;
  tile.total_max = memory + 1792;
  tile.total_weight = memory + 1920;
  tile.positions = (int32_t *)(memory + 2048);
  tile.hashes = (uint32_t *)(memory + 2112);
  tile.mass_max = memory + 2176;
  tile.mass_weight = memory + 2304;
  tile.mass_total_max = memory + 2432;
  tile.mass_total_weight = memory + 2560;
  tile.cap = plan->op->f[1] * LOG2_E;
  tile.gumbel = AT(const float, plan->step->gumbel);
  return tile;
}

static inline int min(int a, int b) { return a < b ? a : b; }

// Which of the step's queries [T, H] a row is.
static inline size_t query_of(const Plan *plan, const Tile *tile, int row) {
  return (size_t)(tile->first_token + row / tile->heads) * plan->shape.heads + tile->first_head + row % tile->heads;
}

// One round of a hash in which every bit of the result depends on every bit given.
static inline uint32_t mix(uint32_t hash, uint32_t value) {
  hash = (hash ^ value) * 0x9e3779b1u;
  hash = (hash ^ hash >> 15) * 0x85ebca6bu;
  return hash ^ hash >> 13;
}

// Says whether the tile's mass comes from a softmax of its own, and where its noise begins.
SHARED void temper_tile(const Plan *plan, const Stream *stream, Tile *tile) {
  const View *view = stream->view;
  tile->tempered = stream->has_mass && (view->noise != 0 || view->sharpness != 1) ? view : 0;
  if (!tile->tempered) return;
  for (int row = 0; row < tile->rows; row++) {
    uint32_t query = query_of(plan, tile, row) % plan->shape.heads;
    tile->hashes[row] = mix(mix(mix(view->seed, stream->lane), query), tile->positions[row]);
  }
}

// Loads tile `index` of a stream: its queries, scaled and transposed in row blocks, and their positions.
SHARED void load_tile(const Plan *plan, const Stream *stream, int index, Tile *tile) {
  const Shape *s = &plan->shape;
  int token_tile = index / s->head_tiles, head_tile = index % s->head_tiles;
  tile->first_token = stream->span->start + token_tile * s->tile_tokens;
  tile->tokens = min(s->tile_tokens, stream->span->count - token_tile * s->tile_tokens);
  tile->first_head = stream->kv_head * s->per_kv_head + head_tile * s->tile_heads;
  tile->heads = min(s->tile_heads, s->per_kv_head - head_tile * s->tile_heads);
  tile->rows = tile->tokens * tile->heads;
  tile->span_start = stream->view->choice ? stream->span->start : -1;
  tile->rotation = -1;
  tile->q = tile->still;
  tile->thin_view = 0;
  float cap = plan->op->f[1], scale = plan->op->f[0] * (cap > 0 ? 1.f / cap : LOG2_E);
  for (int block = 0; block < tile->rows; block += ROW_BLOCK) {
    const float *from[ROW_BLOCK];
    float *to = tile->still + block * s->width;
    int rows = min(ROW_BLOCK, tile->rows - block);
    for (int r = 0; r < rows; r++) {
      int token = tile->first_token + (block + r) / tile->heads;
      tile->positions[block + r] = AT(const int32_t, plan->step->positions)[token];
      from[r] = AT(const float, plan->op->p[0]) + query_of(plan, tile, block + r) * s->width;
    }
    if (rows == ROW_BLOCK) {
      for (int d = 0; d < s->width; d++) {
#pragma GCC unroll 8
        for (int r = 0; r < ROW_BLOCK; r++) to[d * ROW_BLOCK + r] = from[r][d] * scale;
      }
    } else {
      for (int d = 0; d < s->width; d++) {
        for (int r = 0; r < rows; r++) to[d * rows + r] = from[r][d] * scale;
      }
    }
  }
  temper_tile(plan, stream, tile);
}

// Makes tile->q the rows that keys moved by `rotation` must meet.
SHARED void move_tile(const Plan *plan, Tile *tile, int rotation) {
  const float *before = tile->q;
  tile->q = rotation < 0 || !plan->op->p[2] ? tile->still : tile->moved;
  if (tile->q != before) tile->thin_view = 0;
  if (tile->q == tile->still || tile->rotation == rotation) return;
  tile->thin_view = 0;
  tile->rotation = rotation;
  int width = plan->shape.width, pairs = plan->shape.pairs;
  const float *cos = AT(const float, plan->op->p[2]) + (size_t)(plan->step->num_tokens + rotation) * 2 * pairs;
  const float *sin = cos + pairs;
  for (int block = 0; block < tile->rows; block += ROW_BLOCK) {
    int rows = min(ROW_BLOCK, tile->rows - block);
    const float *from = tile->still + block * width;
    float *to = tile->moved + block * width;
    for (int i = 0; i < pairs; i++) {
      int a = (plan->shape.halves ? i : 2 * i) * rows, b = (plan->shape.halves ? i + pairs : 2 * i + 1) * rows;
      for (int r = 0; r < rows; r++) {
        to[a + r] = from[a + r] * cos[i] - from[b + r] * sin[i];
        to[b + r] = from[a + r] * sin[i] + from[b + r] * cos[i];
      }
    }
    for (int i = 2 * pairs * rows; i < width * rows; i++) to[i] = from[i];
  }
}

// The rows that a block's keys meet, [width][rows of a block] one after another: tile->q, or of a view's thin keys the
// elements that these have, gathered once for all blocks that follow.
SHARED const float *rows_for(const Plan *plan, Tile *tile, const View *thin, int lane) {
  if (!thin) return tile->q;
  if (tile->thin_view == thin) return tile->thin;
  tile->thin_view = thin;
  const int32_t *elements = AT(const int32_t, thin->thin_elements) + (size_t)lane * thin->thin_width;
  for (int block = 0; block < tile->rows; block += ROW_BLOCK) {
    int rows = min(ROW_BLOCK, tile->rows - block);
    const float *from = tile->q + block * plan->shape.width;
    float *to = tile->thin + block * thin->thin_width;
    for (int i = 0; i < thin->thin_width; i++) {
      for (int r = 0; r < rows; r++) to[i * rows + r] = from[elements[i] * rows + r];
    }
  }
  return tile->thin;
}

// -------------------------------------------------------------------------------------------------- what is seen

// Rows at positions low .. high, of which each sees positions up to its own, and down to the window's edge.
typedef struct Sight {
  int32_t low, high, window;
  int32_t tokens;  // bits of the tokens that the rows are of, where they attend to what they chose; else 0
} Sight;

// Bit of the token that a row is of, where queries choose what they attend to; else 0.
static inline int32_t choice_bit(const Tile *tile, int row) {
  return tile->span_start < 0 ? 0 : 1 << (tile->first_token + row / tile->heads - tile->span_start);
}

SHARED Sight sight_of(const Tile *tile, int first, int rows, int window) {
  const int32_t *positions = tile->positions + first;
  Sight sight = {positions[0], positions[0], window, 0};
  for (int r = 0; r < rows; r++) {
    sight.low = min(sight.low, positions[r]);
    if (positions[r] > sight.high) sight.high = positions[r];
    sight.tokens |= choice_bit(tile, first + r);
  }
  return sight;
}

// The last position that a row does not see because it is too old; -1 stands for empty slots.
static inline int32_t edge(int32_t position, int32_t window) {
  return window == 0 || position < window ? -1 : position - window;
}

static inline uint32_t between(i32x16 positions, int32_t after, int32_t last) {
  return mask16_bits(i32x16_gt(positions, i32x16_set1(after))) &
         ~mask16_bits(i32x16_gt(positions, i32x16_set1(last))) & 0xffff;
}

// Sets what the rows see of a group; 0 where they see nothing.
static inline int look(const Sight *sight, Group16 *group) {
  i32x16 positions = i32x16_load(group->positions);
  uint32_t shown = 0xffff;  // a log count below zero is that of no token: minus infinity
  if (group->log_counts) shown = mask16_bits(i32x16_gt(i32x16_load((const int32_t *)group->log_counts), i32x16_set1(-1)));
  group->live = between(positions, edge(sight->low, sight->window), sight->high) & shown;
  uint32_t common = shown;
  if (group->shown && sight->tokens) {
    i32x16 tokens = i32x16_set1(sight->tokens), chosen = i32x16_and(i32x16_load(group->shown), tokens);
    group->live &= mask16_bits(i32x16_gt(chosen, i32x16_set1(0)));
    common &= ~mask16_bits(i32x16_gt(tokens, chosen));
  }
  group->masked = (between(positions, edge(sight->high, sight->window), sight->low) & common) != 0xffff;
  return group->live != 0;
}

// A block: up to four groups that lie one after another in a view, share a rotation and are thin or are not.
typedef struct Block {
  Group16 group[BLOCK_GROUPS];
  int groups, codec, rotation;
  int width;         // elements of a key
  const View *thin;  // the view, where keys are thin, or 0
} Block;

// A walk over slots begin .. end-1 of a stream.
typedef struct Walk {
  const Span *span;
  const View *view;
  int width, lane;
  int slot, left;  // in this view; slots to go
} Walk;

SHARED Walk walk_part(const Plan *plan, const Stream *stream, int part) {
  int begin = part * stream->part_slots;
  Walk walk = {stream->span, stream->view, plan->shape.width, stream->lane, begin,
               min(stream->part_slots, stream->slots - begin)};
  return walk;
}

// The next block of which the rows see anything. Where blocks begin and end does not depend on the rows.
SHARED int next_block(Walk *walk, const Sight *sight, Block *block) {
  for (block->groups = 0; walk->left > 0 && block->groups == 0;) {
    const View *view = walk->view;
    int view_slots = view->num_pages * view->page_tokens;
    if (walk->slot >= view_slots) {
      walk->slot -= view_slots;
      walk->view = AT(const View, view->next);
      continue;
    }
    const int32_t *positions = AT(const int32_t, view->positions), *rotations = AT(const int32_t, view->rotations);
    float *mass = view->mass ? AT(float, view->mass) + (size_t)walk->lane * view_slots : 0;
    const int32_t *shown = view->choice ? AT(const int32_t, AT(const Choice, view->choice)->shown) : 0;
    const float *log_counts = view->log_counts ? AT(const float, view->log_counts) : 0;
    const int32_t *thin_rows = view->thin_rows ? AT(const int32_t, view->thin_rows) : 0;
    int page = walk->slot / view->page_tokens, page_end = (page + 1) * view->page_tokens;
    int thin = thin_rows && thin_rows[page];
    block->thin = thin ? view : 0;
    block->width = thin ? view->thin_width : walk->width;
    int64_t bytes = group_bytes(view->codec, block->width, walk->width);
    int keys_at = codec_scale_bytes(view->codec);
    int values_at = keys_at + GROUP * block->width * codec_element_bytes(view->codec);
    block->codec = view->codec;
    block->rotation = rotations[page];
    for (int i = 0; i < BLOCK_GROUPS && walk->left > 0 && walk->slot < view_slots; i++) {
      if (walk->slot == page_end) {
        page++;
        if (rotations[page] != block->rotation || (thin_rows && thin_rows[page] != thin)) break;
        page_end += view->page_tokens;
      }
      Group16 *group = &block->group[block->groups];
      group->positions = positions + walk->slot;
      group->log_counts = log_counts ? log_counts + walk->slot : 0;
      group->shown = shown ? shown + walk->slot : 0;
      if (look(sight, group)) {
        const uint8_t *at = group_address(walk->span, view, walk->lane, page, walk->slot, bytes);
        group->keys = at + keys_at;
        group->values = at + values_at;
        group->scales = keys_at ? (const float *)at : 0;
        group->mass = mass ? mass + walk->slot : 0;
        group->ahead = 0;
        block->groups++;
      }
      walk->slot += GROUP;
      walk->left -= GROUP;
    }
  }
  return block->groups;
}

// Replaces a block's elements by f32 ones in the tile's memory, where several row blocks will read them.
SHARED void unpack_block(const Plan *plan, const Tile *tile, Block *block) {
  if (block->codec == CODEC_F32) return;
  for (int g = 0; g < block->groups; g++) {
    Group16 *group = &block->group[g];
    float *keys = tile->keys + g * GROUP * plan->shape.padded, *values = tile->values + g * GROUP * plan->shape.padded;
    unpack_group(block->codec, group, block->width, plan->shape.padded, keys, values);
    group->keys = (const uint8_t *)keys;
    group->values = (const uint8_t *)values;
    group->ahead = 0;
  }
  block->codec = CODEC_F32;
}

// A raw score as a power of 2, minus infinity where the row does not see the key.
// `chosen`: the row's choice_bit, or 0 for a look at all there is.
INLINE f32x16 finish_score(const Tile *tile, const Group16 *group, int32_t position, int32_t window, int32_t chosen,
                           f32x16 x) {
  if (group->scales) x = f32x16_mul(x, f32x16_load(group->scales));
  if (tile->cap > 0) x = f32x16_mul(f32x16_tanh(x), f32x16_set1(tile->cap));
  if (group->log_counts) x = f32x16_fma(f32x16_load(group->log_counts), f32x16_set1(LOG2_E), x);
  if (group->masked) {
    i32x16 positions = i32x16_load(group->positions);
    f32x16 none = f32x16_set1(-__builtin_inff());
    x = f32x16_blend(i32x16_gt(positions, i32x16_set1(position)), none, x);
    x = f32x16_blend(i32x16_gt(positions, i32x16_set1(edge(position, window))), x, none);
    if (group->shown && chosen) {
      i32x16 here = i32x16_and(i32x16_load(group->shown), i32x16_set1(chosen));
      x = f32x16_blend(i32x16_gt(here, i32x16_set1(0)), x, none);
    }
  }
  return x;
}

#endif
