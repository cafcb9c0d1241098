// Threads that compute: started once, parked while there is nothing to do, woken for each job. The caller of
// pool_do takes part as thread 0 and returns when every thread is done.
#ifndef MILLRACE_POOL_H
#define MILLRACE_POOL_H

#include <stdint.h>

typedef struct Pool Pool;
typedef void (*PoolJob)(void *argument, int32_t thread, int32_t threads);

// NULL where the threads cannot be started.
Pool *pool_create(int32_t threads);
int32_t pool_threads(const Pool *pool);
// Not re-entrant.
void pool_do(Pool *pool, PoolJob job, void *argument);
void pool_destroy(Pool *pool);

#endif
