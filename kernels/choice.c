// OP_CHOICE_SCORES and OP_CHOICE: which stored tokens each query attends to, where queries choose (ChoiceRule of
// src/backends/contract.ts). The attention that follows reads `shown`; all three ops take the same fields, and each must
// wait for the one before it. Views without a Choice are passed over.
//
// The first op scores, for the queries that choose, all tokens of a view: units are parts of 512 slots (doubled until 32
// parts hold them) against one kv head. The second sums up what the heads of a view would attend to and takes the best:
// a unit is all lanes of a view that are of this layer, its tokens one after another.
#include "attention_walk.h"

static inline float *row_scores(const Stream *stream, const Choice *choice, int per_kv_head, int token, int head) {
  size_t rows = (size_t)stream->span->count * per_kv_head, slots = stream->view->num_pages * stream->view->page_tokens;
  return AT(float, choice->scores) + (stream->lane * rows + token * per_kv_head + head) * slots;
}

static inline float *row_ends(const Stream *stream, const Choice *choice, int per_kv_head, int token, int head) {
  size_t rows = (size_t)stream->span->count * per_kv_head;
  return AT(float, choice->ends) + (stream->lane * rows + token * per_kv_head + head) * MAX_PARTS * 2;
}

// Slots of a part, and parts, of a view alone.
static int view_parts(const View *view, int *part_slots) {
  int slots = view->num_pages * view->page_tokens;
  *part_slots = PART_SLOTS;
  while ((slots - 1) / MAX_PARTS >= *part_slots) *part_slots *= 2;
  return (slots + *part_slots - 1) / *part_slots;
}

// ------------------------------------------------------------------------------------------------- who chooses

// The mean of the query heads of a kv head, as they were before they were rotated to the token's position.
static void mean_query(const Plan *plan, int token, int kv_head, float *out) {
  const Shape *s = &plan->shape;
  const float *q = AT(const float, plan->op->p[0]) + ((size_t)token * s->heads + kv_head * s->per_kv_head) * s->width;
  for (int i = 0; i < s->width; i++) out[i] = 0;
  for (int h = 0; h < s->per_kv_head; h++, q += s->width) {
    for (int i = 0; i < s->width; i++) out[i] += q[i] / s->per_kv_head;
  }
  if (!plan->op->p[2]) return;
  const float *cos = AT(const float, plan->op->p[2]) + (size_t)token * 2 * s->pairs, *sin = cos + s->pairs;
  for (int i = 0; i < s->pairs; i++) {
    float *a = out + (s->halves ? i : 2 * i), *b = out + (s->halves ? i + s->pairs : 2 * i + 1), x = *a, y = *b;
    *a = x * cos[i] + y * sin[i];
    *b = y * cos[i] - x * sin[i];
  }
}

// Whether the query of a token is like that of `last`, or, where that is -1, the one that chose in an earlier step.
static int is_like(const Plan *plan, const Stream *stream, int token, int last, float *memory) {
  const Choice *choice = AT(const Choice, stream->view->choice);
  const int32_t *lane_map = lane_map_of(plan->op, stream->span);
  int width = plan->shape.width, group = lane_map[2 * stream->kv_head];
  const float *stored = AT(const float, choice->chooser) + 1;
  double product = 0, own = 0, other = 0;
  for (int head = 0; head < plan->shape.kv_heads; head++) {
    if (lane_map[2 * head] != group) continue;
    const float *a = memory, *b = stored + (size_t)lane_map[2 * head + 1] * width;
    mean_query(plan, token, head, memory);
    if (last >= 0) {
      mean_query(plan, last, head, memory + width);
      b = memory + width;
    }
    for (int i = 0; i < width; i++) {
      product += (double)a[i] * b[i];
      own += (double)a[i] * a[i];
      other += (double)b[i] * b[i];
    }
  }
  // product >= similar * sqrt(own * other)
  double bound = (double)choice->similar * choice->similar * own * other;
  if (choice->similar < 0) return product >= 0 || product * product <= bound;
  return product >= 0 && product * product >= bound;
}

// Bit t: token t of the span chooses.
static uint32_t choosing_tokens(const Plan *plan, const Stream *stream, float *memory) {
  const Choice *choice = AT(const Choice, stream->view->choice);
  const Span *span = stream->span;
  const int32_t *positions = AT(const int32_t, plan->step->positions) + span->start;
  int32_t at = *AT(const int32_t, choice->chooser);
  uint32_t bits = 0;
  for (int t = 0, last = -1; t < span->count; t++) {
    int is_due = at < 0 || at > positions[t] || positions[t] - at >= choice->stride;
    if (!is_due && positions[t] % choice->every) continue;
    if (!is_due && is_like(plan, stream, span->start + t, last, memory)) continue;
    bits |= 1u << t;
    at = positions[t];
    last = span->start + t;
  }
  return bits;
}

