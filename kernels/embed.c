// OP_EMBED: out[t] = scale * weight[token[t]]
// i: [width, weightType]   f: [scale]   p: [weight panels, out f32 [T, width]]
#include "formats.h"
#include "simd.h"
#include "work.h"

void kernel_embed(const Op *op, const Step *step, Work *work) {
  int width = op->i[0], type = op->i[1];
  float scale = op->f[0];
  const uint8_t *panels = AT(const uint8_t, op->p[0]);
  const int32_t *tokens = AT(const int32_t, step->tokens);
  int64_t panel_bytes = mill_panel_bytes(type, width);
  int begin, end;
  while (work_take(work, step->num_tokens, 4, &begin, &end)) {
    for (int t = begin; t < end; t++) {
      float *out = AT(float, op->p[1]) + (size_t)t * width;
      unpack_row(type, width, panels + tokens[t] / PANEL * panel_bytes, tokens[t] % PANEL, out);
      if (scale == 1.f) continue;
      for (int i = 0; i < width; i++) out[i] *= scale;
    }
  }
}
