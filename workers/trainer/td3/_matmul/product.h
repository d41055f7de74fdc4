/* A product of two float matrices, blocked for the caches as in Goto and van de Geijn, "Anatomy of
 * High-Performance Matrix Multiplication" (2008): a panel of 48 columns of the right factor stays
 * in the nearest caches while all rows of the left one pass by it, 8 at a time, their 24 sums of
 * 16 lanes in registers. What follows the product in a network (bias, ReLU, the mask of a ReLU on
 * the way back) is done to the sums before they are written.
 */
#ifndef PRODUCTS_PRODUCT_H
#define PRODUCTS_PRODUCT_H

#include <stdbool.h>

#include "transpose.h"

enum { ROWS = 8, VECTORS = 3, PANEL = VECTORS * LANES, STEPS = 384, BLOCK = 1024 };

/* Element (i, j) lies at at[i * row + j * column]; one of the two is 1. */
typedef struct {
    const float *at;
    ptrdiff_t row, column;
} matrix_t;

typedef struct {
    ptrdiff_t rows, inner, columns;
    matrix_t left, right;
    float *out; /* (rows, columns), the columns beside each other */
    ptrdiff_t out_row;
    const float *bias; /* (columns,) or none */
    const float *mask; /* (rows, columns) or none: zero where it is not above zero */
    ptrdiff_t mask_row;
    bool add;  /* to what is in `out` */
    bool relu; /* max(0, .) of the sum */
} product_t;

typedef union {
    uint32_t bits[BLOCK * STEPS];
    float values[BLOCK * STEPS];
} left_block_t;

typedef union {
    uint32_t bits[PANEL * STEPS];
    float values[PANEL * STEPS];
} panel_t;

/* Where 8 rows of the left factor are: `row` lanes apart, their steps `step` apart. */
typedef struct {
    const uint32_t *at;
    ptrdiff_t row, step;
} rows_t;

/* Scratch of a thread (1.6 MB, allocated at its first product), so that the kernel is safe without
 * the GIL and in several interpreters. */
static _Thread_local _Alignas(64) left_block_t left_block;
static _Thread_local _Alignas(64) panel_t panel;

typedef struct {
    __m512 sum[ROWS][VECTORS];
} tile_t;

#define NAME(part) part##_float
#define TARGET F32
#define PAIRED 0
#define MULTIPLY_ADD(sum, left, right)                                                             \
    _mm512_fmadd_ps(_mm512_castsi512_ps(left), _mm512_castsi512_ps(right), sum)
#include "blocks.h"
#undef NAME
#undef TARGET
#undef PAIRED
#undef MULTIPLY_ADD

#define NAME(part) part##_pairs
#define TARGET BF16
#define PAIRED 1
#define MULTIPLY_ADD(sum, left, right) _mm512_dpbf16_ps(sum, (__m512bh)(left), (__m512bh)(right))
#include "blocks.h"
#undef NAME
#undef TARGET
#undef PAIRED
#undef MULTIPLY_ADD

#endif
