// OP_ADD: out += x
// i: [rowsKind, width, 0, per]   p: [x, out]
#include "work.h"

void kernel_add(const Op *op, const Step *step, Work *work) {
  int64_t size = (int64_t)op_rows(op->i[0], op->i[3], step) * op->i[1];
  int chunks = (int)((size + 4095) / 4096), begin, end;
  while (work_take(work, chunks, 1, &begin, &end)) {
    const float *restrict x = AT(const float, op->p[0]);
    float *restrict out = AT(float, op->p[1]);
    int64_t to = (int64_t)end * 4096 < size ? (int64_t)end * 4096 : size;
    for (int64_t i = (int64_t)begin * 4096; i < to; i++) out[i] += x[i];
  }
}
