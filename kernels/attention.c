// OP_ATTENTION and OP_ATTENTION_MERGE: softmax(cap(scale * q . k) + log_count) v over the pages of each token's sequence.
//
// i: [H, K, D, window (0: none), pairs, style, maxTokens, kv heads of the layers before]   f: [scale, softcap (0: none)]
// p: [q f32 [T, H*D], out f32 [T, H*D], rope table or 0, partials, threadScratch]
// Both ops take the same fields. The merge must follow the attention directly, with a barrier before it.
//
// Memory, in bytes, with Dp = D rounded up to 16 and g = H / K:
//   threadScratch, for each thread:  1792 * Dp + 12288
//   partials, for all threads:       roundUp(8 * maxTokens * H, 64)
//                                    + (threads > 1 ? 512 * threads * min(64, maxTokens * g) * (Dp + 16) : 0)
// Both are 64-byte aligned and need no clearing.
//
// Scores are kept in units of log2: q carries scale * log2(e), and exponentials are powers of 2.
#include "attention_walk.h"

// -------------------------------------------------------------------------------------------------- the softmax

// A finished score as the tempered softmax has it: warmer, and with noise that depends on query and key alone.
static f32x16 temper_score(const Tile *tile, const Group16 *group, int row, f32x16 x) {
  float noise[GROUP];
  for (int k = 0; k < GROUP; k++) noise[k] = tile->gumbel[mix(tile->hashes[row], group->positions[k]) >> 22];
  x = f32x16_fma(f32x16_load(noise), f32x16_set1(tile->tempered->noise * LOG2_E), x);
  return f32x16_mul(x, f32x16_set1(tile->tempered->sharpness));
}

// Adds finished scores to maximum and weight of the rows' tempered softmax.
static void weigh_tempered(const Tile *tile, int first, int rows, const Group16 *group, int groups) {
  for (int r = 0; r < rows; r++) {
    f32x16 x[BLOCK_GROUPS], top = f32x16_set1(tile->mass_max[first + r]), sum = f32x16_zero();
    for (int g = 0; g < groups; g++) {
      x[g] = temper_score(tile, &group[g], first + r, f32x16_load(tile->scores + r * BLOCK_KEYS + g * GROUP));
      top = f32x16_max(top, x[g]);
    }
    float max = f32x16_reduce_max(top), factor[GROUP] = {tile->mass_max[first + r] - max};
    for (int g = 0; g < groups; g++) sum = f32x16_add(sum, f32x16_exp2(f32x16_sub(x[g], f32x16_set1(max))));
    f32x16_store(factor, f32x16_exp2(f32x16_load(factor)));
    tile->mass_weight[first + r] = tile->mass_weight[first + r] * factor[0] + f32x16_reduce_add(sum);
    tile->mass_max[first + r] = max;
  }
}

// Raises each row's maximum to its scores'; factor[r] takes what was summed before to the new one. Then scores become
// weights relative to it, which are added to the row's sums by lane.
INLINE void weigh_rows(int rows, const int groups, float *restrict scores, float *restrict max, float *restrict sums,
                       float *restrict factor) {
  float before[GROUP] = {0}, after[GROUP] = {0};
  for (int r = 0; r < rows; r++) {
    f32x16 top = f32x16_set1(max[r]);
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) top = f32x16_max(top, f32x16_load(scores + r * BLOCK_KEYS + g * GROUP));
    before[r] = max[r];
    after[r] = max[r] = f32x16_reduce_max(top);
  }
  f32x16_store(factor, f32x16_exp2(f32x16_sub(f32x16_load(before), f32x16_load(after))));
  for (int r = 0; r < rows; r++) {
    f32x16 top = f32x16_set1(after[r]);
    f32x16 sum = f32x16_mul(f32x16_load(sums + r * GROUP), f32x16_set1(factor[r]));
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) {
      float *at = scores + r * BLOCK_KEYS + g * GROUP;
      f32x16 p = f32x16_exp2(f32x16_sub(f32x16_load(at), top));
      sum = f32x16_add(sum, p);
      f32x16_store(at, p);
    }
    f32x16_store(sums + r * GROUP, sum);
  }
}

