#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

// How long a thread that ran out of work keeps looking before it sleeps. Longer than what lies between two steps
// of a small model, far shorter than anything a person or a battery notices.
#define SPIN_NANOSECONDS 50000
#define STACK_BYTES (4 << 20)

struct Pool {
  _Atomic uint32_t generation;  // counts jobs; a change wakes the threads
  _Atomic int32_t busy;         // threads other than the caller that have not finished the job
  PoolJob job;                  // NULL: threads end
  void *argument;
  int32_t threads, started;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  struct Seat {
    Pool *pool;
    int32_t thread;
    pthread_t id;
  } seats[];
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void await_job(Pool *pool, uint32_t seen) {
  int64_t until = now() + SPIN_NANOSECONDS;
  do {
    for (int i = 0; i < 32; i++) {
      if (pool->generation != seen) return;
      relax();
    }
  } while (now() < until);
  pthread_mutex_lock(&pool->mutex);
  while (pool->generation == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
  pthread_mutex_unlock(&pool->mutex);
}

static void *seat_main(void *argument) {
  struct Seat *seat = argument;
  Pool *pool = seat->pool;
  for (uint32_t seen = 0;;) {
    await_job(pool, seen);
    seen++;
    PoolJob job = pool->job;
    if (job) job(pool->argument, seat->thread, pool->threads);
    pool->busy--;
    if (!job) return NULL;
  }
}

static void announce(Pool *pool, PoolJob job, void *argument) {
  pool->job = job;
  pool->argument = argument;
  pool->busy = pool->started;
  pthread_mutex_lock(&pool->mutex);
  pool->generation++;
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
}

Pool *pool_create(int32_t threads) {
  Pool *pool = calloc(1, sizeof(Pool) + sizeof(struct Seat) * (size_t)threads);
  if (!pool) return NULL;
  pool->threads = threads;
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  for (int32_t thread = 1; thread < threads; thread++) {
    struct Seat *seat = &pool->seats[thread];
    seat->pool = pool;
    seat->thread = thread;
    if (pthread_create(&seat->id, &attributes, seat_main, seat) != 0) break;
    pool->started++;
  }
  pthread_attr_destroy(&attributes);
  if (pool->started == threads - 1) return pool;
  pool_destroy(pool);
  return NULL;
}

int32_t pool_threads(const Pool *pool) { return pool->threads; }

void pool_do(Pool *pool, PoolJob job, void *argument) {
  if (pool->started > 0) announce(pool, job, argument);
  job(argument, 0, pool->threads);
  for (int spins = 0; pool->busy > 0; spins++) {
    if (spins < 4096) relax();
    else sched_yield();
  }
}

void pool_destroy(Pool *pool) {
  announce(pool, NULL, NULL);
  for (int32_t thread = 1; thread <= pool->started; thread++) pthread_join(pool->seats[thread].id, NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->mutex);
  free(pool);
}