// ------------------------------------------------------------------------------------------------------- scores

// Scores of a row over slots begin .. end-1 become powers of 2 relative to their maximum, which goes to `end_of_part`
// together with their sum.
static void relate(float *row, int begin, int end, float *end_of_part) {
  f32x16 top = f32x16_set1(LOWEST), sum = f32x16_zero();
  for (int i = begin; i < end; i += GROUP) top = f32x16_max(top, f32x16_load(row + i));
  float max = f32x16_reduce_max(top);
  for (int i = begin; i < end; i += GROUP) {
    f32x16 p = f32x16_exp2(f32x16_sub(f32x16_load(row + i), f32x16_set1(max)));
    sum = f32x16_add(sum, p);
    f32x16_store(row + i, p);
  }
  end_of_part[0] = max;
  end_of_part[1] = f32x16_reduce_add(sum);
}

// The rows of a tile, which is of one token, against slots begin .. end-1.
static void score_tile(const Plan *plan, const Stream *stream, Tile *tile, float **rows, int begin, int end) {
  const Shape *s = &plan->shape;
  const int32_t *positions = AT(const int32_t, stream->view->positions);
  f32x16 none = f32x16_set1(-__builtin_inff());
  for (int r = 0; r < tile->rows; r++) {
    for (int i = begin; i < end; i += GROUP) f32x16_store(rows[r] + i, none);
  }
  Sight sight = sight_of(tile, 0, tile->rows, s->window);
  sight.tokens = 0;  // all is looked at
  Walk walk = {stream->span, stream->view, s->width, stream->lane, begin, end - begin};
  Block block;
  while (next_block(&walk, &sight, &block)) {
    move_tile(plan, tile, block.rotation);
    const float *q = rows_for(plan, tile, block.thin, stream->lane);
    for (int first = 0; first < tile->rows; first += ROW_BLOCK) {
      int count = min(ROW_BLOCK, tile->rows - first);
      score_block(block.codec, count, q + first * block.width, block.width, block.group, block.groups, tile->scores);
      for (int g = 0; g < block.groups; g++) {
        for (int r = 0; r < count; r++) {
          f32x16 x = f32x16_load(tile->scores + r * BLOCK_KEYS + g * GROUP);
          x = finish_score(tile, &block.group[g], tile->positions[first + r], s->window, 0, x);
          f32x16_store(rows[first + r] + (block.group[g].positions - positions), x);
        }
      }
    }
  }
}

static void score_part(const Plan *plan, const Stream *stream, Tile *tile, int part, int part_slots) {
  const Choice *choice = AT(const Choice, stream->view->choice);
  const Shape *s = &plan->shape;
  uint32_t choosing = choosing_tokens(plan, stream, tile->sums);
  int begin = part * part_slots, slots = stream->view->num_pages * stream->view->page_tokens;
  int end = min(begin + part_slots, slots);
  for (int token = 0; token < stream->span->count; token++) {
    if (!(choosing >> token & 1)) continue;
    for (int head_tile = 0; head_tile < s->head_tiles; head_tile++) {
      load_tile(plan, stream, token * s->head_tiles + head_tile, tile);
      int first = head_tile * s->tile_heads;
      float *rows[TILE_ROWS];
      for (int r = 0; r < tile->rows; r++) rows[r] = row_scores(stream, choice, s->per_kv_head, token, first + r);
      score_tile(plan, stream, tile, rows, begin, end);
      for (int r = 0; r < tile->rows; r++) {
        relate(rows[r], begin, end, row_ends(stream, choice, s->per_kv_head, token, first + r) + 2 * part);
      }
    }
  }
}

void kernel_choice_scores(const Op *op, const Step *step, Work *work) {
  Plan plan = {.op = op, .step = step, .shape = shape_of(op), .threads = work->threads};
  plan.shape.tile_tokens = 1;
  Tile tile = tile_memory(&plan, work->thread);
  int streams = step->num_spans * plan.shape.kv_heads, units = 0, part_slots = 0, begin, end;
  for (int i = 0; i < streams; i++) {
    Stream stream = stream_of(op, step, &plan.shape, i);
    if (stream.view->choice) units += view_parts(stream.view, &part_slots);
  }
  int index = -1, first = 0, parts = 0;
  Stream stream;
  while (work_take(work, units, 1, &begin, &end)) {
    for (int unit = begin; unit < end; unit++) {
      while (unit >= first + parts) {
        first += parts;
        stream = stream_of(op, step, &plan.shape, ++index);
        parts = stream.view->choice ? view_parts(stream.view, &part_slots) : 0;
      }
      score_part(&plan, &stream, &tile, unit - first, part_slots);
    }
  }
}

