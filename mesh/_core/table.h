/* Rows found by a key of up to 32 bytes; each row is a value in two slots (seqlock.h).
 *
 * One writer adds rows: key first, then the row count, then the index entry. Killed in between,
 * it leaves a row without an index entry, which the next writer inserts (mesh_table_repair); a
 * row without a value is not yet a row to readers. Rows are never removed. Each row carries the
 * lease of its writer and is published by a compare-and-swap of both: a fenced-off writer cannot
 * commit to a row that the next writer has claimed. */
#ifndef MESH_TABLE_H
#define MESH_TABLE_H

#include "atomics.h"
#include "layout.h"
#include "lease.h"
#include "seqlock.h"

typedef struct {
    mesh_control *control;
    uint32_t *index;     /* NULL for heartbeats: their few rows are searched one by one */
    uint64_t index_size; /* a power of two, at least twice the rows */
    uint8_t *rows;
    uint64_t row_stride;
    uint64_t slot_stride;
    uint64_t capacity;
    int checked; /* values carry a checksum */
} mesh_table;

static inline mesh_row *mesh_row_of(const mesh_table *t, uint64_t row) {
    return (mesh_row *)(void *)(t->rows + row * t->row_stride);
}

static inline mesh_slots mesh_row_slots(const mesh_table *t, uint64_t row) {
    mesh_row *head = mesh_row_of(t, row);
    mesh_slots slots = {&head->version, (uint8_t *)head + sizeof *head, t->slot_stride, 2,
                        t->checked};
    return slots;
}

static inline uint64_t mesh_key_hash(const uint8_t key[MESH_KEY_BYTES]) {
    uint64_t h = UINT64_C(0x9E3779B97F4A7C15);
    for (size_t i = 0; i < MESH_KEY_BYTES; i += 8) {
        uint64_t w;
        memcpy(&w, key + i, 8);
        h = (h ^ w) * UINT64_C(0xFF51AFD7ED558CCD);
        h ^= h >> 32;
    }
    return h;
}

static inline int mesh_row_has_key(const mesh_table *t, uint64_t row, const uint8_t *key,
                                   uint64_t hash) {
    uint8_t found[MESH_KEY_BYTES];
    if (mesh_load(&mesh_row_of(t, row)->key_hash) != hash) return 0;
    mesh_copy_out(found, mesh_row_of(t, row)->key, MESH_KEY_BYTES);
    return memcmp(found, key, MESH_KEY_BYTES) == 0;
}

/* The row of a key, or -1. */
static inline int64_t mesh_table_find(const mesh_table *t, const uint8_t *key) {
    uint64_t mask = t->index_size - 1, hash = mesh_key_hash(key);
    uint64_t at = hash & mask;
    for (uint64_t probe = 0; probe < t->index_size; probe++, at = (at + 1) & mask) {
        uint32_t entry = mesh_load32_acquire(&t->index[at]); /* pairs with mesh_table_insert */
        if (entry == 0) return -1;
        if (entry <= t->capacity && mesh_row_has_key(t, entry - 1, key, hash)) return entry - 1;
    }
    return -1;
}

/* 0 = no entry is free, which only corruption can bring about: there are twice as many as rows. */
static inline int mesh_table_insert(const mesh_table *t, const uint8_t *key, uint64_t row) {
    uint64_t mask = t->index_size - 1;
    uint64_t at = mesh_key_hash(key) & mask;
    for (uint64_t probe = 0; probe < t->index_size; probe++, at = (at + 1) & mask) {
        if (mesh_load32(&t->index[at]) != 0) continue;
        mesh_store32_release(&t->index[at], (uint32_t)(row + 1)); /* pairs with mesh_table_find */
        return 1;
    }
    return 0;
}

static inline uint64_t mesh_table_rows(const mesh_table *t) {
    uint64_t rows = mesh_load_acquire(&t->control->rows); /* pairs with mesh_table_add */
    return rows < t->capacity ? rows : t->capacity;
}

/* Writer: a new row for a key that has none, committed to with `lease`. -1 = the table is full. */
static inline int64_t mesh_table_add(const mesh_table *t, const uint8_t *key, uint64_t lease) {
    uint64_t row = mesh_load(&t->control->rows);
    if (row >= t->capacity) return -1;
    mesh_copy_in(mesh_row_of(t, row)->key, key, MESH_KEY_BYTES);
    mesh_store(&mesh_row_of(t, row)->key_hash, mesh_key_hash(key));
    mesh_row_fence(mesh_row_of(t, row), lease);
    mesh_store_release(&t->control->rows, row + 1); /* pairs with mesh_table_rows */
    if (t->index != NULL) (void)mesh_table_insert(t, key, row);
    return (int64_t)row;
}

/* Next writer: shut the former one out of every row, and index what it added but did not index.
 * 0 = the index is corrupt. */
static inline int mesh_table_repair(const mesh_table *t, uint64_t lease) {
    uint64_t rows = mesh_table_rows(t);
    for (uint64_t row = 0; row < rows; row++) {
        const uint8_t *key = mesh_row_of(t, row)->key;
        mesh_row_fence(mesh_row_of(t, row), lease);
        if (mesh_table_find(t, key) < 0 && !mesh_table_insert(t, key, row)) return 0;
    }
    return 1;
}

#endif
