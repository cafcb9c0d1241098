// OP_SELECT: out[r] = x[rows[r]], where rows are the step's states for such an output, else its outputs
// i: [width, rowsKind of out]   p: [x f32 [T, width], out f32 [R, width]]
#include "work.h"

void kernel_select(const Op *op, const Step *step, Work *work) {
  size_t width = (size_t)op->i[0];
  int of_states = op->i[1] == ROWS_STATES;
  const int32_t *rows = AT(const int32_t, of_states ? step->states : step->outputs);
  int total = of_states ? step->num_states : step->num_outputs;
  int begin, end;
  while (work_take(work, total, 4, &begin, &end)) {
    for (int r = begin; r < end; r++) {
      const float *restrict x = AT(const float, op->p[0]) + (size_t)rows[r] * width;
      float *restrict out = AT(float, op->p[1]) + (size_t)r * width;
      for (size_t i = 0; i < width; i++) out[i] = x[i];
    }
  }
}
