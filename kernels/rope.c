// OP_ROPE: rotates the first 2 * pairs elements of every head, in place, by its token's row of the rope table.
// i: [rowWidth, headWidth, pairs, style (0: (2i, 2i+1), 1: (i, i + pairs))]   p: [x, table f32 [T + R][2][pairs]]
#include "simd.h"
#include "work.h"

static void rotate_interleaved(float *restrict x, const float *restrict cos, const float *restrict sin, int pairs) {
  for (int i = 0; i < pairs; i++) {
    float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

static void rotate_halves(float *x, const float *cos, const float *sin, int pairs) {
  for (int i = 0; i < pairs; i += 16) {
    int n = pairs - i < 16 ? pairs - i : 16;
    f32x16 a, b, c, s;
    if (n == 16) {
      a = f32x16_load(x + i), b = f32x16_load(x + pairs + i);
      c = f32x16_load(cos + i), s = f32x16_load(sin + i);
    } else {
      a = f32x16_load_part(x + i, n), b = f32x16_load_part(x + pairs + i, n);
      c = f32x16_load_part(cos + i, n), s = f32x16_load_part(sin + i, n);
    }
    f32x16 first = f32x16_sub(f32x16_mul(a, c), f32x16_mul(b, s));
    f32x16 second = f32x16_add(f32x16_mul(a, s), f32x16_mul(b, c));
    if (n == 16) {
      f32x16_store(x + i, first);
      f32x16_store(x + pairs + i, second);
    } else {
      f32x16_store_part(x + i, first, n);
      f32x16_store_part(x + pairs + i, second, n);
    }
  }
}

void kernel_rope(const Op *op, const Step *step, Work *work) {
  int width = op->i[0], head = op->i[1], pairs = op->i[2], halves = op->i[3];
  int begin, end;
  while (work_take(work, step->num_tokens, 4, &begin, &end)) {
    for (int t = begin; t < end; t++) {
      const float *cos = AT(const float, op->p[1]) + (size_t)t * 2 * pairs, *sin = cos + pairs;
      float *x = AT(float, op->p[0]) + (size_t)t * width;
      for (int h = 0; h < width; h += head) {
        if (halves) {
          rotate_halves(x + h, cos, sin, pairs);
        } else {
          rotate_interleaved(x + h, cos, sin, pairs);
        }
      }
    }
  }
}
