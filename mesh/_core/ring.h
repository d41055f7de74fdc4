/* A broadcast ring of fixed-size records, and the writer's state committed with them.
 *
 * Serves I5 (no loss, no repeat), I1 and I2. `intent` is raised before records are overwritten,
 * `published` after the new ones are whole. A reader copies first and then asks whether intent
 * passed what it copied: it learns exactly which records were overwritten. A writer killed
 * between the two leaves `published` as it was: the records in between do not exist, and the next
 * writer writes them again. Intent never falls, for what a dead writer scribbled over stays lost.
 *
 * The journal holds a small state of the writer (consumed offsets, portfolios) that becomes valid
 * in the same instant as the records published with it: an entry counts only if its tail is not
 * beyond `published`. That is what makes "exactly once into the ring" possible across kill -9. */
#ifndef MESH_RING_H
#define MESH_RING_H

#include "atomics.h"
#include "layout.h"

typedef struct {
    mesh_control *control;
    uint8_t *records;
    uint8_t *journal; /* NULL where there is no state */
    uint64_t stride;
    uint64_t record_size;
    uint64_t capacity;
    uint64_t state_size;
} mesh_ring;

static inline uint64_t mesh_round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static inline uint64_t mesh_journal_stride(uint64_t state_size) {
    return mesh_round_up(sizeof(mesh_journal) + state_size, MESH_LINE);
}

static inline mesh_journal *mesh_journal_of(const mesh_ring *r, uint64_t n) {
    return (mesh_journal *)(void *)(r->journal + (n & 1) * mesh_journal_stride(r->state_size));
}

/* Copy `count` records into (or out of) the ring from sequence on, at most two runs. */
static inline void mesh_ring_copy(const mesh_ring *r, uint64_t sequence, uint64_t count,
                                  uint8_t *outside, int in) {
    while (count > 0) {
        uint64_t slot = sequence % r->capacity;
        uint64_t run = r->capacity - slot < count ? r->capacity - slot : count;
        uint8_t *shared = r->records + slot * r->stride;
        if (r->stride == r->record_size) {
            if (in) mesh_copy_in(shared, outside, run * r->stride);
            else mesh_copy_out(outside, shared, run * r->stride);
            outside += run * r->record_size;
        } else {
            for (uint64_t i = 0; i < run; i++, shared += r->stride, outside += r->record_size) {
                if (in) mesh_copy_in(shared, outside, r->record_size);
                else mesh_copy_out(outside, shared, r->record_size);
            }
        }
        sequence += run;
        count -= run;
    }
}

/* Writer: put the state where it becomes valid together with `tail`. `n` counts the journal. */
static inline void mesh_journal_write(const mesh_ring *r, uint64_t n, uint64_t tail,
                                      const void *state, uint64_t length) {
    mesh_journal *entry = mesh_journal_of(r, n);
    mesh_store(&entry->begin, n);
    mesh_fence_release(); /* pairs with the acquire fence in mesh_journal_read */
    mesh_store(&entry->tail, tail);
    mesh_store(&entry->length, length);
    mesh_copy_in((uint8_t *)entry + sizeof *entry, state, length);
    mesh_store_release(&entry->end, n); /* pairs with the acquire load in mesh_journal_read */
}

/* Writer, first half: raise intent and copy `count` <= capacity records behind the published ones. */
static inline uint64_t mesh_ring_write(const mesh_ring *r, const void *records, uint64_t count) {
    uint64_t tail = mesh_load(&r->control->published);
    uint64_t next = tail + count;
    if (next > mesh_load(&r->control->intent)) mesh_store(&r->control->intent, next);
    mesh_fence_release(); /* pairs with the acquire fence in mesh_ring_oldest: intent before data */
    mesh_ring_copy(r, tail, count, (uint8_t *)(uintptr_t)records, 1);
    return next;
}

/* Writer, second half: everything before `next` is published. */
static inline void mesh_ring_commit(const mesh_ring *r, uint64_t next) {
    mesh_store_release(&r->control->published, next); /* pairs with mesh_ring_published */
}

static inline uint64_t mesh_ring_published(const mesh_ring *r) {
    return mesh_load_acquire(&r->control->published);
}

/* Oldest sequence that can be trusted, as of what was copied before this call. */
static inline uint64_t mesh_ring_oldest(const mesh_ring *r) {
    mesh_fence_acquire(); /* pairs with the release fence in mesh_ring_publish */
    uint64_t intent = mesh_load(&r->control->intent);
    return intent > r->capacity ? intent - r->capacity : 0;
}

/* Is the ring's control what a writer can have left? Anything else is corruption. */
static inline int mesh_ring_sane(const mesh_ring *r, uint64_t tail) {
    mesh_fence_acquire();
    uint64_t intent = mesh_load(&r->control->intent);
    return intent >= tail;
}

/* Reader or next writer: copy the newest valid state; its journal number, 0 = none, -1 = busy. */
static inline int64_t mesh_journal_read(const mesh_ring *r, void *out, uint64_t *length) {
    uint64_t best = 0;
    uint64_t tail = mesh_ring_published(r);
    for (uint64_t i = 0; i < 2; i++) {
        mesh_journal *entry = mesh_journal_of(r, i);
        uint64_t n = mesh_load_acquire(&entry->end);
        if (n > best && mesh_load(&entry->begin) == n && mesh_load(&entry->tail) <= tail) best = n;
    }
    if (best == 0) return 0;
    mesh_journal *entry = mesh_journal_of(r, best);
    *length = mesh_load(&entry->length);
    if (*length <= r->state_size) mesh_copy_out(out, (uint8_t *)entry + sizeof *entry, *length);
    mesh_fence_acquire(); /* pairs with the release fence in mesh_journal_write */
    if (mesh_load(&entry->begin) != best || mesh_load(&entry->end) != best) return -1;
    return *length <= r->state_size ? (int64_t)best : -1;
}

/* Next writer: forget a state whose records never became visible, lest they do later. */
static inline void mesh_journal_repair(const mesh_ring *r) {
    uint64_t tail = mesh_ring_published(r);
    for (uint64_t i = 0; i < 2; i++) {
        mesh_journal *entry = mesh_journal_of(r, i);
        if (mesh_load(&entry->tail) > tail || mesh_load(&entry->begin) != mesh_load(&entry->end)) {
            mesh_store(&entry->end, 0);
            mesh_fence_release();
            mesh_store(&entry->tail, 0);
        }
    }
}

#endif
