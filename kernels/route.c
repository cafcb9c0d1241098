// OP_ROUTE: the perToken likeliest experts of every token, and for every expert the rows that chose it.
// i: [experts, perToken, normalize]
// p: [logits f32 [T, experts], ids int32 [T, perToken], weights f32 [T, perToken],
//     lists int32: starts [experts + 1], then the rows t * perToken + j grouped by expert, ascending]
#include "math.h"
#include "work.h"

// Weights are softmax(logits), scaled to sum 1 where `normalize`. Ties go to the lower expert.
static void choose(const float *logits, int experts, int per_token, int normalize, int32_t *ids, float *weights) {
  for (int j = 0; j < per_token; j++) {
    int best = -1;
    for (int e = 0; e < experts; e++) {
      int taken = 0;
      for (int before = 0; before < j; before++) taken |= ids[before] == e;
      if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
    }
    ids[j] = best;
  }
  f32x16 max = f32x16_set1(logits[ids[0]]), minus_infinity = f32x16_set1(-__builtin_inff()), total = f32x16_zero();
  for (int j = 0; j < per_token; j++) weights[j] = logits[ids[j]];
  for (int j = 0; j < per_token; j += 16) {
    int n = per_token - j < 16 ? per_token - j : 16;
    f32x16_store_part(weights + j, f32x16_exp(f32x16_sub(f32x16_load_part(weights + j, n), max)), n);
  }
  const float *all = normalize ? weights : logits;
  int count = normalize ? per_token : experts;
  for (int i = 0; i < count; i += 16) {
    int n = count - i < 16 ? count - i : 16;
    float lanes[16];
    f32x16_store(lanes, normalize ? f32x16_zero() : minus_infinity);
    for (int l = 0; l < n; l++) lanes[l] = all[i + l];
    f32x16 x = f32x16_load(lanes);
    total = f32x16_add(total, normalize ? x : f32x16_exp(f32x16_sub(x, max)));
  }
  float inverse = 1.f / f32x16_reduce_add(total);
  for (int j = 0; j < per_token; j++) weights[j] *= inverse;
}

static void list_by_expert(const int32_t *ids, int rows, int experts, int32_t *starts) {
  int32_t *list = starts + experts + 1;
  for (int e = 0; e <= experts; e++) starts[e] = 0;
  for (int row = 0; row < rows; row++) starts[ids[row] + 1]++;
  for (int e = 0; e < experts; e++) starts[e + 1] += starts[e];
  for (int row = 0; row < rows; row++) list[starts[ids[row]]++] = row;
  for (int e = experts; e > 0; e--) starts[e] = starts[e - 1];
  starts[0] = 0;
}

// One chunk: T x experts is little work, and the lists need all of it.
void kernel_route(const Op *op, const Step *step, Work *work) {
  int experts = op->i[0], per_token = op->i[1], begin, end;
  int32_t *ids = AT(int32_t, op->p[1]);
  if (!work_take(work, 1, 1, &begin, &end)) return;
  for (int t = 0; t < step->num_tokens; t++) {
    choose(AT(const float, op->p[0]) + (size_t)t * experts, experts, per_token, op->i[2], ids + (size_t)t * per_token,
           AT(float, op->p[2]) + (size_t)t * per_token);
  }
  list_by_expert(ids, step->num_tokens * per_token, experts, AT(int32_t, op->p[3]));
}
