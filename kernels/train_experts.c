// Mixtures of experts in training: which experts a row visits, and its way to their groups of rows and back. Places and
// starts (Grouping of backends/training.ts) are whole numbers kept as floats.
#include "math.h"
#include "train.h"

// The per_row largest of x[0 .. n-1], largest first, ties to the lower. What is no number never beats another.
static void choose(const float *x, int n, int per_row, float *chosen) {
  for (int j = 0; j < per_row; j++) {
    int best = -1;
    for (int e = 0; e < n; e++) {
      int taken = 0;
      for (int before = 0; before < j; before++) taken |= chosen[before] == (float)e;
      if (!taken && (best < 0 || x[e] > x[best])) best = e;
    }
    chosen[j] = (float)best;
  }
}

static float exp_of(float x) { return first_lane(f32x16_exp(f32x16_set1(x))); }

// The sum that softmax divides by: of exp(x - max) over what was chosen, or over all.
static float total_of(const float *x, int n, const float *chosen, int per_row, int normalize, float max) {
  float total = 0.f;
  if (normalize) {
    for (int j = 0; j < per_row; j++) total += exp_of(x[(int)chosen[j]] - max);
  } else {
    for (int e = 0; e < n; e++) total += exp_of(x[e] - max);
  }
  return total;
}

// OP_TRAIN_ROUTE: chosen[t] = the experts of row t, as numbers; weights[t] = their softmax
// i: [normalize]   p: [{logits, weights, chosen}]
void kernel_train_route(const Op *op, const Step *step, Work *work) {
  const Matrix *logits = AT(const Matrix, op->p[0]), *weights = logits + 1, *chosen = logits + 2;
  const int n = logits->columns, per_row = weights->columns;
  int begin, end;
  (void)step;
  while (work_take(work, logits->rows, 16, &begin, &end)) {
    for (int t = begin; t < end; t++) {
      const float *x = row_of(logits, t);
      float *ids = row_of(chosen, t), *w = row_of(weights, t);
      choose(x, n, per_row, ids);
      const float max = x[(int)ids[0]], total = total_of(x, n, ids, per_row, op->i[0], max);
      for (int j = 0; j < per_row; j++) w[j] = exp_of(x[(int)ids[j]] - max) / total;
    }
  }
}

// OP_TRAIN_PLACES: turns chosen experts into places in their groups, and finds where groups start. One thread: it is
// little work, and each place depends on all before it.
// p: [{chosen, starts [1, X + 1]}]
void kernel_train_places(const Op *op, const Step *step, Work *work) {
  const Matrix *chosen = AT(const Matrix, op->p[0]), *starts = chosen + 1;
  const int groups = starts->columns - 1;
  float *next = row_of(starts, 0);
  int begin, end;
  (void)step;
  if (!work_take(work, 1, 1, &begin, &end)) return;
  // next[e + 1] counts the group's rows, then is where the next of them goes, which ends as where group e + 1 starts.
  for (int e = 0; e <= groups; e++) next[e] = 0.f;
  for (int t = 0; t < chosen->rows; t++) {
    for (int j = 0; j < chosen->columns; j++) next[(int)row_of(chosen, t)[j] + 1] += 1.f;
  }
  float sum = 0.f;
  for (int e = 1; e <= groups; e++) {
    const float count = next[e];
    next[e] = sum;
    sum += count;
  }
  for (int t = 0; t < chosen->rows; t++) {
    float *row = row_of(chosen, t);
    for (int j = 0; j < chosen->columns; j++) {
      const int e = (int)row[j];
      row[j] = next[e + 1];
      next[e + 1] += 1.f;
    }
  }
}

