// OP_TRAIN_ATTENTION_BACKWARD: adds to the gradients of q, k and v
// see train_attention.h, and i[7]: which gradients (1: dQ, 2: dK and dV), i[8]: queries and i[9]: keys per task
// p: [{q, k, v, out, logSum, dOut, dQ, dK, dV}, scratch]
//
// Scores are computed again, block by block (2205.14135, algorithm 4): with p the weights and D = dOut . out of a row,
// dV += p^T dOut, dS = p (dOut v^T - D) slope, dQ += dS k, dK += dS^T q. One thread takes a kv head of a sequence
// whole, so that nothing is computed twice; where these are too few, dQ is cut by queries, and dK and dV by keys.
// A gradient's blocks are summed in the same order either way.
#include "train_attention.h"

typedef struct Buffers {
  float *q, *d_out, *k, *v, *d_k, *d_v;  // slabs
  float *k_across, *v_across;            // [width][BLOCK_ROWS]
  float *weights, *d_scores;             // [BLOCK_ROWS][SCORES]
} Buffers;

_Static_assert(6 * SLAB_FLOATS + 2 * BLOCK_ROWS * (BLOCK_DEPTH + SCORES) <= TRAIN_SCRATCH, "scratch memory is too small");

// Scores of a row to weights, and the gradients of weights to those of scores: as many columns as tiles read.
INLINE void row_backward(const Shape *s, float *scores, float *d_scores, int columns, int first, int end, int position,
                         int masked, float log_sum, float mean) {
  const f32x16 log = f32x16_set1(log_sum), d = f32x16_set1(mean), scale = f32x16_set1(s->scale);
  for (int i = 0; i < columns; i += 16) {
    f32x16 x = f32x16_load(scores + i), slope = scale;
    if (s->softcap > 0.f) {
      const f32x16 t = f32x16_tanh(f32x16_mul(x, f32x16_set1(1.f / s->softcap)));
      x = f32x16_mul(t, f32x16_set1(s->softcap));
      slope = f32x16_mul(scale, f32x16_sub(f32x16_set1(1.f), f32x16_mul(t, t)));
    }
    f32x16 p = f32x16_exp(f32x16_sub(x, log));
    f32x16 dp = f32x16_mul(f32x16_mul(p, slope), f32x16_sub(f32x16_load(d_scores + i), d));
    if (masked || first + i + 16 > end) {
      p = keep_seen(s, p, first + i, end, position, 0.f);
      dp = keep_seen(s, dp, first + i, end, position, 0.f);
    }
    f32x16_store(scores + i, p);
    f32x16_store(d_scores + i, dp);
  }
}

INLINE float dot(const float *a, const float *b, int n) {
  f32x16 sum = f32x16_zero();
  for (int i = 0; i < n; i += 16) sum = f32x16_fma(load_some(a + i, n - i), load_some(b + i, n - i), sum);
  return f32x16_reduce_add(sum);
}

// One block of queries of one head against the block of keys in the buffers.
static void block_backward(const Shape *s, const Buffers *b, const Matrix *m, int64_t row, int rows, int head,
                           int position, int first, int keys, int masked, int which) {
  const Matrix *q = m, *out = m + 3, *log_sums = m + 4, *d_out = m + 5, *d_q = m + 6;
  const int column = head * s->width;
  load_slab(q, row, rows, column, s, b->q);
  load_slab(d_out, row, rows, column, s, b->d_out);
  const int diagonal = position - first;
  score_product(b->q, b->k_across, s->width, b->weights, rows, diagonal, s->scale);
  score_product(b->d_out, b->v_across, s->width, b->d_scores, rows, diagonal, 1.f);
  for (int r = 0; r < rows; r++) {
    const float mean = dot(b->d_out + r * SLAB, row_of(out, row + r) + column, s->width);
    row_backward(s, b->weights + r * SCORES, b->d_scores + r * SCORES, clamp(r + diagonal + TILE_ROWS, 0, keys), first,
                 first + keys, position + r, masked, row_of(log_sums, row + r)[head], mean);
  }
  if (which & 1) {
    query_product(b->d_scores, b->k, keys, row_of(d_q, row) + column, d_q->stride, rows, s->width, diagonal);
  }
  if (which & 2) {
    key_product(b->weights, b->d_out, rows, b->d_v, keys, s->padded, diagonal);
    key_product(b->d_scores, b->q, rows, b->d_k, keys, s->padded, diagonal);
  }
}

