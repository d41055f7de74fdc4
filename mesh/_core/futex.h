/* The only futex calls. Shared (not process-private) futexes: the waiters are other processes. */
#ifndef MESH_FUTEX_H
#define MESH_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "atomics.h"

static inline int64_t mesh_monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleep while *word == expected, at most `timeout_ns`. Works on a read-only mapping. 0 or errno. */
static inline int mesh_futex_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    struct timespec t = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    if (syscall(SYS_futex, word, FUTEX_WAIT, expected, &t, NULL, 0) == 0) return 0;
    return errno;
}

static inline void mesh_futex_wake_all(const uint32_t *word) {
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* The writer's half of waiting, after it stored the published index and a full fence (which
 * mesh_cas_pair is). The fence pairs with the one in mesh_announce_wait: either the reader sees
 * the new index or the writer sees the flag. The flag is cleared before the wake, so a reader that
 * died asleep costs one wake, not one a publish. No system call where nobody waits. */
static inline void mesh_wake_waiting(uint32_t *waiting, const uint64_t *published) {
    if (mesh_load32(waiting) != 0) {
        (void)mesh_exchange32(waiting, 0);
        mesh_futex_wake_all((const uint32_t *)(const void *)published);
    }
}

/* The reader's half: set the flag, then look at the index again before sleeping on it. */
static inline void mesh_announce_wait(uint32_t *waiting) {
    mesh_store32_seq_cst(waiting, 1);
    mesh_fence_seq_cst();
}

#endif
