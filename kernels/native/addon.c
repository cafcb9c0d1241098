// The N-API side of the native backend: memory, threads, and calls into the kernels. It holds no state of its own,
// so it may be loaded in any number of worker threads; what it hands out is owned by externals whose finalisers
// give it back when an environment ends without saying goodbye.
#define NAPI_VERSION 8
#define _DEFAULT_SOURCE
#include <node_api.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "../millrace.h"
#include "../simd.h"
#include "pool.h"

int64_t mill_panel_bytes(int32_t type, int32_t columns);
int64_t mill_quantized_row_bytes(int32_t columns);
int32_t mill_wants_quantized(int32_t type);
void mill_pack(int32_t type, int32_t rows, int32_t columns, uint64_t src, uint64_t dst);
void mill_run(uint64_t program, int32_t thread);

#define MAX_ARGS 8

// --------------------------------------------------------------------------------------------- values in and out

static int read_args(napi_env env, napi_callback_info info, napi_value *args) {
  size_t count = MAX_ARGS;
  return napi_get_cb_info(env, info, &count, args, NULL, NULL) == napi_ok;
}

static double to_double(napi_env env, napi_value value) {
  double number = 0;
  napi_get_value_double(env, value, &number);
  return number;
}

static int32_t to_int(napi_env env, napi_value value) { return (int32_t)to_double(env, value); }
static uint64_t to_address(napi_env env, napi_value value) { return (uint64_t)to_double(env, value); }

static void *to_external(napi_env env, napi_value value) {
  void *data = NULL;
  napi_get_value_external(env, value, &data);
  return data;
}

static napi_value from_double(napi_env env, double number) {
  napi_value value = NULL;
  napi_create_double(env, number, &value);
  return value;
}

static napi_value null_value(napi_env env) {
  napi_value value = NULL;
  napi_get_null(env, &value);
  return value;
}

// -------------------------------------------------------------------------------------------------------- memory

#define HUGE_PAGE ((size_t)2 << 20)

// Mapped pages. They live until freed, or until neither the handle nor any window into them can be reached.
typedef struct Mapping {
  uint8_t *base;
  size_t bytes;
  int32_t references;  // touched by the environment's own thread only
} Mapping;

// Zeroed; aligned to huge pages where it is large enough to gain from them.
static uint8_t *map_pages(size_t bytes) {
  size_t extra = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 0;
  uint8_t *base = mmap(NULL, bytes + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return NULL;
  if (extra) {
    size_t before = (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;
    if (before) munmap(base, before);
    if (extra - before) munmap(base + before + bytes, extra - before);
    base += before;
#ifdef MADV_HUGEPAGE
    madvise(base, bytes, MADV_HUGEPAGE);
#endif
  }
  return base;
}

static void unmap(Mapping *mapping) {
  if (mapping->base) munmap(mapping->base, mapping->bytes);
  mapping->base = NULL;
}

static void release_mapping(napi_env env, void *data, void *hint) {
  (void)env;
  Mapping *mapping = hint ? hint : data;
  if (--mapping->references > 0) return;
  unmap(mapping);
  free(mapping);
}

// discard(handle, byte offset, bytes): gives whole pages back to the system; they read as zero from then on
static napi_value discard(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  if (!read_args(env, info, args)) return NULL;
  Mapping *mapping = to_external(env, args[0]);
#ifdef __linux__
  madvise(mapping->base + (size_t)to_double(env, args[1]), (size_t)to_double(env, args[2]), MADV_DONTNEED);
#endif
  return NULL;
}

// allocate(bytes: a multiple of the page size): handle, or null where the system refuses
static napi_value allocate(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS], handle;
  if (!read_args(env, info, args)) return NULL;
  Mapping *mapping = calloc(1, sizeof(Mapping));
  if (!mapping) return null_value(env);
  mapping->bytes = (size_t)to_double(env, args[0]);
  mapping->base = map_pages(mapping->bytes);
  mapping->references = 1;
  if (!mapping->base || napi_create_external(env, mapping, release_mapping, NULL, &handle) != napi_ok) {
    unmap(mapping);
    free(mapping);
    return null_value(env);
  }
  return handle;
}

static napi_value address(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  if (!read_args(env, info, args)) return NULL;
  Mapping *mapping = to_external(env, args[0]);
  return from_double(env, (double)(uintptr_t)mapping->base);
}

// window(handle, offset, length): ArrayBuffer over part of the mapping, or null where the runtime forbids it
static napi_value window(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS], buffer;
  if (!read_args(env, info, args)) return NULL;
  Mapping *mapping = to_external(env, args[0]);
  uint8_t *at = mapping->base + (size_t)to_double(env, args[1]);
  size_t length = (size_t)to_double(env, args[2]);
  mapping->references++;
  if (napi_create_external_arraybuffer(env, at, length, release_mapping, mapping, &buffer) != napi_ok) {
    mapping->references--;
    return null_value(env);
  }
  return buffer;
}