static void weigh_scores(const Tile *tile, int first, int rows, int32_t window, const Group16 *group, int groups,
                         float *factor) {
  float *max = tile->max + first, *sums = tile->lane_weights + first * GROUP;
  for (int g = 0; g < groups; g++) {
    if (!group[g].masked && !group[g].scales && !group[g].log_counts && tile->cap <= 0) continue;
    for (int r = 0; r < rows; r++) {
      float *at = tile->scores + r * BLOCK_KEYS + g * GROUP;
      f32x16_store(at, finish_score(tile, &group[g], tile->positions[first + r], window, choice_bit(tile, first + r), f32x16_load(at)));
    }
  }
  if (tile->tempered) weigh_tempered(tile, first, rows, group, groups);
  switch (groups) {
    case 1: weigh_rows(rows, 1, tile->scores, max, sums, factor); break;
    case 2: weigh_rows(rows, 2, tile->scores, max, sums, factor); break;
    case 3: weigh_rows(rows, 3, tile->scores, max, sums, factor); break;
    default: weigh_rows(rows, BLOCK_GROUPS, tile->scores, max, sums, factor); break;
  }
  for (int g = 0; g < groups; g++) {
    if (!group[g].scales) continue;
    f32x16 scale = f32x16_load(group[g].scales + GROUP);
    for (int r = 0; r < rows; r++) {
      float *at = tile->scores + r * BLOCK_KEYS + g * GROUP;
      f32x16_store(at, f32x16_mul(f32x16_load(at), scale));
    }
  }
}

// The groups of a block that rows first .. first+rows-1 see: what the tile sees, where these are all its rows.
static int groups_seen(const Tile *tile, int first, int rows, int32_t window, const Block *block, Group16 *seen) {
  if (rows == tile->rows) {
    for (int g = 0; g < block->groups; g++) seen[g] = block->group[g];
    return block->groups;
  }
  Sight sight = sight_of(tile, first, rows, window);
  int groups = 0;
  for (int g = 0; g < block->groups; g++) {
    seen[groups] = block->group[g];
    groups += look(&sight, &seen[groups]);
  }
  return groups;
}

static void attend_block(const Plan *plan, Tile *tile, Block *block, int lane) {
  const Shape *s = &plan->shape;
  move_tile(plan, tile, block->rotation);
  const float *q = rows_for(plan, tile, block->thin, lane);
  if (tile->rows > ROW_BLOCK) unpack_block(plan, tile, block);
  for (int first = 0; first < tile->rows; first += ROW_BLOCK) {
    int rows = min(ROW_BLOCK, tile->rows - first);
    Group16 seen[BLOCK_GROUPS];
    float factor[GROUP];
    int groups = groups_seen(tile, first, rows, s->window, block, seen);
    if (groups == 0) continue;
    score_block(block->codec, rows, q + first * block->width, block->width, seen, groups, tile->scores);
    weigh_scores(tile, first, rows, s->window, seen, groups, factor);
    add_values_block(block->codec, rows, tile->scores, factor, s->padded, seen, groups, tile->sums + first * s->padded);
  }
}

// One part of a tile into tile->sums, max and weight. Part `following` is what this thread will probably read next.
static void attend_part(const Plan *plan, const Stream *stream, Tile *tile, int part, int following) {
  int size = tile->rows * plan->shape.padded;
  for (int i = 0; i < size; i += 16) f32x16_store(tile->sums + i, f32x16_zero());
  for (int row = 0; row < tile->rows; row++) {
    f32x16_store(tile->lane_weights + row * GROUP, f32x16_zero());
    tile->max[row] = tile->mass_max[row] = LOWEST;
    tile->mass_weight[row] = 0;
  }
  Sight sight = sight_of(tile, 0, tile->rows, plan->shape.window);
  Walk walk = walk_part(plan, stream, part);
  Block blocks[2], *now = &blocks[0], *next = &blocks[1];
  next_block(&walk, &sight, now);
  while (now->groups) {
    int last = !next_block(&walk, &sight, next);
    if (last && following < stream->parts) {
      walk = walk_part(plan, stream, following);
      next_block(&walk, &sight, next);
    }
    for (int g = 0; g < min(now->groups, next->groups); g++) {
      now->group[g].ahead = next->group[g].keys - now->group[g].keys;
    }
    attend_block(plan, tile, now, stream->lane);
    if (last) break;
    Block *swap = now;
    now = next;
    next = swap;
  }
  for (int row = 0; row < tile->rows; row++) {
    tile->weight[row] = f32x16_reduce_add(f32x16_load(tile->lane_weights + row * GROUP));
    if (tile->tempered) continue;
    tile->mass_max[row] = tile->max[row];
    tile->mass_weight[row] = tile->weight[row];
  }
}

