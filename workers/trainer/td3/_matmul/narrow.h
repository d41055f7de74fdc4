/* Products with a narrow factor: the one output of a last layer, the gradient of its weights, sums of
 * columns, the gradient of a first layer that sees few numbers. A panel of `product.h` would be
 * mostly empty; here nothing is moved first, and the wide factor is read once, where it lies.
 */
#ifndef PRODUCTS_NARROW_H
#define PRODUCTS_NARROW_H

#include "product.h"

enum { FEW = 6, ABREAST = 4, DOTS = 4 };

/* `few` rows of the left factor at once with 64 columns of the right one, whose rows lie in one
 * piece; `some`: of the columns of each vector. */
F32 __attribute__((always_inline)) static inline void
sum_few(const int few, const matrix_t *left, const float *right, ptrdiff_t right_row,
        ptrdiff_t inner, const __mmask16 some[ABREAST], __m512 sum[FEW][ABREAST]) {
    for (int i = 0; i < few; i++)
        for (int v = 0; v < ABREAST; v++) sum[i][v] = _mm512_setzero_ps();
    for (ptrdiff_t k = 0; k < inner; k++, right += right_row) {
        __m512 line[ABREAST];
        for (int v = 0; v < ABREAST; v++)
            line[v] = _mm512_maskz_loadu_ps(some[v], right + v * LANES);
        for (int i = 0; i < few; i++) {
            __m512 x = _mm512_set1_ps(left->at[i * left->row + k * left->column]);
            for (int v = 0; v < ABREAST; v++) sum[i][v] = _mm512_fmadd_ps(x, line[v], sum[i][v]);
        }
    }
}

F32 static void few_rows(const product_t *p, ptrdiff_t out_column) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i places = _mm512_mullo_epi32(lanes, _mm512_set1_epi32((int)out_column));
    for (ptrdiff_t j = 0; j < p->columns; j += ABREAST * LANES) {
        const float *right = p->right.at + j;
        __mmask16 some[ABREAST];
        __m512 sum[FEW][ABREAST];
        for (int v = 0; v < ABREAST; v++) some[v] = first_lanes(p->columns - j - v * LANES);
        switch (p->rows) {
#define CASE(few)                                                                                  \
    case few:                                                                                      \
        sum_few(few, &p->left, right, p->right.row, p->inner, some, sum);                          \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
        }
        for (ptrdiff_t i = 0; i < p->rows; i++) {
            for (int v = 0; v < ABREAST; v++) {
                float *out = p->out + i * p->out_row + (j + v * LANES) * out_column;
                if (out_column == 1)
                    _mm512_mask_storeu_ps(out, some[v], sum[i][v]);
                else
                    _mm512_mask_i32scatter_ps(out, some[v], places, sum[i][v], 4);
            }
        }
    }
}

/* Sums of 4 rows of the left factor times `few` columns of the right one, which lie in the panel. */
F32 __attribute__((always_inline)) static inline void dot_few(const int few, const product_t *p,
                                                              ptrdiff_t i, ptrdiff_t rows) {
    __m512 sum[ABREAST][DOTS];
    for (int r = 0; r < ABREAST; r++)
        for (int j = 0; j < few; j++) sum[r][j] = _mm512_setzero_ps();
    for (ptrdiff_t k = 0; k < p->inner; k += LANES) {
        __mmask16 some = first_lanes(p->inner - k);
        for (int r = 0; r < ABREAST; r++) {
            const float *row = p->left.at + (i + (r < rows ? r : 0)) * p->left.row;
            __m512 x = _mm512_maskz_loadu_ps(some, row + k);
            for (int j = 0; j < few; j++)
                sum[r][j] = _mm512_fmadd_ps(x, _mm512_load_ps(panel.values + k * few + j * LANES),
                                            sum[r][j]);
        }
    }
    for (int r = 0; r < ABREAST && r < rows; r++)
        for (int j = 0; j < few; j++)
            p->out[(i + r) * p->out_row + j] =
                _mm512_reduce_add_ps(sum[r][j]) + (p->bias != NULL ? p->bias[j] : 0.0F);
}

/* The few columns of the right factor go into the panel, 16 steps of one beside those of the next. */
F32 static void few_columns(const product_t *p) {
    const ptrdiff_t few = p->columns;
    for (ptrdiff_t k = 0; k < p->inner; k += LANES)
        for (ptrdiff_t j = 0; j < few; j++)
            for (ptrdiff_t lane = 0; lane < LANES; lane++)
                panel.values[k * few + j * LANES + lane] =
                    k + lane < p->inner
                        ? p->right.at[(k + lane) * p->right.row + j * p->right.column]
                        : 0.0F;
    for (ptrdiff_t i = 0; i < p->rows; i += ABREAST) {
        switch (few) {
#define CASE(count)                                                                                \
    case count:                                                                                    \
        dot_few(count, p, i, p->rows - i);                                                         \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
        }
    }
}

/* Compute a product with a narrow factor; false: it has no such factor, nothing was done. */
F32 static bool product_narrow(const product_t *p) {
    if (p->add || p->relu || p->mask != NULL) return false;
    if (p->columns <= DOTS && p->left.column == 1 && p->inner <= PANEL * STEPS / DOTS - LANES) {
        few_columns(p);
        return true;
    }
    if (p->bias != NULL) return false;
    if (p->rows <= FEW && p->right.column == 1) {
        few_rows(p, 1);
        return true;
    }
    if (p->columns <= FEW && p->left.row == 1) { /* its transpose is the former */
        product_t transposed = {.rows = p->columns,
                                .inner = p->inner,
                                .columns = p->rows,
                                .left = {p->right.at, p->right.column, p->right.row},
                                .right = {p->left.at, p->left.column, 1},
                                .out = p->out,
                                .out_row = 1};
        few_rows(&transposed, p->out_row);
        return true;
    }
    return false;
}

#endif
