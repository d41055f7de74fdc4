/* Fletcher-style checksum in eight 64-bit lanes: about the speed of memory, plain C, and every
 * flipped bit, swapped word or shifted block changes it. It guards against corruption, not
 * against an attacker. Source: Fletcher 1982, "An arithmetic checksum for serial transmissions". */
#ifndef MESH_CHECKSUM_H
#define MESH_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t sum[8];
    uint64_t sums[8];
    uint64_t bytes;
} mesh_checksum_state;

/* The widest vectors the processor has; the sanitizers' runtimes cannot start behind a resolver. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) &&                            \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define MESH_WIDE __attribute__((unused, target_clones("avx512f", "avx2", "default")))
#else
#define MESH_WIDE __attribute__((unused))
#endif

/* A call whose `bytes` is no multiple of 64 is padded with zeros: cut the data alike on both sides. */
MESH_WIDE
static void mesh_checksum_update(mesh_checksum_state *s, const void *data, size_t bytes) {
    const uint8_t *p = data;
    s->bytes += bytes;
    uint64_t sum[8], sums[8];
    memcpy(sum, s->sum, sizeof sum);
    memcpy(sums, s->sums, sizeof sums);
    for (; bytes >= 64; bytes -= 64, p += 64) {
        uint64_t w[8];
        memcpy(w, p, 64);
        for (int i = 0; i < 8; i++) {
            sum[i] += w[i];
            sums[i] += sum[i];
        }
    }
    memcpy(s->sum, sum, sizeof sum);
    memcpy(s->sums, sums, sizeof sums);
    if (bytes != 0) {
        uint64_t w[8] = {0};
        memcpy(w, p, bytes);
        for (int i = 0; i < 8; i++) {
            s->sum[i] += w[i];
            s->sums[i] += s->sum[i];
        }
    }
}

/* Copy and add up in one pass over memory: the data is read once. */
MESH_WIDE
static void mesh_checksum_copy(mesh_checksum_state *s, void *to, const void *from, size_t bytes) {
    const uint8_t *p = from;
    uint8_t *q = to;
    size_t whole = bytes / 64 * 64;
    uint64_t sum[8], sums[8];
    memcpy(sum, s->sum, sizeof sum);
    memcpy(sums, s->sums, sizeof sums);
    for (size_t at = 0; at < whole; at += 64) {
        uint64_t w[8];
        memcpy(w, p + at, 64);
        memcpy(q + at, w, 64);
        for (int i = 0; i < 8; i++) {
            sum[i] += w[i];
            sums[i] += sum[i];
        }
    }
    memcpy(s->sum, sum, sizeof sum);
    memcpy(s->sums, sums, sizeof sums);
    s->bytes += whole;
    if (bytes == whole) return;
    memcpy(q + whole, p + whole, bytes - whole);
    mesh_checksum_update(s, p + whole, bytes - whole);
}

static inline uint64_t mesh_checksum_final(const mesh_checksum_state *s) {
    uint64_t h = s->bytes * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (int i = 0; i < 8; i++) {
        h = (h ^ s->sum[i]) * UINT64_C(0xFF51AFD7ED558CCD);
        h = (h ^ (h >> 32) ^ s->sums[i]) * UINT64_C(0xC4CEB9FE1A85EC53);
    }
    return h ^ (h >> 29);
}

static inline uint64_t mesh_checksum(const void *data, size_t bytes) {
    mesh_checksum_state s = {{0}, {0}, 0};
    mesh_checksum_update(&s, data, bytes);
    return mesh_checksum_final(&s);
}

#endif