// ------------------------------------------------------------------------------------------------------- choice

// Makes the maximum of each of a row's parts the factor that turns its powers into probabilities.
static void normalize(float *ends, int parts) {
  float top = LOWEST, sum = 0, factors[MAX_PARTS] = {0};
  for (int p = 0; p < parts; p++) top = ends[2 * p] > top ? ends[2 * p] : top;
  for (int p = 0; p < parts; p++) factors[p] = ends[2 * p] - top;
  for (int p = 0; p < MAX_PARTS; p += GROUP) f32x16_store(factors + p, f32x16_exp2(f32x16_load(factors + p)));
  for (int p = 0; p < parts; p++) sum += factors[p] * ends[2 * p + 1];
  for (int p = 0; p < parts; p++) ends[2 * p] = sum == 0 ? 0 : factors[p] / sum;
}

// Whether a kv head of the layer chooses together with that of the stream.
static inline int chooses_with(const Stream *stream, int kv_head, const int32_t *lane_map) {
  return lane_map[2 * kv_head] == lane_map[2 * stream->kv_head];
}

// What the tokens that a query sees are worth, by position; -1 where it sees none.
static void sum_worth(const Plan *plan, const Stream *stream, int token, int32_t position, Tile *tile) {
  const Choice *choice = AT(const Choice, stream->view->choice);
  const View *view = stream->view;
  const Shape *s = &plan->shape;
  const int32_t *lane_map = lane_map_of(plan->op, stream->span), *positions = AT(const int32_t, view->positions);
  const float *log_counts = view->log_counts ? AT(const float, view->log_counts) : 0;
  int part_slots, parts = view_parts(view, &part_slots), slots = view->num_pages * view->page_tokens;
  float *worth = AT(float, choice->worth), *sum = tile->scores;
  for (int i = 0; i < choice->num_positions; i++) worth[i] = -1;
  Stream lane = *stream;
  for (int head = 0; head < s->kv_heads; head++) {
    if (!chooses_with(stream, head, lane_map)) continue;
    lane.lane = lane_map[2 * head + 1];
    for (int h = 0; h < s->per_kv_head; h++) normalize(row_ends(&lane, choice, s->per_kv_head, token, h), parts);
  }
  for (int begin = 0; begin < slots; begin += PART_SLOTS) {
    int part = begin / part_slots, count = min(PART_SLOTS, slots - begin);
    for (int i = 0; i < count; i += GROUP) f32x16_store(sum + i, f32x16_zero());
    for (int head = 0; head < s->kv_heads; head++) {
      if (!chooses_with(stream, head, lane_map)) continue;
      lane.lane = lane_map[2 * head + 1];
      for (int h = 0; h < s->per_kv_head; h++) {
        const float *row = row_scores(&lane, choice, s->per_kv_head, token, h) + begin;
        f32x16 factor = f32x16_set1(row_ends(&lane, choice, s->per_kv_head, token, h)[2 * part]);
        for (int i = 0; i < count; i += GROUP) {
          f32x16_store(sum + i, f32x16_fma(f32x16_load(row + i), factor, f32x16_load(sum + i)));
        }
      }
    }
    for (int i = 0; i < count; i++) {
      int32_t at = positions[begin + i];
      if (at <= edge(position, s->window) || at > position || (log_counts && log_counts[begin + i] < 0)) continue;
      worth[at - choice->first_position] = sum[i];
    }
  }
}

// Raises each worth to the highest of its neighbours', and what is always chosen above all; into `pooled`.
static void pool_worth(const Choice *choice, int32_t position, const float *worth, float *pooled) {
  int count = choice->num_positions;
  for (int i = 0; i < count; i++) {
    int32_t at = choice->first_position + i;
    float most = worth[i];
    if (most >= 0) {
      int last = i + choice->reach < count ? i + choice->reach : count - 1;
      for (int near = i > choice->reach ? i - choice->reach : 0; near <= last; near++) {
        most = worth[near] > most ? worth[near] : most;
      }
      if (at < choice->first || at > position - choice->newest) most = __builtin_inff();
    }
    pooled[i] = most;
  }
}

static inline uint32_t bits_of(float x) {
  union {
    float x;
    uint32_t bits;
  } u = {x};
  return u.bits;
}

