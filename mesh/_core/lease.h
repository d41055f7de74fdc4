/* Who may write a segment: read by everyone, changed under the directory's file lock.
 *
 * Serves I3 and I4. `epoch` selects the owner entry; a new owner is written to the other entry
 * first and becomes the owner by one store. The writer compares the epoch with its own before
 * and after it wrote, so a writer whose lease was broken publishes nothing. Liveness (pid and
 * start time) is judged in Python: it is no hot path. */
#ifndef MESH_LEASE_H
#define MESH_LEASE_H

#include "atomics.h"
#include "layout.h"

static inline void mesh_lease_set(mesh_control *c, uint32_t pid, uint64_t start_time,
                                  int64_t now_ns) {
    uint64_t epoch = mesh_load(&c->epoch) + 1;
    mesh_owner *entry = &c->owner[epoch & 1];
    mesh_store32(&entry->pid, pid);
    mesh_store(&entry->start_time, start_time);
    mesh_store((uint64_t *)(void *)&entry->since_ns, (uint64_t)now_ns);
    mesh_store_release(&c->epoch, epoch); /* pairs with the acquire in mesh_lease_get */
}

/* The owner as of one epoch; pid 0 = nobody. Returns the epoch. */
static inline uint64_t mesh_lease_get(const mesh_control *c, mesh_owner *owner) {
    for (;;) {
        uint64_t epoch = mesh_load_acquire(&c->epoch);
        const mesh_owner *entry = &c->owner[epoch & 1];
        owner->pid = mesh_load32(&entry->pid);
        owner->start_time = mesh_load(&entry->start_time);
        owner->since_ns = (int64_t)mesh_load((const uint64_t *)(const void *)&entry->since_ns);
        mesh_fence_acquire();
        if (mesh_load(&c->epoch) == epoch) return epoch;
    }
}

#endif
