/* The loops of a product, once for floats and once for pairs of bfloat16: `product.h` includes this
 * twice with another NAME, TARGET, PAIRED and MULTIPLY_ADD.
 */

#define SUMS(i) __m512 s##i##0 = zero, s##i##1 = zero, s##i##2 = zero;
#define ADD(i)                                                                                     \
    {                                                                                              \
        __m512i x = _mm512_set1_epi32((int)a##i[k * step]);                                        \
        s##i##0 = MULTIPLY_ADD(s##i##0, x, b0);                                                    \
        if (vectors > 1) s##i##1 = MULTIPLY_ADD(s##i##1, x, b1);                                   \
        if (vectors > 2) s##i##2 = MULTIPLY_ADD(s##i##2, x, b2);                                   \
    }
#define KEEP(i)                                                                                    \
    tile->sum[i][0] = s##i##0;                                                                     \
    tile->sum[i][1] = s##i##1;                                                                     \
    tile->sum[i][2] = s##i##2;
#define EACH_ROW(what) what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7)

/* Sum 8 rows times `vectors` x 16 columns over `steps`; rows beyond `rows` repeat the last. */
TARGET __attribute__((always_inline)) static inline void
NAME(sum_up)(const int vectors, const ptrdiff_t step, const uint32_t *left, ptrdiff_t row,
             ptrdiff_t rows, const uint32_t *lines, ptrdiff_t apart, ptrdiff_t steps,
             tile_t *tile) {
    const __m512 zero = _mm512_setzero_ps();
#define POINTER(i) const uint32_t *a##i = left + (i < rows ? i : rows - 1) * row;
    EACH_ROW(POINTER)
#undef POINTER
    EACH_ROW(SUMS)
    for (ptrdiff_t k = 0; k < steps; k++) {
        __m512i b0 = _mm512_load_si512(lines + k * LANES), b1 = b0, b2 = b0;
        if (vectors > 1) b1 = _mm512_load_si512(lines + apart + k * LANES);
        if (vectors > 2) b2 = _mm512_load_si512(lines + 2 * apart + k * LANES);
        EACH_ROW(ADD)
    }
    EACH_ROW(KEEP)
}

#undef SUMS
#undef ADD
#undef KEEP
#undef EACH_ROW

TARGET
__attribute__((noinline)) static void NAME(tile)(const rows_t *left, ptrdiff_t rows, int vectors,
                                                 ptrdiff_t steps, tile_t *tile) {
    const ptrdiff_t apart = LANES * STEPS;
    const uint32_t *lines = panel.bits;
    if (left->step == 1) {
        if (vectors == 3)
            NAME(sum_up)(3, 1, left->at, left->row, rows, lines, apart, steps, tile);
        else if (vectors == 2)
            NAME(sum_up)(2, 1, left->at, left->row, rows, lines, apart, steps, tile);
        else
            NAME(sum_up)(1, 1, left->at, left->row, rows, lines, apart, steps, tile);
    } else if (vectors == 3)
        NAME(sum_up)(3, LANES, left->at, 1, ROWS, lines, apart, steps, tile);
    else if (vectors == 2)
        NAME(sum_up)(2, LANES, left->at, 1, ROWS, lines, apart, steps, tile);
    else
        NAME(sum_up)(1, LANES, left->at, 1, ROWS, lines, apart, steps, tile);
}

/* What is done to the sums of a tile at (i, j) before they are written. */
typedef struct {
    __mmask16 some[VECTORS]; /* columns that there are */
    __m512 bias[VECTORS];
    bool add, relu, mask;
} NAME(epilogue);

TARGET __attribute__((always_inline)) static inline __m512
NAME(finished)(const NAME(epilogue) * e, int v, __m512 sum, const float *out, const float *mask) {
    const __m512 zero = _mm512_setzero_ps();
    if (e->add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(e->some[v], out));
    sum = _mm512_add_ps(sum, e->bias[v]);
    if (e->relu) /* as torch: NaN stays NaN */
        sum = _mm512_max_ps(zero, sum);
    if (e->mask) {
        __m512 kept = _mm512_maskz_loadu_ps(e->some[v], mask);
        sum = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(kept, zero, _CMP_NLE_UQ), sum);
    }
    return sum;
}

