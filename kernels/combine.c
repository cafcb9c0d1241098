// OP_COMBINE: out[t] += sum over j of weights[t, j] * x[t * perToken + j]
// i: [width, perToken]   p: [x f32 [T * perToken, width], weights f32 [T, perToken], out f32 [T, width]]
#include "work.h"

void kernel_combine(const Op *op, const Step *step, Work *work) {
  int width = op->i[0], per_token = op->i[1], begin, end;
  while (work_take(work, step->num_tokens, 2, &begin, &end)) {
    for (int t = begin; t < end; t++) {
      float *restrict out = AT(float, op->p[2]) + (size_t)t * width;
      for (int j = 0; j < per_token; j++) {
        size_t row = (size_t)t * per_token + j;
        const float *restrict x = AT(const float, op->p[0]) + row * width;
        float weight = AT(const float, op->p[1])[row];
        for (int i = 0; i < width; i++) out[i] += weight * x[i];
      }
    }
  }
}
