/* A set of arrays as one value of a segment: one after another, each at the next multiple of 64. */
#ifndef MESH_TENSORS_H
#define MESH_TENSORS_H

#include "checksum.h"
#include "seqlock.h"

typedef struct {
    void **data;
    size_t *bytes;
    size_t count;
    size_t total; /* bytes in the segment */
} mesh_arrays;

static inline size_t mesh_array_room(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* One array in or out of the segment, added to the checksum on the way. */
static inline void mesh_array_copy(void *to, const void *from, size_t bytes, int in,
                                   mesh_checksum_state *check) {
#if MESH_TSAN
    if (in)
        mesh_copy_in(to, from, bytes);
    else
        mesh_copy_out(to, from, bytes);
    mesh_checksum_update(check, in ? from : to, bytes);
#else
    (void)in;
    mesh_checksum_copy(check, to, from, bytes);
#endif
}

/* All of them in (or out); gives their checksum. */
static inline uint64_t mesh_arrays_copy(const mesh_arrays *a, uint8_t *payload, int in) {
    mesh_checksum_state check = {{0}, {0}, 0};
    for (size_t i = 0; i < a->count; i++) {
        if (in)
            mesh_array_copy(payload, a->data[i], a->bytes[i], 1, &check);
        else
            mesh_array_copy(a->data[i], payload, a->bytes[i], 0, &check);
        payload += mesh_array_room(a->bytes[i]);
    }
    return mesh_checksum_final(&check);
}

/* Writer: all arrays as the next version; the version, or 0 when the lease was lost. */
static inline uint64_t mesh_arrays_publish(const mesh_slots *s, uint64_t lease,
                                           const mesh_arrays *a) {
    uint64_t version;
    mesh_slot *slot = mesh_slots_begin(s, &version);
    uint64_t check = mesh_arrays_copy(a, mesh_slot_payload(slot), 1);
    return mesh_slots_commit(s, slot, version, lease, a->total, check) ? version : 0;
}

#endif
