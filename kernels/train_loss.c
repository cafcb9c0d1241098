// OP_TRAIN_LOSS: cross-entropy and its gradient, row by row of the logits, which it overwrites:
// losses[r] = weights[r] * (log sum exp(logits[r]) - logits[r][target]); logits[r] = weights[r] * (softmax - onehot).
// A negative target gives zeros.
// p: [{logits, weights [rows, 1], losses [rows, 1]}, -, targets int32]
#include "math.h"
#include "train.h"

static float row_loss(float *x, int n, int target, float weight) {
  const float lowest = -3.4e38f;
  f32x16 most = f32x16_set1(lowest);
  int i = 0;
  for (; i + 16 <= n; i += 16) most = f32x16_max(most, f32x16_load(x + i));
  float max = f32x16_reduce_max(most);
  for (; i < n; i++) max = x[i] > max ? x[i] : max;
  const f32x16 top = f32x16_set1(max);
  f32x16 sums = f32x16_zero();
  const float chosen = x[target];
  float tail = 0.f;
  for (i = 0; i + 16 <= n; i += 16) {
    const f32x16 e = f32x16_exp(f32x16_sub(f32x16_load(x + i), top));
    f32x16_store(x + i, e);
    sums = f32x16_add(sums, e);
  }
  if (i < n) {
    float lanes[16];
    f32x16_store(lanes, f32x16_exp(f32x16_sub(f32x16_load_part(x + i, n - i), top)));
    for (int j = i; j < n; j++) tail += x[j] = lanes[j - i];
  }
  const float total = f32x16_reduce_add(sums) + tail;
  const f32x16 factor = f32x16_set1(weight / total);
  for (i = 0; i < n; i += 16) store_some(x + i, f32x16_mul(factor, load_some(x + i, n - i)), n - i);
  x[target] -= weight;
  return weight * (max - chosen + first_lane(f32x16_log(f32x16_set1(total))));
}

void kernel_train_loss(const Op *op, const Step *step, Work *work) {
  const Matrix *logits = AT(const Matrix, op->p[0]), *weights = logits + 1, *losses = logits + 2;
  const int32_t *targets = AT(const int32_t, op->p[2]);
  const int n = logits->columns;
  int begin, end;
  (void)step;
  while (work_take(work, logits->rows, 4, &begin, &end)) {
    for (int r = begin; r < end; r++) {
      float *x = row_of(logits, r);
      if (targets[r] < 0) {
        for (int i = 0; i < n; i += 16) store_some(x + i, f32x16_zero(), n - i);
        *row_of(losses, r) = 0.f;
      } else {
        *row_of(losses, r) = row_loss(x, n, targets[r], *row_of(weights, r));
      }
    }
  }
}