// ---------------------------------------------------------------------------------------------- parts and results

// Factors that take a total and a part to their common maximum, which becomes the total's.
typedef struct Balance {
  float total, part;
} Balance;

static Balance fold_weights(float *total_max, float *total_weight, float max, float weight) {
  Balance balance = {1.f, 0.f};
  if (weight == 0) return balance;
  float top = max > *total_max ? max : *total_max, factors[16] = {*total_max - top, max - top};
  f32x16_store(factors, f32x16_exp2(f32x16_load(factors)));
  balance.total = *total_weight == 0 ? 0.f : factors[0];
  balance.part = factors[1];
  *total_weight = *total_weight * balance.total + weight * balance.part;
  *total_max = top;
  return balance;
}

static void fold_sums(float *total, const float *part, Balance balance, int padded) {
  f32x16 a = f32x16_set1(balance.total), b = f32x16_set1(balance.part);
  for (int i = 0; i < padded; i += 16) {
    f32x16_store(total + i, f32x16_fma(f32x16_load(part + i), b, f32x16_mul(f32x16_load(total + i), a)));
  }
}

static void clear_total(Tile *tile, int padded) {
  for (int i = 0; i < tile->rows * padded; i += 16) f32x16_store(tile->total + i, f32x16_zero());
  for (int row = 0; row < tile->rows; row++) {
    tile->total_max[row] = tile->mass_total_max[row] = LOWEST;
    tile->total_weight[row] = tile->mass_total_weight[row] = 0;
  }
}

// Writes the tile's rows of `out`; a row that saw nothing is zero.
static void write_out(const Plan *plan, const Tile *tile, const float *sums, const float *weights) {
  int width = plan->shape.width;
  for (int row = 0; row < tile->rows; row++, sums += plan->shape.padded) {
    float *out = AT(float, plan->op->p[1]) + query_of(plan, tile, row) * width;
    f32x16 inverse = f32x16_set1(weights[row] == 0 ? 0.f : 1.f / weights[row]);
    int i = 0;
    for (; i + 16 <= width; i += 16) f32x16_store(out + i, f32x16_mul(f32x16_load(sums + i), inverse));
    if (i < width) f32x16_store_part(out + i, f32x16_mul(f32x16_load(sums + i), inverse), width - i);
  }
}

// Maximum and weight of every query [T, H] in the softmax that mass comes from, for the merge to give it out.
static inline float *outcome_of(const Plan *plan, const Tile *tile, int row) {
  return AT(float, plan->op->p[3]) + 2 * query_of(plan, tile, row);
}

// What one part of split tile number `split` gave one row: sums [Dp], max, weight, both again for mass.
static inline float *partial_of(const Plan *plan, int split, int part, int row) {
  const Shape *s = &plan->shape;
  size_t outcomes = ((size_t)plan->op->i[6] * s->heads * 2 + 15) & ~(size_t)15;
  int64_t most = (int64_t)plan->op->i[6] * s->per_kv_head, rows = most < TILE_ROWS ? most : TILE_ROWS;
  return AT(float, plan->op->p[3]) + outcomes +
         (((size_t)split * MAX_PARTS + part) * rows + row) * (s->padded + 16);
}

// All parts of a tile, one after another, into its total.
static void attend_parts(const Plan *plan, const Stream *stream, Tile *tile) {
  clear_total(tile, plan->shape.padded);
  for (int part = 0; part < stream->parts; part++) {
    attend_part(plan, stream, tile, part, part + 1);
    for (int row = 0; row < tile->rows; row++) {
      int at = row * plan->shape.padded;
      if (tile->weight[row] == 0) continue;
      Balance balance =
          fold_weights(&tile->total_max[row], &tile->total_weight[row], tile->max[row], tile->weight[row]);
      fold_sums(tile->total + at, tile->sums + at, balance, plan->shape.padded);
      fold_weights(&tile->mass_total_max[row], &tile->mass_total_weight[row], tile->mass_max[row],
                   tile->mass_weight[row]);
    }
  }
}

