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
  OP_TRAIN_MULTIPLY,
  OP_TRAIN_ATTENTION,
  OP_TRAIN_ATTENTION_BACKWARD,
  OP_TRAIN_NORM,
  OP_TRAIN_NORM_BACKWARD,
  OP_TRAIN_ROPE,
  OP_TRAIN_EMBED,
  OP_TRAIN_EMBED_BACKWARD,
  OP_TRAIN_DECODE,
  OP_TRAIN_GLU,
  OP_TRAIN_GLU_BACKWARD,
  OP_TRAIN_LOSS,
  OP_TRAIN_ADAMW,
  OP_TRAIN_NORMAL,
  OP_TRAIN_ADD,
  OP_TRAIN_ADD_ROW,
  OP_TRAIN_SCALE_ROWS,
  OP_TRAIN_ROW_NORMS,
  OP_TRAIN_SUM_ROWS,
  OP_TRAIN_SUM_SQUARES,
  OP_LOW_RANK_DOWN,
  OP_LOW_RANK_UP,
  OP_TRAIN_MULTIPLY_GROUPS,
  OP_TRAIN_ROUTE,
  OP_TRAIN_PLACES,
  OP_TRAIN_ROUTE_BACKWARD,
  OP_TRAIN_SPREAD,
  OP_TRAIN_COMBINE,
  OP_TRAIN_COMBINE_BACKWARD,
  OP_TRAIN_BLEND,
  OP_TRAIN_BLEND_BACKWARD,
  OP_CHOICE_SCORES,
  OP_CHOICE,
};

enum RowKind { ROWS_TOKENS = 0, ROWS_OUTPUTS = 1, ROWS_ROUTES = 2, ROWS_STATES = 3 };
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

// A row-major f32 matrix, as training ops see it: p[0] of their records is the address of an array of these.
typedef struct Matrix {
  uint64_t at;     // address of its first element
  int64_t stride;  // elements from row to row
  int32_t rows;
  int32_t columns;
} Matrix;

// Floats of scratch memory that each thread has in a training op: p[1] is the first thread's.
#define TRAIN_SCRATCH 262144

// A page table (KvView of contract.ts).
typedef struct View {
  uint64_t page_ids;   // int32 [num_pages][lanes]
  uint64_t positions;  // int32 [num_pages][page_tokens], -1 = empty
  uint64_t rotations;  // int32 [num_pages], row of the step's rotation tables, -1 = none
  uint64_t mass;       // f32 [lanes][num_pages * page_tokens], or 0
  uint64_t log_counts; // f32 [num_pages * page_tokens], or 0
  uint64_t thin_rows;  // int32 [num_pages], 1 = keys of thin_width elements, or 0
  uint64_t thin_elements; // int32 [lanes][thin_width]: which elements of a key these are, ascending
  uint64_t queries;    // f32 [lanes][D], sums of squares of queries, or 0
  uint64_t next;       // View, or 0
  uint64_t choice;     // Choice, or 0
  int32_t num_pages;
  int32_t lanes;
  int32_t page_tokens;
  int32_t codec;
  // Of the first view of a chain: which queries give mass, from which softmax (KvMass of contract.ts).
  int32_t mass_from;
  int32_t seed;
  float sharpness;  // 1 / temperature
  float noise;
  int32_t queries_from; // of the first view of a chain: which queries add to sums
  int32_t thin_width;
} View;

// How queries choose what they attend to of a view (KvChoice of contract.ts), and memory for the scores of one step.
// R = tokens of the span x query heads of a lane, S = slots of the view.
typedef struct Choice {
  uint64_t shown;    // int32 [S]
  uint64_t chooser;  // int32, then f32 [lanes][D]
  uint64_t scores;   // f32 [lanes][R][S]: powers of 2, relative to the maximum of their part
  uint64_t ends;     // f32 [lanes][R][32][2]: maximum and sum of each part
  uint64_t worth;    // f32 [num_positions], from position first_position on
  int32_t first_position;
  int32_t num_positions;
  int32_t tokens;    // ChoiceRule of contract.ts
  int32_t first;
  int32_t newest;
  int32_t stride;
  int32_t every;
  int32_t reach;
  int32_t wholly;
  float similar;
} Choice;

// One sequence's tokens. How its cache is cut into groups of lanes, and the arena of its pages, are its own.
typedef struct Span {
  int32_t start;
  int32_t count;
  uint64_t views;  // uint64 [groups]: address of the group's first View
  int32_t adapter; // -1: none
  int32_t reserved;
  uint64_t slots;  // uint64 [groups]: address of int32 [count]
  uint64_t lanes;  // int32 [kv heads of all layers][2] = (group, lane)
  uint64_t arena;
  int64_t page_bytes;
} Span;

// One adapter's change of low rank at one matrix (LowRankPair of tape.ts); rank 0: none.
typedef struct LowRank {
  uint64_t down;  // f32 [rank, input width]
  uint64_t up;    // f32 [rank, output width]
  int32_t rank;
  int32_t reserved;
} LowRank;

typedef struct Step {
  int32_t num_tokens;
  int32_t num_outputs;
  int32_t num_spans;
  int32_t num_rotations;
  int32_t num_states;
  int32_t reserved;
  uint64_t tokens;     // int32 [T]
  uint64_t positions;  // int32 [T]
  uint64_t outputs;    // int32 [R]
  uint64_t spans;      // Span [num_spans]
  uint64_t token_span; // int32 [T]: which span a token belongs to
  uint64_t gumbel;     // f32 [1024]: quantiles of the Gumbel distribution
  uint64_t states;     // int32 [num_states]
} Step;

// Rope tables are filled by the host before each run: f32 [T + num_rotations][2][pairs], cos then sin.

#define AT(type, address) ((type *)(uintptr_t)(address))

#endif
