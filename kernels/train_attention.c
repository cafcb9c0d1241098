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

// A block's scores to weights below each row's greatest score so far, and the sums that go with them. `factors` are
// those of what was summed before. Of a row, as many columns are written as its tile reads.
static void soften(const Shape *s, float *scores, int rows, int keys, int first, int position, int masked,
                   float *greatest, float *sums, float *factors) {
  const int end = first + keys, diagonal = position - first;
  float tops[BLOCK_ROWS];
  for (int r = 0; r < rows; r++) {
    const int columns = clamp(r + diagonal + TILE_ROWS, 0, keys);
    float *row = scores + r * SCORES;
    f32x16 most = f32x16_set1(NOTHING);
    for (int i = 0; i < columns; i += 16) {
      f32x16 x = f32x16_load(row + i);
      if (s->softcap > 0.f) {
        x = f32x16_mul(f32x16_set1(s->softcap), f32x16_tanh(f32x16_mul(x, f32x16_set1(1.f / s->softcap))));
      }
      if (masked || i + 16 > keys) x = keep_seen(s, x, first + i, end, position + r, NOTHING);
      if (masked || i + 16 > keys || s->softcap > 0.f) f32x16_store(row + i, x);
      most = f32x16_max(most, x);
    }
    tops[r] = f32x16_reduce_max(most);
  }
  for (int r = 0; r < rows; r += 16) {
    // The lowest finite number stands for nothing, so that differences stay numbers.
    const f32x16 before = f32x16_load(greatest + r), least = f32x16_set1(-3e38f);
    const f32x16 now = f32x16_max(f32x16_max(before, load_some(tops + r, rows - r)), least);
    f32x16_store(factors + r, f32x16_exp(f32x16_sub(f32x16_max(before, least), now)));
    f32x16_store(greatest + r, now);
  }
  for (int r = 0; r < rows; r++) {
    const int columns = clamp(r + diagonal + TILE_ROWS, 0, keys);
    float *row = scores + r * SCORES;
    const f32x16 top = f32x16_set1(greatest[r]);
    f32x16 total = f32x16_zero();
    for (int i = 0; i < columns; i += 16) {
      const f32x16 e = f32x16_exp(f32x16_sub(f32x16_load(row + i), top));
      f32x16_store(row + i, e);
      total = f32x16_add(total, e);
    }
    sums[r] = sums[r] * factors[r] + f32x16_reduce_add(total);
  }
}

INLINE void scale_row(float *x, int n, float factor) {
  const f32x16 f = f32x16_set1(factor);
  for (int i = 0; i < n; i += 16) store_some(x + i, f32x16_mul(f, load_some(x + i, n - i)), n - i);
}

// Rows of one block of queries of one head against the block of keys in the buffers.
static void attend_block(const Shape *s, const Buffers *b, const Matrix *q, const Matrix *out, int64_t row, int rows,
                         int column, int position, int first, int keys, int masked, float *greatest, float *sums) {
  float *result = row_of(out, row) + column, factors[BLOCK_ROWS];
  const int diagonal = position - first;
  load_slab(q, row, rows, column, s, b->queries);
  score_product(b->queries, b->keys, s->width, b->scores, rows, diagonal, s->scale);
  soften(s, b->scores, rows, keys, first, position, masked, greatest, sums, factors);
  for (int r = 0; r < rows; r++) {
    if (factors[r] != 1.f) scale_row(result + r * out->stride, s->width, factors[r]);
  }
  query_product(b->scores, b->values, keys, result, out->stride, rows, s->width, diagonal);
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
      scale_row(row_of(out, queries_at + r) + head * s->width, s->width, 1.f / b->sums[at]);
      row_of(log_sums, queries_at + r)[head] = b->greatest[at] + first_lane(f32x16_log(f32x16_set1(b->sums[at])));
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
