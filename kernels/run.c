// The interpreter: every thread walks the whole list of ops and takes its share of each.
#include "formats.h"
#include "simd.h"
#include "work.h"

#ifndef __wasm__
#include <sched.h>
#endif

#define EXPORT __attribute__((visibility("default"), used))

typedef struct Program {
  uint64_t ops;       // Op [num_ops]
  uint64_t step;      // Step
  uint64_t counters;  // int32 [num_ops], zeroed by the host before each run
  uint64_t barrier;   // int32 [32], zero when created: arrivals at [0], generation at [16]
  int32_t num_ops;
  int32_t threads;
} Program;

#define KERNEL(name) void kernel_##name(const Op *op, const Step *step, Work *work)
KERNEL(embed);
KERNEL(rms_norm);
KERNEL(quantize);
KERNEL(matmul);
KERNEL(rope);
KERNEL(append);
KERNEL(attention);
KERNEL(attention_merge);
KERNEL(choice_scores);
KERNEL(choice);
KERNEL(glu);
KERNEL(add);
KERNEL(select);
KERNEL(route);
KERNEL(matmul_experts);
KERNEL(combine);
KERNEL(low_rank_down);
KERNEL(low_rank_up);
KERNEL(probe);
KERNEL(train_multiply);
KERNEL(train_attention);
KERNEL(train_attention_backward);
KERNEL(train_norm);
KERNEL(train_norm_backward);
KERNEL(train_rope);
KERNEL(train_embed);
KERNEL(train_embed_backward);
KERNEL(train_decode);
KERNEL(train_glu);
KERNEL(train_glu_backward);
KERNEL(train_loss);
KERNEL(train_adamw);
KERNEL(train_normal);
KERNEL(train_add);
KERNEL(train_add_row);
KERNEL(train_scale_rows);
KERNEL(train_row_norms);
KERNEL(train_sum_rows);
KERNEL(train_sum_squares);
KERNEL(train_multiply_groups);
KERNEL(train_route);
KERNEL(train_places);
KERNEL(train_route_backward);
KERNEL(train_spread);
KERNEL(train_combine);
KERNEL(train_combine_backward);
KERNEL(train_blend);
KERNEL(train_blend_backward);

static void pause_spin(int spins, int32_t *word, int32_t seen) {
#ifdef __wasm__
  (void)word, (void)seen;
#ifdef MILL_SHARED
  // Long waits mean that the other thread lost its core: sleep instead of taking it away.
  if (spins > 4096) __builtin_wasm_memory_atomic_wait32(word, seen, 50000);
#else
  (void)spins;
#endif
#else
  (void)word, (void)seen;
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
  if (spins > 4096) sched_yield();
#endif
}

static void barrier(int32_t *words, int threads) {
  if (threads == 1) return;
  int32_t generation = __atomic_load_n(&words[16], __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&words[0], 1, __ATOMIC_ACQ_REL) == threads) {
    __atomic_store_n(&words[0], 0, __ATOMIC_RELAXED);
    __atomic_store_n(&words[16], generation + 1, __ATOMIC_RELEASE);
#if defined(__wasm__) && defined(MILL_SHARED)
    __builtin_wasm_memory_atomic_notify(&words[16], 1u << 30);
#endif
    return;
  }
  for (int spins = 0; __atomic_load_n(&words[16], __ATOMIC_ACQUIRE) == generation; spins++) {
    pause_spin(spins, &words[16], generation);
  }
}