// A tile over all parts. The fold of a single part would be that part, bit for bit.
static void attend_whole(const Plan *plan, const Stream *stream, Tile *tile) {
  const float *sums = tile->total, *weight = tile->total_weight;
  const float *mass_max = tile->mass_total_max, *mass_weight = tile->mass_total_weight;
  if (stream->parts == 1) {
    attend_part(plan, stream, tile, 0, 1);
    sums = tile->sums, weight = tile->weight;
    mass_max = tile->mass_max, mass_weight = tile->mass_weight;
  } else {
    attend_parts(plan, stream, tile);
  }
  write_out(plan, tile, sums, weight);
  if (!stream->has_mass) return;
  for (int row = 0; row < tile->rows; row++) {
    float *outcome = outcome_of(plan, tile, row);
    outcome[0] = mass_max[row];
    outcome[1] = mass_weight[row];
  }
}

static void attend_split(const Plan *plan, const Stream *stream, Tile *tile, int split, int part) {
  int padded = plan->shape.padded;
  attend_part(plan, stream, tile, part, part + plan->threads);
  for (int row = 0; row < tile->rows; row++) {
    float *partial = partial_of(plan, split, part, row);
    for (int i = 0; i < padded; i += 16) f32x16_store(partial + i, f32x16_load(tile->sums + row * padded + i));
    partial[padded] = tile->max[row];
    partial[padded + 1] = tile->weight[row];
    partial[padded + 2] = tile->mass_max[row];
    partial[padded + 3] = tile->mass_weight[row];
  }
}

void kernel_attention(const Op *op, const Step *step, Work *work) {
  Plan plan = plan_of(op, step, work->threads);
  Tile tile = tile_memory(&plan, work->thread);
  Cursor at = cursor_at(&plan, WHOLE_TILES);
  int units = count_units(&plan, WHOLE_TILES, SPLIT_PARTS), begin, end;
  while (work_take(work, units, 1, &begin, &end)) {
    for (int unit = begin; unit < end; unit++) {
      seek(&plan, &at, unit);
      int index = unit - at.first;
      if (at.phase == WHOLE_TILES) {  // later tiles see more: they come first
        load_tile(&plan, &at.stream, at.stream.tiles - 1 - index, &tile);
        attend_whole(&plan, &at.stream, &tile);
      } else {
        load_tile(&plan, &at.stream, index / at.stream.parts, &tile);
        attend_split(&plan, &at.stream, &tile, at.splits + index / at.stream.parts, index % at.stream.parts);
      }
    }
  }
}

// -------------------------------------------------------------------------------------------------------- merge

static void fold_tile(const Plan *plan, const Stream *stream, Tile *tile, int split) {
  int padded = plan->shape.padded;
  clear_total(tile, padded);
  for (int part = 0; part < stream->parts; part++) {
    for (int row = 0; row < tile->rows; row++) {
      const float *partial = partial_of(plan, split, part, row);
      float max = partial[padded], weight = partial[padded + 1];
      Balance balance = fold_weights(&tile->total_max[row], &tile->total_weight[row], max, weight);
      if (weight != 0) fold_sums(tile->total + row * padded, partial, balance, padded);
    }
  }
}

// Final maximum and weight of every row in the softmax that mass comes from.
static void load_outcome(const Plan *plan, const Stream *stream, Tile *tile, int split) {
  int padded = plan->shape.padded;
  for (int row = 0; row < tile->rows; row++) {
    tile->mass_total_max[row] = LOWEST;
    tile->mass_total_weight[row] = 0;
    if (!is_split(plan, stream)) {
      tile->mass_total_max[row] = outcome_of(plan, tile, row)[0];
      tile->mass_total_weight[row] = outcome_of(plan, tile, row)[1];
      continue;
    }
    for (int part = 0; part < stream->parts; part++) {
      const float *partial = partial_of(plan, split, part, row);
      fold_weights(&tile->mass_total_max[row], &tile->mass_total_weight[row], partial[padded + 2], partial[padded + 3]);
    }
  }
}

