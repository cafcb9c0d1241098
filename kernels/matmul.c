// OP_MATMUL          i: [rowsKind, K, N, per, weightType, accumulate]      p: [x, q, weight, bias|0, out]
// OP_MATMUL_EXPERTS  i: [xRowsKind, K, N, per, weightType, experts]        p: [x, q, weight, ids, out, lists]
// out[r] (+)= W x[r] + bias, W packed in panels of 16 rows (formats.h). Quantised weights read the quantised rows
// at q, float weights the f32 rows at x. With experts, `lists` holds where each expert's rows begin and the rows
// (token * per + choice) themselves, as OP_ROUTE left them.
#include "matmul_tile.h"
#include "work.h"

// What a tile's sums go to: out[n] rows, `lanes` of 16 valid.
typedef struct Sink {
  float *out[MAX_TILE];
  const float *bias;
  int accumulate;
  int lanes;
} Sink;

// Kept out of the tiles, whose many copies should hold nothing but arithmetic.
static __attribute__((noinline)) void store_sums(int n, const float *sums, const Sink *sink) {
  for (int t = 0; t < n; t++, sums += PANEL) {
    float *out = sink->out[t];
    if (sink->lanes == PANEL) {
      f32x16 sum = f32x16_load(sums);
      if (sink->bias) sum = f32x16_add(sum, f32x16_load(sink->bias));
      if (sink->accumulate) sum = f32x16_add(sum, f32x16_load(out));
      f32x16_store(out, sum);
    } else {
      for (int l = 0; l < sink->lanes; l++) {
        float value = sums[l] + (sink->bias ? sink->bias[l] : 0.f);
        out[l] = sink->accumulate ? value + out[l] : value;
      }
    }
  }
}

// One panel times one tile; out [n][16].
typedef void Tile(const uint8_t *panel, int columns, const void *input, float *out);

#define TILE(type, n)                                                                                        \
  static void tile_##type##_##n(const uint8_t *panel, int columns, const void *input, float *out) {          \
    vf sums[PARTS * (n)];                                                                                    \
    UNROLL for (int i = 0; i < PARTS * (n); i++) sums[i] = vf_set1(0.f);                                     \
    if (is_float(type)) tile_floats(type, n > MAX_FLOAT_TILE ? MAX_FLOAT_TILE : n, panel, columns, (const float *const *)input, sums); \
    else tile_quantized(type, n, panel, columns / BLOCK, (const uint8_t *)input, sums);                      \
    UNROLL for (int t = 0; t < n; t++) {                                                                     \
      UNROLL for (int part = 0; part < PARTS; part++) vf_store(out + t * PANEL + part * W, sums[part * (n) + t]); \
    }                                                                                                        \
  }
#define TILES_4(type) TILE(type, 1) TILE(type, 2) TILE(type, 4)
#define ROW_4(type) tile_##type##_1, tile_##type##_2, tile_##type##_4
#if MAX_TILE == 16
#define MAX_FLOAT_TILE 8
#define FLOAT_TILES(type) TILES_4(type) TILE(type, 8)
#define FLOAT_ROW(type) {ROW_4(type), tile_##type##_8, 0}
#define TILES(type) FLOAT_TILES(type) TILE(type, 16)
#define ROW(type) {ROW_4(type), tile_##type##_8, tile_##type##_16}
#elif MAX_TILE == 8
#define MAX_FLOAT_TILE 4
#define FLOAT_TILES(type) TILES_4(type)
#define FLOAT_ROW(type) {ROW_4(type)}
#define TILES(type) TILES_4(type) TILE(type, 8)
#define ROW(type) {ROW_4(type), tile_##type##_8}
#elif MAX_TILE == 4
#define MAX_FLOAT_TILE 4
#define FLOAT_TILES(type) TILES_4(type)
#define FLOAT_ROW(type) {ROW_4(type)}
#define TILES(type) TILES_4(type)
#define ROW(type) {ROW_4(type)}
#else
#define MAX_FLOAT_TILE 1
#define FLOAT_TILES(type) TILE(type, 1)
#define FLOAT_ROW(type) {tile_##type##_1}
#define TILES(type) TILE(type, 1)
#define ROW(type) {tile_##type##_1}
#endif