EXPORT void mill_run(uint64_t address, int32_t thread) {
  const Program *program = AT(const Program, address);
  const Op *ops = AT(const Op, program->ops);
  const Step *step = AT(const Step, program->step);
  int32_t *counters = AT(int32_t, program->counters), *words = AT(int32_t, program->barrier);
  Work work = {thread, program->threads, 0};
  for (int i = 0; i < program->num_ops; i++) {
    const Op *op = &ops[i];
    if (op->barrier) barrier(words, program->threads);
    work.next = &counters[i];
    switch (op->code) {
      case OP_EMBED: kernel_embed(op, step, &work); break;
      case OP_RMS_NORM: kernel_rms_norm(op, step, &work); break;
      case OP_QUANTIZE: kernel_quantize(op, step, &work); break;
      case OP_MATMUL: kernel_matmul(op, step, &work); break;
      case OP_ROPE: kernel_rope(op, step, &work); break;
      case OP_APPEND: kernel_append(op, step, &work); break;
      case OP_ATTENTION: kernel_attention(op, step, &work); break;
      case OP_ATTENTION_MERGE: kernel_attention_merge(op, step, &work); break;
      case OP_CHOICE_SCORES: kernel_choice_scores(op, step, &work); break;
      case OP_CHOICE: kernel_choice(op, step, &work); break;
      case OP_GLU: kernel_glu(op, step, &work); break;
      case OP_ADD: kernel_add(op, step, &work); break;
      case OP_SELECT: kernel_select(op, step, &work); break;
      case OP_ROUTE: kernel_route(op, step, &work); break;
      case OP_MATMUL_EXPERTS: kernel_matmul_experts(op, step, &work); break;
      case OP_COMBINE: kernel_combine(op, step, &work); break;
      case OP_LOW_RANK_DOWN: kernel_low_rank_down(op, step, &work); break;
      case OP_LOW_RANK_UP: kernel_low_rank_up(op, step, &work); break;
      case OP_PROBE: kernel_probe(op, step, &work); break;
      case OP_TRAIN_MULTIPLY: kernel_train_multiply(op, step, &work); break;
      case OP_TRAIN_ATTENTION: kernel_train_attention(op, step, &work); break;
      case OP_TRAIN_ATTENTION_BACKWARD: kernel_train_attention_backward(op, step, &work); break;
      case OP_TRAIN_NORM: kernel_train_norm(op, step, &work); break;
      case OP_TRAIN_NORM_BACKWARD: kernel_train_norm_backward(op, step, &work); break;
      case OP_TRAIN_ROPE: kernel_train_rope(op, step, &work); break;
      case OP_TRAIN_EMBED: kernel_train_embed(op, step, &work); break;
      case OP_TRAIN_EMBED_BACKWARD: kernel_train_embed_backward(op, step, &work); break;
      case OP_TRAIN_DECODE: kernel_train_decode(op, step, &work); break;
      case OP_TRAIN_GLU: kernel_train_glu(op, step, &work); break;
      case OP_TRAIN_GLU_BACKWARD: kernel_train_glu_backward(op, step, &work); break;
      case OP_TRAIN_LOSS: kernel_train_loss(op, step, &work); break;
      case OP_TRAIN_ADAMW: kernel_train_adamw(op, step, &work); break;
      case OP_TRAIN_NORMAL: kernel_train_normal(op, step, &work); break;
      case OP_TRAIN_ADD: kernel_train_add(op, step, &work); break;
      case OP_TRAIN_ADD_ROW: kernel_train_add_row(op, step, &work); break;
      case OP_TRAIN_SCALE_ROWS: kernel_train_scale_rows(op, step, &work); break;
      case OP_TRAIN_ROW_NORMS: kernel_train_row_norms(op, step, &work); break;
      case OP_TRAIN_SUM_ROWS: kernel_train_sum_rows(op, step, &work); break;
      case OP_TRAIN_SUM_SQUARES: kernel_train_sum_squares(op, step, &work); break;
      case OP_TRAIN_MULTIPLY_GROUPS: kernel_train_multiply_groups(op, step, &work); break;
      case OP_TRAIN_ROUTE: kernel_train_route(op, step, &work); break;
      case OP_TRAIN_PLACES: kernel_train_places(op, step, &work); break;
      case OP_TRAIN_ROUTE_BACKWARD: kernel_train_route_backward(op, step, &work); break;
      case OP_TRAIN_SPREAD: kernel_train_spread(op, step, &work); break;
      case OP_TRAIN_COMBINE: kernel_train_combine(op, step, &work); break;
      case OP_TRAIN_COMBINE_BACKWARD: kernel_train_combine_backward(op, step, &work); break;
      case OP_TRAIN_BLEND: kernel_train_blend(op, step, &work); break;
      case OP_TRAIN_BLEND_BACKWARD: kernel_train_blend_backward(op, step, &work); break;
      default: __builtin_trap();
    }
  }
  barrier(words, program->threads);
}

// Name of the instruction set that this build uses, for people.
EXPORT const char *mill_simd_name(void) { return SIMD_NAME; }

#ifdef __wasm__
// Freestanding: compilers may still call these for struct copies.
void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  uint8_t *t = to;
  const uint8_t *f = from;
  while (n--) *t++ = *f++;
  return to;
}
void *memset(void *to, int value, size_t n) {
  uint8_t *t = to;
  while (n--) *t++ = (uint8_t)value;
  return to;
}
#endif
