/* The only file with memory orders. Names say what they do; comments at the uses name the partner.
 *
 * Shared memory is read and written as aligned 64-bit relaxed atomics (Boehm 2012, "Can seqlocks
 * get along with programming language memory models?"). From MESH_BULK bytes upward a copy is a
 * memcpy between the same fences: the hardware copies aligned words whole, and no compiler moves
 * a call over an atomic fence; the build for ThreadSanitizer keeps words throughout, so that what
 * it checks is the protocol and not this shortcut. */
#ifndef MESH_ATOMICS_H
#define MESH_ATOMICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MESH_BULK 512u

static inline uint64_t mesh_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t mesh_load_acquire(const uint64_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void mesh_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void mesh_store_release(uint64_t *p, uint64_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline uint32_t mesh_load32(const uint32_t *p) {
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}
static inline uint32_t mesh_load32_acquire(const uint32_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void mesh_store32(uint32_t *p, uint32_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}
static inline void mesh_store32_release(uint32_t *p, uint32_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline uint32_t mesh_exchange32(uint32_t *p, uint32_t v) {
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
/* Both sides of "store, then look whether the other one stored": neither may be missed. */
static inline void mesh_store32_seq_cst(uint32_t *p, uint32_t v) {
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
static inline int mesh_cas(uint64_t *p, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}
/* (pair[0], pair[1]): from (a, b) to (c, d) in one step, or not at all. On x86-64 `lock cmpxchg16b`,
 * on AArch64 an ldaxp/stlxp loop or `caspal`; a full fence on both, as every __sync builtin is.
 * The pair is 16-byte aligned. Readers load the halves one by one. */
__extension__ typedef unsigned __int128 mesh_pair;
#if defined(__x86_64__) && !defined(__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16)
#error "compile with -mcx16: the mesh publishes by a 16-byte compare-and-swap"
#endif
static inline int mesh_cas_pair(uint64_t *pair, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    mesh_pair from = (mesh_pair)b << 64 | a, to = (mesh_pair)d << 64 | c;
    return __sync_bool_compare_and_swap((mesh_pair *)(void *)pair, from, to);
}
static inline void mesh_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
static inline void mesh_add(uint64_t *p, uint64_t n) {
    (void)__atomic_fetch_add(p, n, __ATOMIC_RELAXED);
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
/* ThreadSanitizer knows no fences (gcc refuses to compile them). It is a checker of data races:
 * the words are atomic, so it has nothing to say unless something is shared without them. */
#define MESH_TSAN 1
static inline void mesh_fence_acquire(void) {}
static inline void mesh_fence_release(void) {}
static inline void mesh_fence_seq_cst(void) {}
#else
#define MESH_TSAN 0
static inline void mesh_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void mesh_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void mesh_fence_seq_cst(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif

/* private -> shared; `to` is 8-byte aligned and its last word belongs to the payload whole */
static inline void mesh_copy_in(void *to, const void *from, size_t bytes) {
    uint64_t *word = to;
    const uint8_t *source = from;
    if (!MESH_TSAN && bytes >= MESH_BULK) {
        memcpy(to, from, bytes);
        return;
    }
    for (; bytes >= 8; bytes -= 8, source += 8, word++) {
        uint64_t value;
        memcpy(&value, source, 8);
        __atomic_store_n(word, value, __ATOMIC_RELAXED);
    }
    if (bytes != 0) {
        uint64_t value = 0;
        memcpy(&value, source, bytes);
        __atomic_store_n(word, value, __ATOMIC_RELAXED);
    }
}

/* shared -> private */
static inline void mesh_copy_out(void *to, const void *from, size_t bytes) {
    const uint64_t *word = from;
    uint8_t *target = to;
    if (!MESH_TSAN && bytes >= MESH_BULK) {
        memcpy(to, from, bytes);
        return;
    }
    for (; bytes >= 8; bytes -= 8, target += 8, word++) {
        uint64_t value = __atomic_load_n(word, __ATOMIC_RELAXED);
        memcpy(target, &value, 8);
    }
    if (bytes != 0) {
        uint64_t value = __atomic_load_n(word, __ATOMIC_RELAXED);
        memcpy(target, &value, bytes);
    }
}

#endif
