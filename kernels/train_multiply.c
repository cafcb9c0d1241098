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

// Rows first .. last - 1 and `columns` columns of out.
static void multiply_rectangle(const Product *p, int first, int last, int column, int columns) {
  for (int k = 0; k < p->depth; k += DEPTH) {
    const int depth = p->depth - k < DEPTH ? p->depth - k : DEPTH;
    pack_right(p, k, depth, column, columns);
    for (int row = first; row < last; row += BLOCK_ROWS) {
      multiply_rows(p, k, depth, row, last - row < BLOCK_ROWS ? last - row : BLOCK_ROWS, column, columns);
    }
  }
}

// Rectangles of a product's out.
typedef struct Cut {
  int tall, wide, across, total;
} Cut;

static Cut cut_of(const Product *p, int tall, int wide) {
  Cut cut = {tall, wide < WIDEST ? wide : WIDEST, 0, 0};
  cut.across = (p->out.columns + cut.wide - 1) / cut.wide;
  cut.total = cut.across * ((p->out.rows + tall - 1) / tall);
  return cut;
}

static void multiply_task(const Product *p, const Cut *cut, int task) {
  const int first = task / cut->across * cut->tall, column = task % cut->across * cut->wide;
  const int last = first + cut->tall < p->out.rows ? first + cut->tall : p->out.rows;
  multiply_rectangle(p, first, last, column, p->out.columns - column < cut->wide ? p->out.columns - column : cut->wide);
}

void kernel_train_multiply(const Op *op, const Step *step, Work *work) {
  const Matrix *matrices = AT(const Matrix, op->p[0]);
  Product p = {matrices[0], matrices[1], matrices[2], op->i[0], op->i[1], op->i[2], 0, op->f[0], 0, 0};
  p.depth = p.transpose_a ? p.a.rows : p.a.columns;
  p.slab = scratch_of(op, work);
  p.strips = p.slab + SLAB_FLOATS;
  const Cut cut = cut_of(&p, op->i[3], op->i[4]);
  int begin, end;
  (void)step;
  while (work_take(work, cut.total, 1, &begin, &end)) {
    for (int task = begin; task < end; task++) multiply_task(&p, &cut, task);
  }
}

static Matrix rows_of(const Matrix *m, int first, int rows) {
  Matrix part = *m;
  part.at += (uint64_t)first * m->stride * sizeof(float);
  part.rows = rows;
  return part;
}

// OP_TRAIN_MULTIPLY_GROUPS: a product for each group of rows starts[g] .. starts[g + 1] - 1: rows of A times matrix g of
// those one under another in B, or, where A is transposed, rows of A and of B onto matrix g of those in out
// i: [transposeA, transposeB, accumulate, rowsPerTask, columnsPerTask]   p: [{A, B, out, starts}, scratch]
static Product product_of_group(const Op *op, const Work *work, int group) {
  const Matrix *a = AT(const Matrix, op->p[0]), *b = a + 1, *out = a + 2, *starts = a + 3;
  const float *start = row_of(starts, 0) + group;
  const int first = (int)start[0], rows = (int)start[1] - first, groups = starts->columns - 1;
  Product p = {.transpose_a = op->i[0], .transpose_b = op->i[1], .accumulate = op->i[2], .alpha = 1.f};
  p.slab = scratch_of(op, work);
  p.strips = p.slab + SLAB_FLOATS;
  p.a = rows_of(a, first, rows);
  if (p.transpose_a) {
    p.b = rows_of(b, first, rows);
    p.out = rows_of(out, group * a->columns, a->columns);
    p.depth = rows;
  } else {
    const int height = b->rows / groups;
    p.b = rows_of(b, group * height, height);
    p.out = rows_of(out, first, rows);
    p.depth = a->columns;
  }
  return p;
}

static void clear_rows(const Matrix *m) {
  for (int r = 0; r < m->rows; r++) {
    for (int i = 0; i < m->columns; i += 16) store_some(row_of(m, r) + i, f32x16_zero(), m->columns - i);
  }
}

void kernel_train_multiply_groups(const Op *op, const Step *step, Work *work) {
  const int groups = AT(const Matrix, op->p[0])[3].columns - 1;
  int total = 0, begin, end;
  (void)step;
  for (int g = 0; g < groups; g++) {
    const Product p = product_of_group(op, work, g);
    total += cut_of(&p, op->i[3], op->i[4]).total;
  }
  int group = 0, before = 0;  // tasks are taken in order, so groups go by once
  Product p = product_of_group(op, work, 0);
  Cut cut = cut_of(&p, op->i[3], op->i[4]);
  while (work_take(work, total, 1, &begin, &end)) {
    for (int task = begin; task < end; task++) {
      while (task >= before + cut.total) {
        before += cut.total;
        p = product_of_group(op, work, ++group);
        cut = cut_of(&p, op->i[3], op->i[4]);
      }
      if (p.depth > 0) multiply_task(&p, &cut, task - before);
      else if (task == before && !p.accumulate) clear_rows(&p.out);
    }
  }
}
