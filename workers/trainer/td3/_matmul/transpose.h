/* Lines of 16 lanes of 32 bits: a float each, or a pair of bfloat16 rounded from two floats.
 *
 * A block of a matrix is brought into `lines`: for each step of the inner dimension (or pair of
 * steps) the 16 values of 16 neighbouring rows or columns side by side, zeros where there are
 * fewer. Both factors of a product are brought into this form, whichever way they lie in memory.
 */
#ifndef PRODUCTS_TRANSPOSE_H
#define PRODUCTS_TRANSPOSE_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define F32 __attribute__((target("avx512f")))
#define BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

enum { LANES = 16 };

F32 static inline __mmask16 first_lanes(ptrdiff_t count) {
    if (count <= 0) return 0;
    return (__mmask16)(count >= LANES ? 0xFFFFU : (1U << count) - 1U);
}

/* 16 lines of 16 lanes, transposed: lane j of line i becomes lane i of line j. */
F32 static inline void turn(__m512i v[LANES]) {
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
        v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

F32 static inline void put_turned(uint32_t *to, __m512i v[LANES], ptrdiff_t steps) {
    turn(v);
    for (int i = 0; i < LANES && i < steps; i++) {
        _mm512_storeu_si512(to + i * LANES, v[i]);
    }
}

/* From values that lie beside each other along the inner dimension; `apart`: between neighbours. */
F32 static void lines_along(uint32_t *to, const float *from, ptrdiff_t apart, ptrdiff_t neighbours,
                            ptrdiff_t inner) {
    for (ptrdiff_t k = 0; k < inner; k += LANES) {
        __m512i v[LANES];
        for (int i = 0; i < LANES; i++) {
            __mmask16 some = i < neighbours ? first_lanes(inner - k) : (__mmask16)0;
            v[i] = _mm512_maskz_loadu_epi32(some, from + (i < neighbours ? i * apart : 0) + k);
        }
        put_turned(to + k * LANES, v, inner - k);
    }
}

/* From values that lie beside each other across the inner dimension. */
F32 static void lines_across(uint32_t *to, const float *from, ptrdiff_t apart, ptrdiff_t neighbours,
                             ptrdiff_t inner) {
    __mmask16 some = first_lanes(neighbours);
    for (ptrdiff_t k = 0; k < inner; k++) {
        _mm512_storeu_si512(to + k * LANES, _mm512_maskz_loadu_epi32(some, from + k * apart));
    }
}

/* 32 floats as 16 pairs; `count` of them are there. */
BF16 static inline __m512i pairs(const float *from, ptrdiff_t count) {
    __m512 low = _mm512_maskz_loadu_ps(first_lanes(count), from);
    __m512 high = _mm512_maskz_loadu_ps(first_lanes(count - LANES), from + LANES);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

BF16 static void pair_lines_along(uint32_t *to, const float *from, ptrdiff_t apart,
                                  ptrdiff_t neighbours, ptrdiff_t inner) {
    for (ptrdiff_t k = 0; k < inner; k += 2 * LANES) {
        __m512i v[LANES];
        for (int i = 0; i < LANES; i++) {
            v[i] = i < neighbours ? pairs(from + i * apart + k, inner - k) : _mm512_setzero_si512();
        }
        put_turned(to + k / 2 * LANES, v, (inner - k + 1) / 2);
    }
}

BF16 static void pair_lines_across(uint32_t *to, const float *from, ptrdiff_t apart,
                                   ptrdiff_t neighbours, ptrdiff_t inner) {
    const __m512i beside =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __mmask16 some = first_lanes(neighbours);
    for (ptrdiff_t k = 0; k < inner; k += 2) {
        __m512 low = _mm512_maskz_loadu_ps(some, from + k * apart);
        __m512 high = _mm512_maskz_loadu_ps(k + 1 < inner ? some : (__mmask16)0,
                                            from + (k + 1 < inner ? k + 1 : k) * apart);
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        _mm512_storeu_si512(to + k / 2 * LANES, _mm512_permutexvar_epi16(beside, both));
    }
}

/* Rows as rows of pairs, `row` lanes apart. */
BF16 static void pair_rows(uint32_t *to, ptrdiff_t row, const float *from, ptrdiff_t apart,
                           ptrdiff_t rows, ptrdiff_t inner) {
    for (ptrdiff_t i = 0; i < rows; i++) {
        for (ptrdiff_t k = 0; k < inner; k += 2 * LANES) {
            _mm512_storeu_si512(to + i * row + k / 2, pairs(from + i * apart + k, inner - k));
        }
    }
}

#endif
