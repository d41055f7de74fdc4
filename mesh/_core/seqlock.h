/* A value in several slots behind one published version: cells, tensors, rows.
 *
 * Serves I1 (no torn read) and I2 (a dead writer costs nothing). The writer of version v writes
 * slot v % slots, which no reader was told about since version v - slots; the published value is
 * never touched. A writer killed anywhere leaves `version` pointing at a whole slot, and the next
 * writer overwrites the very slot that was left half written. Rejected: one slot with a sequence
 * (readers wait for a dead writer for ever) and a lock (the same, and it must be broken). */
#ifndef MESH_SEQLOCK_H
#define MESH_SEQLOCK_H

#include "atomics.h"
#include "checksum.h"
#include "layout.h"

typedef struct {
    uint64_t *version; /* the lease lies behind it: the pair that publishes */
    uint8_t *slots;
    uint64_t stride;
    uint64_t count; /* 2 or 3 */
    int checked;    /* values carry a checksum */
} mesh_slots;

static inline mesh_slot *mesh_slot_of(const mesh_slots *s, uint64_t version) {
    return (mesh_slot *)(void *)(s->slots + (version % s->count) * s->stride);
}

static inline uint8_t *mesh_slot_payload(mesh_slot *slot) {
    return (uint8_t *)slot + sizeof(mesh_slot);
}

/* Writer: open the slot of the next version. */
static inline mesh_slot *mesh_slots_begin(const mesh_slots *s, uint64_t *version) {
    *version = mesh_load(s->version) + 1;
    mesh_slot *slot = mesh_slot_of(s, *version);
    mesh_store(&slot->seq, 2 * *version - 1);
    mesh_fence_release(); /* pairs with the acquire fence in mesh_slots_valid: odd before payload */
    return slot;
}

/* Writer: close the slot and publish it. 0 = the lease is not ours any more, nothing happened. */
static inline int mesh_slots_commit(const mesh_slots *s, mesh_slot *slot, uint64_t version,
                                    uint64_t lease, uint64_t length, uint64_t checksum) {
    mesh_store(&slot->length, length);
    mesh_store(&slot->checksum, checksum);
    mesh_store_release(&slot->seq, 2 * version); /* pairs with the acquire in mesh_slots_open */
    return mesh_cas_pair(s->version, version - 1, lease, version, lease); /* the same */
}

/* Reader: the newest slot if it can be read now, else NULL (try again). *version 0 = never written. */
static inline mesh_slot *mesh_slots_open(const mesh_slots *s, uint64_t *version) {
    *version = mesh_load_acquire(s->version);
    if (*version == 0) return NULL;
    mesh_slot *slot = mesh_slot_of(s, *version);
    return mesh_load_acquire(&slot->seq) == 2 * *version ? slot : NULL;
}

/* Reader, after copying: was the slot left alone meanwhile? */
static inline int mesh_slots_valid(mesh_slot *slot, uint64_t version) {
    mesh_fence_acquire(); /* pairs with the release fence in mesh_slots_begin */
    return mesh_load(&slot->seq) == 2 * version;
}

/* Writer: all of it. The version, or 0 when the lease was lost. */
static inline uint64_t mesh_slots_publish(const mesh_slots *s, uint64_t lease, const void *payload,
                                          size_t bytes) {
    uint64_t version;
    mesh_slot *slot = mesh_slots_begin(s, &version);
    mesh_copy_in(mesh_slot_payload(slot), payload, bytes);
    uint64_t checksum = s->checked ? mesh_checksum(payload, bytes) : 0;
    return mesh_slots_commit(s, slot, version, lease, bytes, checksum) ? version : 0;
}

enum { MESH_NEVER_WRITTEN = 0, MESH_BUSY = -1, MESH_TOO_LONG = -2, MESH_WRONG_SUM = -3 };

/* One attempt: the version read, or MESH_NEVER_WRITTEN, MESH_BUSY, MESH_TOO_LONG (corrupt),
 * MESH_WRONG_SUM (corrupt). */
static inline int64_t mesh_slots_read(const mesh_slots *s, void *out, size_t room, size_t *bytes) {
    uint64_t version;
    mesh_slot *slot = mesh_slots_open(s, &version);
    if (version == 0) return MESH_NEVER_WRITTEN;
    if (slot == NULL) return MESH_BUSY;
    uint64_t length = mesh_load(&slot->length), checksum = mesh_load(&slot->checksum);
    if (length <= room) mesh_copy_out(out, mesh_slot_payload(slot), length);
    if (!mesh_slots_valid(slot, version)) return MESH_BUSY;
    if (length > room) return MESH_TOO_LONG;
    if (s->checked && mesh_checksum(out, length) != checksum) return MESH_WRONG_SUM;
    *bytes = length;
    return (int64_t)version;
}

#endif
