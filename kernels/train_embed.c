// Rows by id.
#include "formats.h"
#include "train.h"

// OP_TRAIN_EMBED: out[r] = scale * weight[ids[r]]
// f: [scale]   p: [{weight, out}, -, ids int32]
void kernel_train_embed(const Op *op, const Step *step, Work *work) {
  const Matrix *weight = AT(const Matrix, op->p[0]), *out = weight + 1;
  const int32_t *ids = AT(const int32_t, op->p[2]);
  const f32x16 scale = f32x16_set1(op->f[0]);
  int begin, end;
  (void)step;
  while (work_take(work, out->rows, 16, &begin, &end)) {
    for (int r = begin; r < end; r++) {
      const float *from = row_of(weight, ids[r]);
      float *to = row_of(out, r);
      for (int i = 0; i < out->columns; i += 16) {
        store_some(to + i, f32x16_mul(scale, load_some(from + i, out->columns - i)), out->columns - i);
      }
    }
  }
}

// OP_TRAIN_EMBED_BACKWARD: dWeight[ids[r]] += scale * dOut[r], r ascending; threads take columns
// f: [scale]   p: [{dOut, dWeight}, -, ids int32]
#define STRIP 64
void kernel_train_embed_backward(const Op *op, const Step *step, Work *work) {
  const Matrix *d_out = AT(const Matrix, op->p[0]), *d_weight = d_out + 1;
  const int32_t *ids = AT(const int32_t, op->p[2]);
  const f32x16 scale = f32x16_set1(op->f[0]);
  const int columns = d_out->columns;
  int begin, end;
  (void)step;
  while (work_take(work, (columns + STRIP - 1) / STRIP, 1, &begin, &end)) {
    const int from = begin * STRIP, to = end * STRIP < columns ? end * STRIP : columns;
    for (int r = 0; r < d_out->rows; r++) {
      const float *given = row_of(d_out, r);
      float *sums = row_of(d_weight, ids[r]);
      for (int i = from; i < to; i += 16) {
        store_some(sums + i, f32x16_fma(scale, load_some(given + i, to - i), load_some(sums + i, to - i)), to - i);
      }
    }
  }
}

// OP_TRAIN_DECODE: out = rows `first` .. of packed panels
// i: [weightType, first]   p: [{out}, -, panels]
void kernel_train_decode(const Op *op, const Step *step, Work *work) {
  const Matrix *out = AT(const Matrix, op->p[0]);
  const uint8_t *panels = AT(const uint8_t, op->p[2]);
  const int64_t panel_bytes = mill_panel_bytes(op->i[0], out->columns);
  int begin, end;
  (void)step;
  while (work_take(work, out->rows, 16, &begin, &end)) {
    for (int r = begin; r < end; r++) {
      const int row = op->i[1] + r;
      unpack_row(op->i[0], out->columns, panels + row / PANEL * panel_bytes, row % PANEL, row_of(out, r));
    }
  }
}
