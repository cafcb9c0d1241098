// What TypeScript and C agree on: op records, the step, page tables. Laid out by src/backends/compiled/lower.ts.
// All structs hold fixed-width fields only, so that they are the same on every target; addresses are 64 bits wide
// also on wasm32.
#ifndef MILLRACE_H
#define MILLRACE_H

#include <stddef.h>
#include <stdint.h>

#define GROUP 16   // tokens per group of a page, and lanes of our vectors
#define BLOCK 32   // elements per activation quantisation block
#define PANEL 16   // rows per packed weight panel

enum OpCode {
  OP_EMBED = 1,
  OP_RMS_NORM,
  OP_QUANTIZE,
  OP_MATMUL,
  OP_ROPE,
  OP_APPEND,
  OP_ATTENTION,
  OP_ATTENTION_MERGE,
  OP_GLU,
  OP_ADD,
  OP_SELECT,
  OP_ROUTE,
  OP_MATMUL_EXPERTS,
  OP_COMBINE,
  OP_PROBE,
};

enum RowKind { ROWS_TOKENS = 0, ROWS_OUTPUTS = 1, ROWS_ROUTES = 2 };
enum Codec { CODEC_F32 = 0, CODEC_F16 = 1, CODEC_INT8 = 2 };
enum Activation { ACT_SILU = 0, ACT_GELU = 1, ACT_GELU_TANH = 2 };

// One operation. Meaning of i, f and p is stated at each kernel's head.
typedef struct Op {
  int32_t code;
  int32_t barrier;  // 1: wait for all threads before this op starts
  int32_t i[10];
  float f[4];
  uint64_t p[8];
} Op;

// A page table (KvView of contract.ts).
typedef struct View {
  uint64_t page_ids;   // int32 [num_pages][lanes]
  uint64_t positions;  // int32 [num_pages][page_tokens], -1 = empty
  uint64_t rotations;  // int32 [num_pages], row of the step's rotation tables, -1 = none
  uint64_t mass;       // f32 [lanes][num_pages * page_tokens], or 0
  uint64_t next;       // View, or 0
  int32_t num_pages;
  int32_t lanes;
  int32_t page_tokens;
  int32_t codec;
} View;

typedef struct Span {
  int32_t start;
  int32_t count;
  uint64_t views;  // uint64 [num_groups]: address of the group's first View
} Span;

typedef struct Step {
  int32_t num_tokens;
  int32_t num_outputs;
  int32_t num_spans;
  int32_t num_groups;
  int32_t num_rotations;
  int32_t reserved;
  uint64_t tokens;     // int32 [T]
  uint64_t positions;  // int32 [T]
  uint64_t outputs;    // int32 [R]
  uint64_t spans;      // Span [num_spans]
  uint64_t token_span; // int32 [T]: which span a token belongs to
  uint64_t slots;      // uint64 [num_groups]: address of int32 [T]
  uint64_t arena;
  int64_t page_bytes;
} Step;

// Rope tables are filled by the host before each run: f32 [T + num_rotations][2][pairs], cos then sin.

#define AT(type, address) ((type *)(uintptr_t)(address))

#endif
