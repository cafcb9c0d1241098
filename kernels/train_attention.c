// OP_TRAIN_ATTENTION: causal attention over whole sequences, and the log of every softmax's denominator
// see train_attention.h   p: [{q, k, v, out, logSum [S * n, H]}, scratch]
//
// A thread takes CHUNK queries of all heads that share a kv head. It goes once over the blocks of keys they see, and
// keeps for every row the greatest score so far, the sum of exponentials below it, and in `out` the values weighted by
// them (online softmax, 1805.02867; 2205.14135).
#include "train_attention.h"

#define CHUNK (4 * BLOCK_ROWS)
#define NOTHING (-__builtin_inff())

typedef struct Buffers {
  float *queries, *keys, *values, *scores;
  float *greatest, *sums;  // by row of the chunk: [block][head of the group][BLOCK_ROWS]
} Buffers;

#define STATE_ROWS ((TRAIN_SCRATCH - 2 * SLAB_FLOATS - BLOCK_ROWS * (BLOCK_DEPTH + SCORES)) / 2)

// Scores of one row against a block's keys to weights below the new greatest; returns the factor of what was summed
// before.
INLINE float soften(const Shape *s, float *scores, int keys, int first, int position, int masked, float *greatest,
                    float *sum) {
  f32x16 most = f32x16_set1(NOTHING);
  for (int i = 0; i < keys; i += 16) {
    f32x16 x = f32x16_load(scores + i);
    if (s->softcap > 0.f) {
      x = f32x16_mul(f32x16_set1(s->softcap), f32x16_tanh(f32x16_mul(x, f32x16_set1(1.f / s->softcap))));
    }
    if (masked || i + 16 > keys) x = keep_lanes(x, seen_bits(s, first + i, keys - i, position), NOTHING);
    f32x16_store(scores + i, x);
    most = f32x16_max(most, x);
  }
  const float found = f32x16_reduce_max(most), before = *greatest;
  const float now = found > before ? found : before;
  const f32x16 top = f32x16_set1(now == NOTHING ? 0.f : now);
  f32x16 sums = f32x16_zero();
  for (int i = 0; i < keys; i += 16) {
    const f32x16 e = f32x16_exp(f32x16_sub(f32x16_load(scores + i), top));
    f32x16_store(scores + i, e);
    sums = f32x16_add(sums, e);
  }
  float factor = 1.f;
  if (now > before) {
    float lanes[16];
    f32x16_store(lanes, f32x16_exp(f32x16_set1(before - now)));
    factor = lanes[0];
  }
  *greatest = now;
  *sum = *sum * factor + f32x16_reduce_add(sums);
  return factor;
}

INLINE void scale_row(float *x, int n, float factor) {
  const f32x16 f = f32x16_set1(factor);
  for (int i = 0; i < n; i += 16) store_some(x + i, f32x16_mul(f, load_some(x + i, n - i)), n - i);
}

// Rows of one block of queries of one head against the block of keys in the buffers.
static void attend_block(const Shape *s, const Buffers *b, const Matrix *q, const Matrix *out, int64_t row, int rows,
                         int column, int position, int first, int keys, int masked, float *greatest, float *sums) {
  float *result = row_of(out, row) + column;
  load_slab(q, row, rows, column, s, b->queries);
  block_product(0, SLAB, b->queries, b->keys, BLOCK_ROWS, TILE_COLUMNS, s->width, b->scores, SCORES,
                round_up(rows, TILE_ROWS), BLOCK_ROWS, s->scale, REPLACE);
  for (int r = 0; r < rows; r++) {
    const float factor =
        soften(s, b->scores + r * SCORES, keys, first, position + r, masked, greatest + r, sums + r);
    if (factor != 1.f) scale_row(result + r * out->stride, s->width, factor);
  }
  block_product(0, SCORES, b->scores, b->values, SLAB, TILE_COLUMNS, keys, result, out->stride, rows, s->width, 1.f, ADD);
}

