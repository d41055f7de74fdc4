/* Heartbeat rows: each a value in two slots (seqlock.h) that belongs to one live process.
 *
 * Serves I1 and I2. A row whose process is dead may get another name. It is nobody's in between:
 * first a beat without a process is published, then the key changes, then the new process beats.
 * A reader takes beat and key of one version or tries again, so that nobody's pulse is read under
 * another name; killed anywhere, the row is the dead process's, nobody's, or the new one's. Claims
 * are made under the directory's lock; whether the former process lives is judged in Python. */
#ifndef MESH_HEARTBEAT_H
#define MESH_HEARTBEAT_H

#include "table.h"

/* One attempt at a row: its version, MESH_BUSY, or another negative one (corrupt). A row without a
 * process has no name: it may be in the middle of getting another one. */
static inline int64_t mesh_heartbeat_read(const mesh_table *t, uint64_t row, mesh_heartbeat *b,
                                          uint8_t key[MESH_KEY_BYTES]) {
    mesh_slots slots = mesh_row_slots(t, row);
    mesh_row *head = mesh_row_of(t, row);
    size_t bytes = 0;
    int64_t version = mesh_slots_read(&slots, b, sizeof *b, &bytes);
    if (version == MESH_NEVER_WRITTEN)
        memset(b, 0, sizeof *b);
    else if (version < 0)
        return version;
    else if (bytes != sizeof *b || b->phase > 3)
        return MESH_TOO_LONG;
    mesh_copy_out(key, head->key, MESH_KEY_BYTES);
    uint64_t hash = mesh_load(&head->key_hash);
    mesh_fence_acquire(); /* pairs with the full fence of the commit in mesh_heartbeat_claim */
    if (mesh_load(&head->version) != (uint64_t)version) return MESH_BUSY;
    if (b->pid == 0)
        memset(key, 0, MESH_KEY_BYTES);
    else if (mesh_key_hash(key) != hash)
        return MESH_WRONG_SUM;
    return version;
}

/* 0 = somebody else claimed the row. */
static inline int mesh_heartbeat_publish(const mesh_table *t, uint64_t row, uint64_t lease,
                                         const mesh_heartbeat *b) {
    mesh_slots slots = mesh_row_slots(t, row);
    return mesh_slots_publish(&slots, lease, b, sizeof *b) != 0;
}

enum { MESH_HEARTBEAT_LOST = 0, MESH_HEARTBEAT_OURS = 1, MESH_HEARTBEATS_FULL = 2 };

/* Take a row (the number of rows = a new one) for `key` with the first beat of its process; its
 * lease in *lease. Who had it before is shut out. */
static inline int mesh_heartbeat_claim(const mesh_table *t, uint64_t row, const uint8_t *key,
                                       const mesh_heartbeat *first, uint64_t *lease) {
    if (row == mesh_table_rows(t) && mesh_table_add(t, key, 0) < 0) return MESH_HEARTBEATS_FULL;
    mesh_row *head = mesh_row_of(t, row);
    *lease = mesh_load(&head->lease) + 2;
    mesh_row_fence(head, *lease);
    uint64_t hash = mesh_key_hash(key);
    if (!mesh_row_has_key(t, row, key, hash)) {
        const mesh_heartbeat nobody = {0};
        if (!mesh_heartbeat_publish(t, row, *lease, &nobody)) return MESH_HEARTBEAT_LOST;
        mesh_copy_in(head->key, key, MESH_KEY_BYTES);
        mesh_store(&head->key_hash, hash);
    }
    return mesh_heartbeat_publish(t, row, *lease, first) ? MESH_HEARTBEAT_OURS
                                                         : MESH_HEARTBEAT_LOST;
}

#endif
