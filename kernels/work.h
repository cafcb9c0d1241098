// How threads share an op: every thread runs every op and takes chunks of its work until none are left. Chunks are
// taken in order from one counter, so that a core that a neighbour slows down simply takes fewer of them. Which
// thread computes a row never changes the row's value.
#ifndef MILLRACE_WORK_H
#define MILLRACE_WORK_H

#include "millrace.h"

typedef struct Work {
  int32_t thread;
  int32_t threads;
  int32_t *next;  // shared by all threads, 0 when the op starts
} Work;

// Takes up to `grain` items of 0 .. total-1; returns 0 when all are taken.
static inline int work_take(Work *work, int total, int grain, int *begin, int *end) {
  if (work->threads == 1) {  // one thread: all at once
    int at = *work->next;
    *work->next = total;
    *begin = at;
    *end = total;
    return at < total;
  }
  int at = __atomic_fetch_add(work->next, grain, __ATOMIC_RELAXED);
  if (at >= total) return 0;
  *begin = at;
  *end = at + grain < total ? at + grain : total;
  return 1;
}

// The same with chunks that shrink: every round hands out half of what is left, evenly, until chunks are down to
// `smallest`. Few turns at the counter, long runs of memory, and threads that end together.
static inline int work_take_guided(Work *work, int total, int smallest, int *begin, int *end) {
  if (work->threads == 1) return work_take(work, total, total, begin, end);
  int chunk = __atomic_fetch_add(work->next, 1, __ATOMIC_RELAXED), at = 0, size;
  for (;; chunk -= work->threads, at += size * work->threads) {
    size = (total - at) / 2 / work->threads;
    if (size <= smallest) break;
    if (chunk >= work->threads) continue;
    *begin = at + chunk * size;
    *end = *begin + size;
    return 1;
  }
  *begin = at + chunk * smallest;
  if (*begin >= total) return 0;
  *end = *begin + smallest < total ? *begin + smallest : total;
  return 1;
}

// Rows that an op works on: i[0] is its RowKind, `per` the experts per token of a ROUTES buffer.
static inline int32_t op_rows(int32_t kind, int32_t per, const Step *step) {
  if (kind == ROWS_OUTPUTS) return step->num_outputs;
  if (kind == ROWS_STATES) return step->num_states;
  return kind == ROWS_ROUTES ? step->num_tokens * per : step->num_tokens;
}

#endif