static void attend_chunk(const Shape *s, const Buffers *b, const Matrix *matrices, int sequence, int kv_head, int from,
                         int to) {
  const Matrix *q = matrices, *k = matrices + 1, *v = matrices + 2, *out = matrices + 3, *log_sums = matrices + 4;
  const int64_t queries_at = (int64_t)sequence * s->n, keys_at = (int64_t)sequence * s->m;
  const int last = s->first_query + to, kv_column = kv_head * s->width;
  const int states = (to - from + BLOCK_ROWS - 1) / BLOCK_ROWS * s->group * BLOCK_ROWS;
  for (int i = 0; i < states; i++) b->greatest[i] = NOTHING, b->sums[i] = 0.f;
  for (int r = from; r < to; r++) {
    const int count = s->width * s->group;
    float *to = row_of(out, queries_at + r) + kv_column * s->group;
    for (int i = 0; i < count; i += 16) store_some(to + i, f32x16_zero(), count - i);
  }
  for (int first = 0; first < last; first += BLOCK_ROWS) {
    const int keys = s->m - first < BLOCK_ROWS ? s->m - first : BLOCK_ROWS;
    if (sight(s, first, keys, s->first_query + from, to - from) == SEES_NONE) continue;
    load_transposed(k, keys_at + first, keys, kv_column, s, b->keys);
    load_slab(v, keys_at + first, keys, kv_column, s, b->values);
    for (int r = from, at = 0; r < to; r += BLOCK_ROWS, at += s->group * BLOCK_ROWS) {
      const int rows = to - r < BLOCK_ROWS ? to - r : BLOCK_ROWS, position = s->first_query + r;
      const int seen = sight(s, first, keys, position, rows);
      if (seen == SEES_NONE) continue;
      for (int g = 0; g < s->group; g++) {
        attend_block(s, b, q, out, queries_at + r, rows, (kv_head * s->group + g) * s->width, position, first, keys,
                     seen == SEES_SOME, b->greatest + at + g * BLOCK_ROWS, b->sums + at + g * BLOCK_ROWS);
      }
    }
  }
  for (int r = from; r < to; r++) {
    for (int g = 0; g < s->group; g++) {
      const int head = kv_head * s->group + g;
      const int at = ((r - from) / BLOCK_ROWS * s->group + g) * BLOCK_ROWS + (r - from) % BLOCK_ROWS;
      float log[16];
      f32x16_store(log, f32x16_log(f32x16_set1(b->sums[at])));
      scale_row(row_of(out, queries_at + r) + head * s->width, s->width, 1.f / b->sums[at]);
      row_of(log_sums, queries_at + r)[head] = b->greatest[at] + log[0];
    }
  }
}

void kernel_train_attention(const Op *op, const Step *step, Work *work) {
  const Matrix *matrices = AT(const Matrix, op->p[0]);
  const Shape s = shape_of(op, matrices, matrices + 1);
  Buffers b;
  b.queries = scratch_of(op, work);
  b.values = b.queries + SLAB_FLOATS;
  b.keys = b.values + SLAB_FLOATS;
  b.scores = b.keys + BLOCK_DEPTH * BLOCK_ROWS;
  b.greatest = b.scores + SCORES * BLOCK_ROWS;
  b.sums = b.greatest + STATE_ROWS;
  // As many blocks as there is memory for their rows' state; how queries are cut changes no number.
  const int most = STATE_ROWS / s.group / BLOCK_ROWS * BLOCK_ROWS, chunk = most < CHUNK ? most : CHUNK;
  const int chunks = (s.n + chunk - 1) / chunk;
  int begin, end;
  (void)step;
  while (work_take(work, s.sequences * s.kv_heads * chunks, 1, &begin, &end)) {
    for (int task = begin; task < end; task++) {
      const int from = (chunks - 1 - task % chunks) * chunk, lane = task / chunks;  // long ones first
      attend_chunk(&s, &b, matrices, lane / s.kv_heads, lane % s.kv_heads, from,
                   from + chunk < s.n ? from + chunk : s.n);
    }
  }
}