// release(handle, windows): detaches the windows, so that no view of them can reach the memory, and unmaps it
static napi_value release(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS], item;
  uint32_t count = 0;
  if (!read_args(env, info, args)) return NULL;
  napi_get_array_length(env, args[1], &count);
  for (uint32_t i = 0; i < count; i++) {
    if (napi_get_element(env, args[1], i, &item) == napi_ok) napi_detach_arraybuffer(env, item);
  }
  unmap(to_external(env, args[0]));
  return NULL;
}

// ------------------------------------------------------------------------------------------------------- threads

// What the handle of a pool points to: the pool itself is gone once it was stopped.
typedef struct PoolHandle {
  Pool *pool;
} PoolHandle;

static void stop_pool(PoolHandle *handle) {
  if (handle->pool) pool_destroy(handle->pool);
  handle->pool = NULL;
}

static void release_pool(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  stop_pool(data);
  free(data);
}

// start(threads): handle, or null where the threads cannot be had
static napi_value start(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS], value;
  if (!read_args(env, info, args)) return NULL;
  PoolHandle *handle = calloc(1, sizeof(PoolHandle));
  if (!handle) return null_value(env);
  handle->pool = pool_create(to_int(env, args[0]));
  if (!handle->pool || napi_create_external(env, handle, release_pool, NULL, &value) != napi_ok) {
    stop_pool(handle);
    free(handle);
    return null_value(env);
  }
  return value;
}

static napi_value stop(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  if (read_args(env, info, args)) stop_pool(to_external(env, args[0]));
  return NULL;
}

static void run_job(void *argument, int32_t thread, int32_t threads) {
  (void)threads;
  mill_run(*(uint64_t *)argument, thread);
}

// run(pool, program)
static napi_value run(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  if (!read_args(env, info, args)) return NULL;
  PoolHandle *handle = to_external(env, args[0]);
  uint64_t program = to_address(env, args[1]);
  pool_do(handle->pool, run_job, &program);
  return NULL;
}

typedef struct PackArguments {
  int32_t type, rows, columns;
  int64_t row_bytes, panel_bytes;
  uint64_t src, dst;
} PackArguments;

static void pack_job(void *argument, int32_t thread, int32_t threads) {
  const PackArguments *pack = argument;
  int64_t panels = (pack->rows + PANEL - 1) / PANEL;
  int64_t first = panels * thread / threads, end = panels * (thread + 1) / threads;
  int64_t rows = (end * PANEL < pack->rows ? end * PANEL : pack->rows) - first * PANEL;
  if (end == first) return;
  mill_pack(pack->type, (int32_t)rows, pack->columns, pack->src + (uint64_t)(first * PANEL * pack->row_bytes),
            pack->dst + (uint64_t)(first * pack->panel_bytes));
}

// pack(pool, type, rows, columns, rowBytes, panelBytes, src, dst): mill_pack by all threads
static napi_value pack(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  if (!read_args(env, info, args)) return NULL;
  PoolHandle *handle = to_external(env, args[0]);
  PackArguments arguments = {
      to_int(env, args[1]),     to_int(env, args[2]),     to_int(env, args[3]),
      to_double(env, args[4]),  to_double(env, args[5]),  to_address(env, args[6]),
      to_address(env, args[7]),
  };
  pool_do(handle->pool, pack_job, &arguments);
  return NULL;
}

// ------------------------------------------------------------------------------------------------------- kernels

static napi_value panel_bytes(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  if (!read_args(env, info, args)) return NULL;
  return from_double(env, (double)mill_panel_bytes(to_int(env, args[0]), to_int(env, args[1])));
}

static napi_value quantized_row_bytes(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  if (!read_args(env, info, args)) return NULL;
  return from_double(env, (double)mill_quantized_row_bytes(to_int(env, args[0])));
}

static napi_value wants_quantized(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS], value = NULL;
  if (!read_args(env, info, args)) return NULL;
  napi_get_boolean(env, mill_wants_quantized(to_int(env, args[0])) != 0, &value);
  return value;
}

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback call;
  } functions[] = {
      {"allocate", allocate},
      {"address", address},
      {"window", window},
      {"discard", discard},
      {"release", release},
      {"start", start},
      {"stop", stop},
      {"run", run},
      {"pack", pack},
      {"panelBytes", panel_bytes},
      {"quantizedRowBytes", quantized_row_bytes},
      {"wantsQuantized", wants_quantized},
  };
  napi_value value;
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &value) != napi_ok ||
        napi_set_named_property(env, exports, functions[i].name, value) != napi_ok)
      return NULL;
  }
  napi_create_string_utf8(env, SIMD_NAME, NAPI_AUTO_LENGTH, &value);
  napi_set_named_property(env, exports, "simd", value);
  return exports;
}
