// OP_SELECT: out[r] = x[outputs[r]]
// i: [width]   p: [x f32 [T, width], out f32 [R, width]]
#include "work.h"

void kernel_select(const Op *op, const Step *step, Work *work) {
  size_t width = (size_t)op->i[0];
  const int32_t *outputs = AT(const int32_t, step->outputs);
  int begin, end;
  while (work_take(work, step->num_outputs, 4, &begin, &end)) {
    for (int r = begin; r < end; r++) {
      const float *restrict x = AT(const float, op->p[0]) + (size_t)outputs[r] * width;
      float *restrict out = AT(float, op->p[1]) + (size_t)r * width;
      for (size_t i = 0; i < width; i++) out[i] = x[i];
    }
  }
}
