/* Who may write a segment: read by everyone, changed under the directory's file lock.
 *
 * Serves I3 and I4. `lease` holds the epoch, and the epoch selects the owner entry; a new owner is
 * written to the other entry first and becomes the owner by one compare-and-swap of (published,
 * lease). The writer publishes by a compare-and-swap of the same pair with the epoch it was given,
 * so a writer whose lease was broken publishes nothing, even one that was stopped at the last
 * instruction before. Liveness (pid and start time) is judged in Python: it is no hot path. */
#ifndef MESH_LEASE_H
#define MESH_LEASE_H

#include "atomics.h"
#include "layout.h"

static inline uint64_t mesh_epoch(const mesh_control *c) { return mesh_load(&c->lease) >> 1; }

/* The next owner of the segment; gives its epoch. */
static inline uint64_t mesh_lease_set(mesh_control *c, uint32_t pid, uint64_t start_time,
                                      int64_t now_ns) {
    uint64_t epoch = mesh_epoch(c) + 1;
    mesh_owner *entry = &c->owner[epoch & 1];
    mesh_store32(&entry->pid, pid);
    mesh_store(&entry->start_time, start_time);
    mesh_store((uint64_t *)(void *)&entry->since_ns, (uint64_t)now_ns);
    for (;;) { /* a writer that is being fenced may still publish: the pair is then another one */
        uint64_t published = mesh_load(&c->published), lease = mesh_load(&c->lease);
        if (mesh_cas_pair(&c->published, published, lease, published, epoch << 1 | (lease & 1)))
            return epoch; /* pairs with the acquire in mesh_lease_get */
    }
}

/* The owner as of one epoch; pid 0 = nobody. Returns the epoch. */
static inline uint64_t mesh_lease_get(const mesh_control *c, mesh_owner *owner) {
    for (;;) {
        uint64_t epoch = mesh_load_acquire(&c->lease) >> 1;
        const mesh_owner *entry = &c->owner[epoch & 1];
        owner->pid = mesh_load32(&entry->pid);
        owner->start_time = mesh_load(&entry->start_time);
        owner->since_ns = (int64_t)mesh_load((const uint64_t *)(const void *)&entry->since_ns);
        mesh_fence_acquire();
        if (mesh_epoch(c) == epoch) return epoch;
    }
}

/* Give one row to the holder of `lease`: who held it before cannot commit to it any more. */
static inline void mesh_row_fence(mesh_row *row, uint64_t lease) {
    for (;;) {
        uint64_t version = mesh_load(&row->version), found = mesh_load(&row->lease);
        if (mesh_cas_pair(&row->version, version, found, version, lease)) return;
    }
}

#endif
