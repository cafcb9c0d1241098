// What training kernels share. Their records: p[0] is an array of Matrix, p[1] the scratch memory of all threads,
// TRAIN_SCRATCH floats each; other fields are stated at each kernel's head.
#ifndef MILLRACE_TRAIN_H
#define MILLRACE_TRAIN_H

#include "simd.h"
#include "work.h"

INLINE float *row_of(const Matrix *m, int64_t row) { return AT(float, m->at) + row * m->stride; }

INLINE float *scratch_of(const Op *op, const Work *work) {
  return AT(float, op->p[1]) + (int64_t)work->thread * TRAIN_SCRATCH;
}

INLINE f32x16 load_some(const float *p, int n) { return n >= 16 ? f32x16_load(p) : f32x16_load_part(p, n); }

INLINE void store_some(float *p, f32x16 v, int n) {
  if (n >= 16) {
    f32x16_store(p, v);
  } else {
    f32x16_store_part(p, v, n);
  }
}

// The first lane: for functions of one number.
INLINE float first_lane(f32x16 v) {
  float lanes[16];
  f32x16_store(lanes, v);
  return lanes[0];
}

INLINE float square_root(float x) { return first_lane(f32x16_sqrt(f32x16_set1(x))); }

// Elementwise ops are shared out in runs of up to SEGMENT elements of one row.
#define SEGMENT 4096

typedef struct Segment {
  int32_t row, column, count;
} Segment;

typedef struct Segments {
  int32_t per_row, total, grain, next, end;
} Segments;

INLINE Segments segments_of(int32_t rows, int32_t columns) {
  Segments s = {.per_row = (columns + SEGMENT - 1) / SEGMENT};
  s.total = rows * s.per_row;
  s.grain = columns >= SEGMENT ? 1 : SEGMENT / (columns < 1 ? 1 : columns);
  return s;
}

// The next run of this thread, or 0 when none is left.
INLINE int take_segment(Segments *s, Work *work, int32_t columns, Segment *segment) {
  if (s->next == s->end && !work_take(work, s->total, s->grain, &s->next, &s->end)) return 0;
  segment->row = s->next / s->per_row;
  segment->column = s->next % s->per_row * SEGMENT;
  segment->count = columns - segment->column < SEGMENT ? columns - segment->column : SEGMENT;
  s->next++;
  return 1;
}

// for (...) over this thread's share of a matrix: `s` is the run, body sees it.
#define FOR_SEGMENTS(matrix, work, s)                                    \
  Segments segments_ = segments_of((matrix)->rows, (matrix)->columns);  \
  for (Segment s; take_segment(&segments_, work, (matrix)->columns, &s);)

#endif