// Adds the probabilities of each row at position `from` or later to its slots' mass, rows in order.
static void add_mass(const Plan *plan, Tile *tile, Block *block, int lane, int32_t from) {
  const Shape *s = &plan->shape;
  move_tile(plan, tile, block->rotation);
  const float *q = rows_for(plan, tile, block->thin, lane);
  unpack_block(plan, tile, block);
  for (int first = 0; first < tile->rows; first += ROW_BLOCK) {
    int rows = min(ROW_BLOCK, tile->rows - first);
    Group16 seen[BLOCK_GROUPS];
    int groups = groups_seen(tile, first, rows, s->window, block, seen);
    score_block(block->codec, rows, q + first * block->width, block->width, seen, groups, tile->scores);
    for (int g = 0; g < groups; g++) {
      if (!seen[g].mass) continue;
      f32x16 mass = f32x16_load(seen[g].mass);
      for (int r = 0; r < rows; r++) {
        float weight = tile->mass_total_weight[first + r];
        if (weight == 0 || tile->positions[first + r] < from) continue;
        f32x16 x = f32x16_load(tile->scores + r * BLOCK_KEYS + g * GROUP);
        x = finish_score(tile, &seen[g], tile->positions[first + r], s->window, choice_bit(tile, first + r), x);
        if (tile->tempered) x = temper_score(tile, &seen[g], first + r, x);
        f32x16 p = f32x16_exp2(f32x16_sub(x, f32x16_set1(tile->mass_total_max[first + r])));
        mass = f32x16_fma(p, f32x16_set1(1.f / weight), mass);
      }
      f32x16_store(seen[g].mass, mass);
    }
  }
}

// All tiles of a stream, in order, over one part: no two threads meet at a slot.
static void give_mass(const Plan *plan, const Stream *stream, Tile *tile, int first_split, int part) {
  for (int index = 0; index < stream->tiles; index++) {
    load_tile(plan, stream, index, tile);
    load_outcome(plan, stream, tile, first_split + index);
    Sight sight = sight_of(tile, 0, tile->rows, plan->shape.window);
    if (sight.high < stream->view->mass_from) continue;
    Walk walk = walk_part(plan, stream, part);
    Block block;
    while (next_block(&walk, &sight, &block)) add_mass(plan, tile, &block, stream->lane, stream->view->mass_from);
  }
}

// Adds the squares of a stream's queries at position `queries_from` or later to the lane's sums, in order.
static void add_queries(const Plan *plan, const Stream *stream) {
  const Shape *s = &plan->shape;
  float *sums = AT(float, stream->view->queries) + (size_t)stream->lane * s->width;
  for (int t = stream->span->start; t < stream->span->start + stream->span->count; t++) {
    if (AT(const int32_t, plan->step->positions)[t] < stream->view->queries_from) continue;
    const float *q = AT(const float, plan->op->p[0]) + ((size_t)t * s->heads + stream->kv_head * s->per_kv_head) * s->width;
    for (int h = 0; h < s->per_kv_head; h++, q += s->width) {
      for (int i = 0; i < s->width; i++) sums[i] += q[i] * q[i];
    }
  }
}

void kernel_attention_merge(const Op *op, const Step *step, Work *work) {
  Plan plan = plan_of(op, step, work->threads);
  int units = count_units(&plan, FOLDS, QUERIES), begin, end;
  if (units == 0) return;
  Tile tile = tile_memory(&plan, work->thread);
  Cursor at = cursor_at(&plan, FOLDS);
  while (work_take(work, units, 1, &begin, &end)) {
    for (int unit = begin; unit < end; unit++) {
      seek(&plan, &at, unit);
      int index = unit - at.first;
      if (at.phase == FOLDS) {
        load_tile(&plan, &at.stream, index, &tile);
        fold_tile(&plan, &at.stream, &tile, at.splits + index);
        write_out(&plan, &tile, tile.total, tile.total_weight);
      } else if (at.phase == MASSES) {
        give_mass(&plan, &at.stream, &tile, at.splits, index);
      } else {
        add_queries(&plan, &at.stream);
      }
    }
  }
}
