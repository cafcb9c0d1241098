// Gated feed-forwards of training.
#include "activation.h"
#include "train.h"

INLINE void glu(const int activation, const Matrix *m, Work *work) {
  FOR_SEGMENTS(m, work, s) {
    const float *gate = row_of(m, s.row) + s.column, *up = row_of(m + 1, s.row) + s.column;
    float *out = row_of(m + 2, s.row) + s.column;
    for (int i = 0; i < s.count; i += 16) {
      const int n = s.count - i;
      store_some(out + i, f32x16_mul(activate(activation, load_some(gate + i, n)), load_some(up + i, n)), n);
    }
  }
}

INLINE void glu_backward(const int activation, const Matrix *m, Work *work) {
  FOR_SEGMENTS(m, work, s) {
    const float *gate = row_of(m, s.row) + s.column, *up = row_of(m + 1, s.row) + s.column;
    const float *d_out = row_of(m + 2, s.row) + s.column;
    float *d_gate = row_of(m + 3, s.row) + s.column, *d_up = row_of(m + 4, s.row) + s.column;
    for (int i = 0; i < s.count; i += 16) {
      const int n = s.count - i;
      f32x16 slope;
      const f32x16 value = activate_both(activation, load_some(gate + i, n), &slope), d = load_some(d_out + i, n);
      store_some(d_gate + i, f32x16_fma(f32x16_mul(d, slope), load_some(up + i, n), load_some(d_gate + i, n)), n);
      store_some(d_up + i, f32x16_fma(d, value, load_some(d_up + i, n)), n);
    }
  }
}

#define BY_ACTIVATION(function)                                                           \
  switch (op->i[0]) {                                                                     \
    case ACT_SILU: function(ACT_SILU, AT(const Matrix, op->p[0]), work); break;           \
    case ACT_GELU: function(ACT_GELU, AT(const Matrix, op->p[0]), work); break;           \
    case ACT_GELU_TANH: function(ACT_GELU_TANH, AT(const Matrix, op->p[0]), work); break; \
    default: __builtin_trap();                                                            \
  }

// OP_TRAIN_GLU: out = activation(gate) * up
// i: [activation]   p: [{gate, up, out}]
void kernel_train_glu(const Op *op, const Step *step, Work *work) {
  (void)step;
  BY_ACTIVATION(glu)
}

// OP_TRAIN_GLU_BACKWARD: dGate += dOut * activation'(gate) * up, dUp += dOut * activation(gate)
// i: [activation]   p: [{gate, up, dOut, dGate, dUp}]
void kernel_train_glu_backward(const Op *op, const Step *step, Work *work) {
  (void)step;
  BY_ACTIVATION(glu_backward)
}