FLOAT_TILES(W_F32)
FLOAT_TILES(W_F16)
FLOAT_TILES(W_BF16)
TILES(W_Q4_0)
TILES(W_Q4_1)
TILES(W_Q5_0)
TILES(W_Q5_1)
TILES(W_Q8_0)
TILES(W_Q2_K)
TILES(W_Q3_K)
TILES(W_Q4_K)
TILES(W_Q5_K)
TILES(W_Q6_K)
TILES(W_IQ4_NL)
TILES(W_IQ4_XS)

// By weight type and log2 of the tile's width.
static Tile *const tiles[NUM_WEIGHT_TYPES][5] = {
    FLOAT_ROW(W_F32),
    FLOAT_ROW(W_F16),
    FLOAT_ROW(W_BF16),
    ROW(W_Q4_0),
    ROW(W_Q4_1),
    ROW(W_Q5_0),
    ROW(W_Q5_1),
    ROW(W_Q8_0),
    ROW(W_Q2_K),
    ROW(W_Q3_K),
    ROW(W_Q4_K),
    ROW(W_Q5_K),
    ROW(W_Q6_K),
    ROW(W_IQ4_NL),
    ROW(W_IQ4_XS),
};

// Panels that meet all tokens before the next ones do: about half of a second-level cache, with a tile of tokens
// beside them in the first.
static int block_panels(int64_t panel_bytes) {
  int64_t fit = (128 << 10) / panel_bytes;
  return fit < 1 ? 1 : (int)fit;
}

void kernel_matmul(const Op *op, const Step *step, Work *work) {
  const int rows = op_rows(op->i[0], op->i[3], step), columns = op->i[1], width = op->i[2], type = op->i[4];
  const int panels = (width + PANEL - 1) / PANEL, blocks = columns / BLOCK;
  const int64_t panel_bytes = mill_panel_bytes(type, columns);
  const float *x = AT(const float, op->p[0]), *bias = AT(const float, op->p[3]);
  const uint8_t *q = AT(const uint8_t, op->p[1]), *weight = AT(const uint8_t, op->p[2]);
  float *out = AT(float, op->p[4]);
  const float *inputs[MAX_TILE];
  _Alignas(64) float sums[MAX_TILE * PANEL];
  Sink sink = {.accumulate = op->i[5]};
  const int block = block_panels(panel_bytes);
  int begin = 0, end = 0, chunk_end = 0;
  if (rows == 0) return;
  for (;; begin = end) {
    if (begin == chunk_end && !work_take_guided(work, panels, 1, &begin, &chunk_end)) return;
    end = begin + block < chunk_end ? begin + block : chunk_end;
    for (int row = 0, n; row < rows; row += n) {
      n = tile_width(row, rows);
      if (is_float(type) && n > MAX_FLOAT_TILE) n = MAX_FLOAT_TILE;
      const void *input = q + (int64_t)row * blocks * TILE_BLOCK;
      if (is_float(type)) {
        for (int t = 0; t < n; t++) inputs[t] = x + (int64_t)(row + t) * columns;
        input = inputs;
      }
      Tile *tile = tiles[type][__builtin_ctz((unsigned)n)];
      for (int panel = begin; panel < end; panel++) {
        const int first = panel * PANEL;
        sink.lanes = width - first < PANEL ? width - first : PANEL;
        sink.bias = bias ? bias + first : 0;
        for (int t = 0; t < n; t++) sink.out[t] = out + (int64_t)(row + t) * width + first;
        tile(weight + panel * panel_bytes, columns, input, sums);
        store_sums(n, sums, &sink);
      }
    }
  }
}

