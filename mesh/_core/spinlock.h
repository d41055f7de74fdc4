/* A lock between processes whose owner is always known.
 *
 * Serves I3. The word is epoch << 32 | owner index + 1. A process fills its owner entry before it
 * can own the word, so there is no instant at which the lock is held by nobody in particular.
 * Breaking is one CAS of exactly the word that was judged: of two breakers one wins, and an owner
 * that released meanwhile is left alone. Rejected: pthread robust mutexes (bound to threads and
 * to the mapping's life), a spin byte (no owner, so it can be neither judged nor broken). */
#ifndef MESH_SPINLOCK_H
#define MESH_SPINLOCK_H

#include "atomics.h"
#include "futex.h"
#include "layout.h"

#define MESH_SPINS 200

static inline uint32_t mesh_lock_owner_index(uint64_t word) { return (uint32_t)word; }

/* Fill owner entry `index` for a process, under the directory's lock; the entry is free, or its
 * process is dead. 0 = the dead one holds the lock: its entry says so until the lock is broken. */
static inline int mesh_lock_claim(mesh_lock *lock, uint32_t index, uint64_t pid, uint64_t start,
                                  const uint8_t name[MESH_KEY_BYTES]) {
    if (mesh_lock_owner_index(mesh_load_acquire(&lock->word)) == index + 1) return 0;
    mesh_lock_owner *owner = &lock->owner[index];
    mesh_store(&owner->claim, 0);
    mesh_copy_in(owner->name, name, MESH_KEY_BYTES);
    mesh_store(&owner->start_time, start);
    mesh_store_release(&owner->claim, pid); /* pairs with the acquire in lock_owner_of */
    return 1;
}

/* 1 = acquired; *held is then the word that says so, the only one its owner may free. */
static inline int mesh_lock_try(mesh_lock *lock, uint32_t index, int64_t now_ns, uint64_t *held) {
    uint64_t word = mesh_load(&lock->word);
    if (mesh_lock_owner_index(word) != 0) return 0;
    mesh_store((uint64_t *)(void *)&lock->owner[index].since_ns, (uint64_t)now_ns);
    *held = (word & ~UINT64_C(0xFFFFFFFF)) | (index + 1u);
    return mesh_cas(&lock->word, word, *held);
}

/* 1 = acquired, 0 = timed out. Spins, then sleeps in slices (a dead owner never wakes anybody). */
static inline int mesh_lock_acquire(mesh_lock *lock, uint32_t index, int64_t deadline_ns,
                                    int64_t slice_ns, uint64_t *held) {
    for (int i = 0; i < MESH_SPINS; i++, mesh_relax())
        if (mesh_lock_try(lock, index, mesh_monotonic_ns(), held)) return 1;
    for (;;) {
        int64_t now = mesh_monotonic_ns();
        if (mesh_lock_try(lock, index, now, held)) return 1;
        if (now >= deadline_ns) return 0;
        mesh_announce_wait(&lock->waiting);
        uint64_t word = mesh_load(&lock->word);
        if (mesh_lock_owner_index(word) == 0) continue;
        int64_t left = deadline_ns - now;
        (void)mesh_futex_wait((const uint32_t *)(const void *)&lock->word, (uint32_t)word,
                              left < slice_ns ? left : slice_ns);
    }
}

/* Free `word` if the lock still shows it; the epoch makes every hold a different word. */
static inline int mesh_lock_free(mesh_lock *lock, uint64_t word) {
    uint64_t next = ((word >> 32) + 1) << 32;
    if (!mesh_cas(&lock->word, word, next)) return 0;
    mesh_fence_seq_cst(); /* pairs with mesh_announce_wait */
    mesh_wake_waiting(&lock->waiting, &lock->word);
    return 1;
}

#endif