static void add_slab(const float *slab, const Matrix *m, int64_t row, int rows, int column, int width) {
  for (int r = 0; r < rows; r++) {
    float *to = row_of(m, row + r) + column;
    for (int i = 0; i < width; i += 16) {
      store_some(to + i, f32x16_add(load_some(to + i, width - i), f32x16_load(slab + r * SLAB + i)), width - i);
    }
  }
}

static void clear_slab(float *slab, int columns) {
  for (int r = 0; r < BLOCK_ROWS; r++) {
    for (int i = 0; i < columns; i += 16) f32x16_store(slab + r * SLAB + i, f32x16_zero());
  }
}

// Queries q_from .. q_to - 1 and keys k_from .. k_to - 1 of one kv head of one sequence.
static void lane_backward(const Shape *s, const Buffers *b, const Matrix *m, int sequence, int kv_head, int q_from,
                          int q_to, int k_from, int k_to, int which) {
  const Matrix *k = m + 1, *v = m + 2, *d_k = m + 7, *d_v = m + 8;
  const int64_t queries_at = (int64_t)sequence * s->n, keys_at = (int64_t)sequence * s->m;
  const int column = kv_head * s->width;
  for (int first = k_from; first < k_to; first += BLOCK_ROWS) {
    const int keys = s->m - first < BLOCK_ROWS ? s->m - first : BLOCK_ROWS;
    if (sight(s, first, keys, s->first_query + q_from, q_to - q_from) == SEES_NONE) continue;
    load_transposed(k, keys_at + first, keys, column, s, b->k_across);
    load_transposed(v, keys_at + first, keys, column, s, b->v_across);
    load_slab(k, keys_at + first, keys, column, s, b->k);
    clear_slab(b->d_k, round_up(s->padded, 16));
    clear_slab(b->d_v, round_up(s->padded, 16));
    for (int g = 0; g < s->group; g++) {
      for (int r = q_from; r < q_to; r += BLOCK_ROWS) {
        const int rows = q_to - r < BLOCK_ROWS ? q_to - r : BLOCK_ROWS, position = s->first_query + r;
        const int seen = sight(s, first, keys, position, rows);
        if (seen == SEES_NONE) continue;
        block_backward(s, b, m, queries_at + r, rows, kv_head * s->group + g, position, first, keys,
                       seen == SEES_SOME, which);
      }
    }
    if (which & 2) {
      add_slab(b->d_k, d_k, keys_at + first, keys, column, s->width);
      add_slab(b->d_v, d_v, keys_at + first, keys, column, s->width);
    }
  }
}

void kernel_train_attention_backward(const Op *op, const Step *step, Work *work) {
  const Matrix *m = AT(const Matrix, op->p[0]);
  const Shape s = shape_of(op, m, m + 1);
  float *scratch = scratch_of(op, work);
  Buffers b;
  float **slabs[] = {&b.q, &b.d_out, &b.k, &b.v, &b.d_k, &b.d_v};
  for (int i = 0; i < 6; i++, scratch += SLAB_FLOATS) *slabs[i] = scratch;
  b.k_across = scratch;
  b.v_across = b.k_across + BLOCK_DEPTH * BLOCK_ROWS;
  b.weights = b.v_across + BLOCK_DEPTH * BLOCK_ROWS;
  b.d_scores = b.weights + BLOCK_ROWS * SCORES;
  const int all_keys = s.first_query + s.n, by_queries = op->i[8], by_keys = op->i[9];
  const int down = (s.n + by_queries - 1) / by_queries, across = (all_keys + by_keys - 1) / by_keys;
  int begin, end;
  (void)step;
  while (work_take(work, s.sequences * s.kv_heads * down * across, 1, &begin, &end)) {
    for (int task = begin; task < end; task++) {
      const int lane = task / (down * across), part = task % (down * across);
      const int q_from = (down - 1 - part / across) * by_queries, k_from = part % across * by_keys;  // long ones first
      lane_backward(&s, &b, m, lane / s.kv_heads, lane % s.kv_heads, q_from,
                    q_from + by_queries < s.n ? q_from + by_queries : s.n, k_from,
                    k_from + by_keys < all_keys ? k_from + by_keys : all_keys, op->i[7]);
    }
  }
}
