// OP_TRAIN_MULTIPLY: out = alpha * A B, or out += that
// i: [transposeA, transposeB, accumulate, rowsPerTask, columnsPerTask]   f: [alpha]   p: [{A, B, out}, scratch]
//
// Threads take rectangles of out. Of each, DEPTH steps of k at a time: the right operand's share is copied into
// strips of TILE_COLUMNS columns, then BLOCK_ROWS rows of the left one into a slab, and tiles run over both. How out
// is cut never changes a number: k is always summed in the same pieces and order.
#include "train_tile.h"

#define DEPTH 192   // of k at a time: a strip and a tile's rows of it stay in the nearest cache
#define WIDEST 512  // columns of a rectangle; a multiple of every TILE_COLUMNS

_Static_assert(SLAB_FLOATS + DEPTH * WIDEST <= TRAIN_SCRATCH, "scratch memory is too small");

typedef struct Product {
  Matrix a, b, out;
  int transpose_a, transpose_b, accumulate, depth;
  float alpha, *slab, *strips;
} Product;

static void pack_right(const Product *p, int k, int depth, int column, int columns) {
  float *to = p->strips;
  for (int j = 0; j < columns; j += TILE_COLUMNS, to += DEPTH * TILE_COLUMNS) {
    const int count = columns - j < TILE_COLUMNS ? columns - j : TILE_COLUMNS;
    if (p->transpose_b) {
      copy_transposed(row_of(&p->b, column + j) + k, p->b.stride, count, depth, TILE_COLUMNS, to, TILE_COLUMNS);
    } else {
      copy_rows(row_of(&p->b, k) + column + j, p->b.stride, depth, count, TILE_COLUMNS, to, TILE_COLUMNS);
    }
  }
}

// Steps k .. of TILE_ROWS rows of a left operand that is to be transposed, side by side, tile after tile.
static void pack_left(const Product *p, int k, int depth, int row, int rows) {
  float *to = p->slab;
  for (int i = 0; i < rows; i += TILE_ROWS) {
    const float *from = row_of(&p->a, k) + row + i;
    if (i + TILE_ROWS <= rows) {
      for (int d = 0; d < depth; d++, from += p->a.stride, to += TILE_ROWS) {
        UNROLL for (int j = 0; j < TILE_ROWS; j++) to[j] = from[j];
      }
    } else {
      for (int d = 0; d < depth; d++, from += p->a.stride, to += TILE_ROWS) {
        for (int j = 0; j < TILE_ROWS; j++) to[j] = i + j < rows ? from[j] : 0.f;
      }
    }
  }
}

// Rows of the left operand under its strips, onto out.
static void multiply_rows(const Product *p, int k, int depth, int row, int rows, int column, int columns) {
  const int64_t strip = DEPTH * TILE_COLUMNS, stride = p->out.stride;
  float *out = row_of(&p->out, row) + column;
  const int into = p->accumulate || k > 0 ? ADD : REPLACE;
#define PRODUCT(transposed, pitch, tile, into)                                                            \
  block_product(transposed, pitch, p->slab, tile, p->strips, TILE_COLUMNS, strip, depth, out, stride, rows, \
                columns, p->alpha, into)
  if (p->transpose_a) {
    pack_left(p, k, depth, row, rows);
    if (into == ADD) PRODUCT(1, TILE_ROWS, depth * TILE_ROWS, ADD);
    else PRODUCT(1, TILE_ROWS, depth * TILE_ROWS, REPLACE);
  } else {
    copy_rows(row_of(&p->a, row) + k, p->a.stride, rows, depth, depth, p->slab, SLAB);
    if (into == ADD) PRODUCT(0, SLAB, TILE_ROWS * SLAB, ADD);
    else PRODUCT(0, SLAB, TILE_ROWS * SLAB, REPLACE);
  }
}

void kernel_train_multiply(const Op *op, const Step *step, Work *work) {
  const Matrix *matrices = AT(const Matrix, op->p[0]);
  Product p = {matrices[0], matrices[1], matrices[2], op->i[0], op->i[1], op->i[2], 0, op->f[0], 0, 0};
  p.depth = p.transpose_a ? p.a.rows : p.a.columns;
  p.slab = scratch_of(op, work);
  p.strips = p.slab + SLAB_FLOATS;
  const int tall = op->i[3], wide = op->i[4] < WIDEST ? op->i[4] : WIDEST;
  const int across = (p.out.columns + wide - 1) / wide, down = (p.out.rows + tall - 1) / tall;
  int begin, end;
  (void)step;
  while (work_take(work, across * down, 1, &begin, &end)) {
    for (int task = begin; task < end; task++) {
      const int first = task / across * tall, column = task % across * wide;
      const int last = first + tall < p.out.rows ? first + tall : p.out.rows;
      const int columns = p.out.columns - column < wide ? p.out.columns - column : wide;
      for (int k = 0; k < p.depth; k += DEPTH) {
        const int depth = p.depth - k < DEPTH ? p.depth - k : DEPTH;
        pack_right(&p, k, depth, column, columns);
        for (int row = first; row < last; row += BLOCK_ROWS) {
          multiply_rows(&p, k, depth, row, last - row < BLOCK_ROWS ? last - row : BLOCK_ROWS, column, columns);
        }
      }
    }
  }
}