// Row `row` of a quantised buffer of `rows` rows, copied into row t of a tile of width n.
static void gather_row(const uint8_t *q, int row, int rows, int blocks, uint8_t *tile, int n, int t) {
  int start = row & ~(MAX_TILE - 1), width = tile_width(start, rows);
  while (start + width <= row) {
    start += width;
    width = tile_width(start, rows);
  }
  const uint8_t *from = q + (int64_t)start * blocks * TILE_BLOCK;
  const int s = row - start;
  for (int b = 0; b < blocks; b++, from += width * TILE_BLOCK, tile += n * TILE_BLOCK) {
    __builtin_memcpy(tile + t * BLOCK, from + s * BLOCK, BLOCK);
    const uint32_t *numbers = (const uint32_t *)(from + width * BLOCK);
    uint32_t *copies = (uint32_t *)(tile + n * BLOCK);
    for (int field = 0; field < 7; field++) copies[field * n + t] = numbers[field * width + s];
  }
}

// Routed rows are gathered into tiles on the stack: as many at once as this many numbers hold.
#define GATHER_NUMBERS MAX_COLUMNS

void kernel_matmul_experts(const Op *op, const Step *step, Work *work) {
  const int columns = op->i[1], width = op->i[2], per = op->i[3], type = op->i[4], experts = op->i[5];
  const int from_tokens = op->i[0] == ROWS_TOKENS, rows = from_tokens ? step->num_tokens : step->num_tokens * per;
  const int panels = (width + PANEL - 1) / PANEL, blocks = columns / BLOCK;
  const int64_t panel_bytes = mill_panel_bytes(type, columns);
  const float *x = AT(const float, op->p[0]);
  const uint8_t *q = AT(const uint8_t, op->p[1]), *weight = AT(const uint8_t, op->p[2]);
  float *out = AT(float, op->p[4]);
  const int32_t *starts = AT(const int32_t, op->p[5]), *routed = starts + experts + 1;
  _Alignas(64) uint8_t gathered[GATHER_NUMBERS / BLOCK * TILE_BLOCK];
  const float *inputs[MAX_TILE];
  _Alignas(64) float sums[MAX_TILE * PANEL];
  Sink sink = {0};
  const int block = block_panels(panel_bytes), chunk = block < panels / 2 ? block : (panels + 1) / 2, chunks = (panels + chunk - 1) / chunk;
  const int limit = is_float(type) ? MAX_FLOAT_TILE : MAX_TILE;
  int begin, end;
  while (work_take(work, experts * chunks, 1, &begin, &end)) {
    for (int item = begin; item < end; item++) {
      const int expert = item / chunks, first_panel = item % chunks * chunk;
      const int last_panel = first_panel + chunk < panels ? first_panel + chunk : panels;
      for (int at = starts[expert], n; at < starts[expert + 1]; at += n) {
        n = tile_width(at, starts[expert + 1]);
        while (n > limit || (n > 1 && n * columns > GATHER_NUMBERS)) n >>= 1;
        const void *input = inputs;
        for (int t = 0; t < n; t++) {
          const int row = from_tokens ? routed[at + t] / per : routed[at + t];
          if (is_float(type)) inputs[t] = x + (int64_t)row * columns;
          else gather_row(q, row, rows, blocks, gathered, n, t);
        }
        if (!is_float(type)) input = gathered;
        Tile *tile = tiles[type][__builtin_ctz((unsigned)n)];
        for (int panel = first_panel; panel < last_panel; panel++) {
          const int first = panel * PANEL;
          sink.lanes = width - first < PANEL ? width - first : PANEL;
          for (int t = 0; t < n; t++) sink.out[t] = out + (int64_t)routed[at + t] * width + first;
          tile(weight + ((int64_t)expert * panels + panel) * panel_bytes, columns, input, sums);
          store_sums(n, sums, &sink);
        }
      }
    }
  }
}
