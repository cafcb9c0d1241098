// OP_GLU: out = activation(gate) * up
// i: [rowsKind, width, 0, per, activation]   p: [gate, up, out (may be gate)]
#include "activation.h"
#include "work.h"

INLINE void glu(const int activation, const float *gate, const float *up, float *out, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + 16 <= end; i += 16) {
    f32x16_store(out + i, f32x16_mul(activate(activation, f32x16_load(gate + i)), f32x16_load(up + i)));
  }
  if (i < end) {
    int n = (int)(end - i);
    f32x16 g = f32x16_load_part(gate + i, n), u = f32x16_load_part(up + i, n);
    f32x16_store_part(out + i, f32x16_mul(activate(activation, g), u), n);
  }
}

void kernel_glu(const Op *op, const Step *step, Work *work) {
  const float *gate = AT(const float, op->p[0]), *up = AT(const float, op->p[1]);
  float *out = AT(float, op->p[2]);
  int64_t size = (int64_t)op_rows(op->i[0], op->i[3], step) * op->i[1];
  int chunks = (int)((size + 1023) / 1024), begin, end;
  while (work_take(work, chunks, 2, &begin, &end)) {
    int64_t from = (int64_t)begin * 1024, to = (int64_t)end * 1024 < size ? (int64_t)end * 1024 : size;
    switch (op->i[4]) {
      case ACT_SILU: glu(ACT_SILU, gate, up, out, from, to); break;
      case ACT_GELU: glu(ACT_GELU, gate, up, out, from, to); break;
      case ACT_GELU_TANH: glu(ACT_GELU_TANH, gate, up, out, from, to); break;
      default: __builtin_trap();
    }
  }
}