// Of `count` values makes the highest `tokens` 1 and all others 0; of equals the last. Negative ones do not count.
static void mark_highest(float *values, int count, int tokens) {
  uint32_t prefix = 0, known = 0;  // bits of the lowest value that is taken, and which of them are known
  int left = tokens, some = 0;
  for (int i = 0; i < count; i++) some += values[i] >= 0;
  if (some <= tokens) {
    for (int i = 0; i < count; i++) values[i] = values[i] >= 0;
    return;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    int histogram[256] = {0}, digit = 255;
    for (int i = 0; i < count; i++) {
      uint32_t bits = bits_of(values[i]);
      histogram[bits >> shift & 255] += values[i] >= 0 && (bits & known) == prefix;
    }
    while (histogram[digit] < left) left -= histogram[digit--];
    prefix |= (uint32_t)digit << shift;
    known |= 255u << shift;
  }
  for (int i = count - 1; i >= 0; i--) {
    uint32_t bits = bits_of(values[i]);
    values[i] = values[i] >= 0 && (bits > prefix || (bits == prefix && left-- > 0));
  }
}

#define CHOSEN INT32_MIN  // bit 31

static void choose_for(const Plan *plan, const Stream *stream, int token, int32_t position, Tile *tile) {
  const Choice *choice = AT(const Choice, stream->view->choice);
  const int32_t *positions = AT(const int32_t, stream->view->positions);
  int32_t *shown = AT(int32_t, choice->shown), bit = 1 << token;
  float *worth = AT(float, choice->worth), *pooled = worth + choice->num_positions;
  sum_worth(plan, stream, token, position, tile);
  pool_worth(choice, position, worth, pooled);
  mark_highest(pooled, choice->num_positions, choice->tokens);
  int slots = stream->view->num_pages * stream->view->page_tokens;
  for (int i = 0; i < slots; i++) {
    if (positions[i] < 0) continue;
    int at = positions[i] - choice->first_position;
    int is_chosen = at >= 0 && at < choice->num_positions && pooled[at] > 0;
    shown[i] = (shown[i] & ~CHOSEN) | (is_chosen ? CHOSEN : 0) | (is_chosen || choice->wholly ? bit : 0);
  }
}

static void choose(const Plan *plan, const Stream *stream, Tile *tile) {
  const Choice *choice = AT(const Choice, stream->view->choice);
  const Span *span = stream->span;
  const int32_t *lane_map = lane_map_of(plan->op, stream->span), *slot_positions = AT(const int32_t, stream->view->positions);
  const int32_t *positions = AT(const int32_t, plan->step->positions) + span->start;
  int32_t *chooser = AT(int32_t, choice->chooser), *shown = AT(int32_t, choice->shown);
  int slots = stream->view->num_pages * stream->view->page_tokens, last = -1;
  uint32_t choosing = choosing_tokens(plan, stream, tile->sums);
  for (int i = 0; i < slots; i++) shown[i] &= CHOSEN;
  for (int t = 0; t < span->count;) {
    if (choosing >> t & 1) {
      choose_for(plan, stream, t, positions[t], tile);
      *chooser = positions[t];
      last = span->start + t++;
      continue;
    }
    int32_t bits = 0;
    for (; t < span->count && !(choosing >> t & 1); t++) bits |= 1 << t;
    for (int i = 0; i < slots; i++) {
      if (slot_positions[i] >= 0 && (shown[i] < 0 || slot_positions[i] > *chooser)) shown[i] |= bits;
    }
  }
  if (last < 0) return;
  for (int head = 0; head < plan->shape.kv_heads; head++) {
    if (!chooses_with(stream, head, lane_map)) continue;
    mean_query(plan, last, head, (float *)(chooser + 1) + (size_t)lane_map[2 * head + 1] * plan->shape.width);
  }
}

void kernel_choice(const Op *op, const Step *step, Work *work) {
  Plan plan = {.op = op, .step = step, .shape = shape_of(op), .threads = work->threads};
  Tile tile = tile_memory(&plan, work->thread);
  int begin, end;
  while (work_take(work, step->num_spans * plan.shape.kv_heads, 1, &begin, &end)) {
    for (int unit = begin; unit < end; unit++) {
      Stream stream = stream_of(op, step, &plan.shape, unit);
      const int32_t *lane_map = lane_map_of(op, stream.span);
      int is_first = stream.view->choice != 0;
      for (int head = 0; head < stream.kv_head; head++) is_first &= !chooses_with(&stream, head, lane_map);
      if (is_first) choose(&plan, &stream, &tile);
    }
  }
}