/* Write a tile at (i, j); `is_first`, `is_last`: of the blocks of the inner dimension. */
TARGET static void NAME(write_tile)(const product_t *p, ptrdiff_t i, ptrdiff_t j, bool is_first,
                                    bool is_last, const tile_t *tile) {
    NAME(epilogue)
    e = {
        .add = p->add || !is_first, .relu = is_last && p->relu, .mask = is_last && p->mask != NULL};
    for (int v = 0; v < VECTORS; v++) {
        e.some[v] = first_lanes(p->columns - j - v * LANES);
        e.bias[v] = is_last && p->bias != NULL
                        ? _mm512_maskz_loadu_ps(e.some[v], p->bias + j + v * LANES)
                        : _mm512_setzero_ps();
    }
    ptrdiff_t rows = p->rows - i < ROWS ? p->rows - i : ROWS;
    float *out = p->out + i * p->out_row + j;
    const float *mask = e.mask ? p->mask + i * p->mask_row + j : out;
    for (ptrdiff_t r = 0; r < rows; r++, out += p->out_row, mask += p->mask_row) {
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; v++) {
            const ptrdiff_t at = v * LANES;
            __m512 sum = NAME(finished)(&e, v, tile->sum[r][v], out + at, mask + at);
            _mm512_mask_storeu_ps(out + at, e.some[v], sum);
        }
    }
}

/* Bring rows [i, i + rows) of the left factor into a form whose steps are read one by one. */
TARGET static rows_t NAME(left_rows)(const product_t *p, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t k,
                                     ptrdiff_t inner) {
    const float *from = p->left.at + i * p->left.row + k * p->left.column;
    if (p->left.column == 1) {
#if PAIRED
        pair_rows(left_block.bits, STEPS, from, p->left.row, rows, inner);
        return (rows_t){left_block.bits, STEPS, 1};
#else
        return (rows_t){(const uint32_t *)(const void *)from, p->left.row, 1};
#endif
    }
    for (ptrdiff_t r = 0; r < rows; r += LANES) {
#if PAIRED
        pair_lines_across(left_block.bits + r * STEPS, from + r, p->left.column, rows - r, inner);
#else
        lines_across(left_block.bits + r * STEPS, from + r, p->left.column, rows - r, inner);
#endif
    }
    return (rows_t){left_block.bits, STEPS, LANES};
}

/* Bring columns [j, j + 48) of the right factor into the panel. */
TARGET static void NAME(fill_panel)(const product_t *p, ptrdiff_t j, ptrdiff_t k, ptrdiff_t inner) {
    for (int v = 0; v < VECTORS && j + v * LANES < p->columns; v++) {
        ptrdiff_t at = j + v * LANES, columns = p->columns - at;
        const float *from = p->right.at + k * p->right.row + at * p->right.column;
        uint32_t *to = panel.bits + v * LANES * STEPS;
        bool along = p->right.row == 1 && p->right.column != 1;
#if PAIRED
        if (along)
            pair_lines_along(to, from, p->right.column, columns, inner);
        else
            pair_lines_across(to, from, p->right.row, columns, inner);
#else
        if (along)
            lines_along(to, from, p->right.column, columns, inner);
        else
            lines_across(to, from, p->right.row, columns, inner);
#endif
    }
}

TARGET static void NAME(product)(const product_t *p) {
    const ptrdiff_t depth = PAIRED ? 2 * STEPS : STEPS;
    for (ptrdiff_t i = 0; i < p->rows; i += BLOCK) {
        ptrdiff_t rows = p->rows - i < BLOCK ? p->rows - i : BLOCK;
        for (ptrdiff_t k = 0; k < p->inner; k += depth) {
            ptrdiff_t inner = p->inner - k < depth ? p->inner - k : depth;
            ptrdiff_t steps = PAIRED ? (inner + 1) / 2 : inner;
            rows_t left = NAME(left_rows)(p, i, rows, k, inner);
            for (ptrdiff_t j = 0; j < p->columns; j += PANEL) {
                NAME(fill_panel)(p, j, k, inner);
                ptrdiff_t columns = p->columns - j < PANEL ? p->columns - j : PANEL;
                int vectors = (int)((columns + LANES - 1) / LANES);
                for (ptrdiff_t r = 0; r < rows; r += ROWS) {
                    tile_t tile;
                    rows_t these = left;
                    /* 16 rows lie side by side in lines; 8 of them are a tile */
                    these.at +=
                        left.step == 1 ? r * left.row : r / LANES * LANES * STEPS + r % LANES;
                    NAME(tile)(&these, rows - r, vectors, steps, &tile);
                    NAME(write_tile)(p, i + r, j, k == 0, k + depth >= p->inner, &tile);
                }
            }
        }
    }
}