// OP_TRAIN_ROUTE_BACKWARD: with p the softmax over what it is taken over (all, or the chosen) and g its gradient,
// 0 where not chosen: dLogits += p (g - sum of p g)
// i: [normalize]   p: [{logits, dWeights, dLogits}, scratch]
void kernel_train_route_backward(const Op *op, const Step *step, Work *work) {
  const Matrix *logits = AT(const Matrix, op->p[0]), *d_weights = logits + 1, *d_logits = logits + 2;
  const int n = logits->columns, per_row = d_weights->columns, normalize = op->i[0];
  float *ids = scratch_of(op, work);
  int begin, end;
  (void)step;
  while (work_take(work, logits->rows, 16, &begin, &end)) {
    for (int t = begin; t < end; t++) {
      const float *x = row_of(logits, t), *given = row_of(d_weights, t);
      float *to = row_of(d_logits, t), mean = 0.f;
      choose(x, n, per_row, ids);
      const float max = x[(int)ids[0]], total = total_of(x, n, ids, per_row, normalize, max);
      for (int j = 0; j < per_row; j++) mean += exp_of(x[(int)ids[j]] - max) / total * given[j];
      for (int j = 0; j < per_row; j++) {
        const int e = (int)ids[j];
        to[e] += exp_of(x[e] - max) / total * (normalize ? given[j] - mean : given[j]);
      }
      if (normalize) continue;
      for (int e = 0; e < n; e++) to[e] -= exp_of(x[e] - max) / total * mean;
    }
  }
}

// OP_TRAIN_SPREAD: out[places[t, j]] = x[t]
// p: [{x, places, out}]
void kernel_train_spread(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *places = x + 1, *out = x + 2;
  int begin, end;
  (void)step;
  while (work_take(work, x->rows, 8, &begin, &end)) {
    for (int t = begin; t < end; t++) {
      const float *from = row_of(x, t);
      for (int j = 0; j < places->columns; j++) {
        float *to = row_of(out, (int)row_of(places, t)[j]);
        for (int i = 0; i < x->columns; i += 16) store_some(to + i, load_some(from + i, x->columns - i), x->columns - i);
      }
    }
  }
}

// OP_TRAIN_COMBINE: out[t] += sum over j of weights[t, j] * x[places[t, j]]
// i: [has weights]   p: [{x, weights, places, out}]
void kernel_train_combine(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *weights = x + 1, *places = x + 2, *out = x + 3;
  int begin, end;
  (void)step;
  while (work_take(work, out->rows, 8, &begin, &end)) {
    for (int t = begin; t < end; t++) {
      float *to = row_of(out, t);
      for (int j = 0; j < places->columns; j++) {
        const float *from = row_of(x, (int)row_of(places, t)[j]);
        const f32x16 factor = f32x16_set1(op->i[0] ? row_of(weights, t)[j] : 1.f);
        for (int i = 0; i < out->columns; i += 16) {
          const int count = out->columns - i;
          store_some(to + i, f32x16_fma(factor, load_some(from + i, count), load_some(to + i, count)), count);
        }
      }
    }
  }
}

// OP_TRAIN_COMBINE_BACKWARD: dX[places[t, j]] += weights[t, j] * dOut[t]; dWeights[t, j] += x[places[t, j]] . dOut[t]
// i: [wants dX, wants dWeights]   p: [{x, weights, places, dOut, dX, dWeights}]
void kernel_train_combine_backward(const Op *op, const Step *step, Work *work) {
  const Matrix *x = AT(const Matrix, op->p[0]), *weights = x + 1, *places = x + 2, *d_out = x + 3, *d_x = x + 4;
  const Matrix *d_weights = x + 5;
  const int columns = d_out->columns;
  int begin, end;
  (void)step;
  while (work_take(work, d_out->rows, 8, &begin, &end)) {
    for (int t = begin; t < end; t++) {
      const float *given = row_of(d_out, t);
      for (int j = 0; j < places->columns; j++) {
        const int place = (int)row_of(places, t)[j];
        if (op->i[0]) {
          float *to = row_of(d_x, place);
          const f32x16 factor = f32x16_set1(row_of(weights, t)[j]);
          for (int i = 0; i < columns; i += 16) {
            const int n = columns - i;
            store_some(to + i, f32x16_fma(factor, load_some(given + i, n), load_some(to + i, n)), n);
          }
        }
        if (op->i[1]) {
          const float *from = row_of(x, place);
          f32x16 sum = f32x16_zero();
          for (int i = 0; i < columns; i += 16) {
            sum = f32x16_fma(load_some(from + i, columns - i), load_some(given + i, columns - i), sum);
          }
          row_of(d_weights, t)[j] += f32x16_reduce_add(sum);
        }
      }
    }
  }
}
