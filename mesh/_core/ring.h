/* A broadcast ring of fixed-size records, and the writer's state committed with them.
 *
 * Serves I5 (no loss, no repeat), I1 and I2. `intent` is raised before records are overwritten,
 * `published` after the new ones are whole. A reader copies first and then asks whether intent
 * passed what it copied: it learns exactly which records were overwritten. A writer killed
 * between the two leaves `published` as it was: the records in between do not exist, and the next
 * writer writes them again. Intent never falls, for what a dead writer scribbled over stays lost.
 *
 * The journal holds a small state of the writer (consumed offsets, portfolios) in two entries. The
 * new state goes to the entry that is not in force; the compare-and-swap that publishes the
 * records turns the bit that says which entry is. State and records are published by one
 * instruction, which is what makes "exactly once into the ring" possible across kill -9. */
#ifndef MESH_RING_H
#define MESH_RING_H

#include "atomics.h"
#include "checksum.h"
#include "layout.h"

typedef struct {
    mesh_control *control;
    uint8_t *records;
    uint8_t *journal; /* NULL where there is no state */
    uint64_t stride;
    uint64_t record_size;
    uint64_t capacity;
    uint64_t state_size;
    int checked; /* each record is followed by its checksum, at the end of the stride */
} mesh_ring;

static inline uint64_t mesh_round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static inline uint64_t mesh_journal_stride(uint64_t state_size) {
    return mesh_round_up(sizeof(mesh_journal) + state_size, MESH_LINE);
}

static inline mesh_journal *mesh_journal_of(const mesh_ring *r, uint64_t which) {
    return (mesh_journal *)(void *)(r->journal + (which & 1) * mesh_journal_stride(r->state_size));
}

static inline uint64_t *mesh_record_sum(const mesh_ring *r, uint8_t *shared) {
    return (uint64_t *)(void *)(shared + r->stride - 8);
}

/* The sequence goes into the sum: a whole record in the place of another one is noticed, too. */
static inline uint64_t mesh_sum_of(const mesh_ring *r, const uint8_t *record, uint64_t sequence) {
    return mesh_checksum(record, r->record_size) ^ (sequence + 1) * UINT64_C(0x9E3779B97F4A7C15);
}

/* One record at a time: for records that are padded or checked. Reading gives the last sequence
 * with a wrong checksum + 1, or 0. */
static inline uint64_t mesh_ring_copy_each(const mesh_ring *r, uint64_t sequence, uint64_t run,
                                           uint8_t *shared, uint8_t *outside, int in) {
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < run; i++, shared += r->stride, outside += r->record_size) {
        if (in)
            mesh_copy_in(shared, outside, r->record_size);
        else
            mesh_copy_out(outside, shared, r->record_size);
        if (!r->checked) continue;
        uint64_t sum = mesh_sum_of(r, outside, sequence + i);
        if (in)
            mesh_store(mesh_record_sum(r, shared), sum);
        else if (mesh_load(mesh_record_sum(r, shared)) != sum)
            wrong = sequence + i + 1;
    }
    return wrong;
}

/* Copy `count` records into (or out of) the ring from sequence on, at most two runs. Reading gives
 * the last sequence with a wrong checksum + 1, or 0. */
static inline uint64_t mesh_ring_copy(const mesh_ring *r, uint64_t sequence, uint64_t count,
                                      uint8_t *outside, int in) {
    uint64_t wrong = 0;
    while (count > 0) {
        uint64_t slot = sequence % r->capacity;
        uint64_t run = r->capacity - slot < count ? r->capacity - slot : count;
        uint8_t *shared = r->records + slot * r->stride;
        if (r->stride != r->record_size) {
            uint64_t found = mesh_ring_copy_each(r, sequence, run, shared, outside, in);
            if (found != 0) wrong = found;
        } else if (in)
            mesh_copy_in(shared, outside, run * r->stride);
        else
            mesh_copy_out(outside, shared, run * r->stride);
        outside += run * r->record_size;
        sequence += run;
        count -= run;
    }
    return wrong;
}

/* Writer: put state number `n` where it comes into force with the records up to `tail`. Gives what
 * to turn in the lease. */
static inline uint64_t mesh_journal_write(const mesh_ring *r, uint64_t n, uint64_t tail,
                                          const void *state, uint64_t length) {
    mesh_journal *entry = mesh_journal_of(r, mesh_load(&r->control->lease) + 1);
    mesh_store(&entry->seq, 2 * n - 1);
    mesh_fence_release(); /* pairs with the acquire fence in mesh_journal_read */
    mesh_store(&entry->tail, tail);
    mesh_store(&entry->length, length);
    mesh_copy_in((uint8_t *)entry + sizeof *entry, state, length);
    mesh_store_release(&entry->seq, 2 * n); /* pairs with the acquire load in mesh_journal_read */
    return 1;
}

/* Writer, first half: raise intent and copy `count` <= capacity records behind the published ones. */
static inline uint64_t mesh_ring_write(const mesh_ring *r, const void *records, uint64_t count) {
    uint64_t tail = mesh_load(&r->control->published);
    uint64_t next = tail + count;
    if (next > mesh_load(&r->control->intent)) mesh_store(&r->control->intent, next);
    mesh_fence_release(); /* pairs with the acquire fence in mesh_ring_oldest: intent before data */
    (void)mesh_ring_copy(r, tail, count, (uint8_t *)(uintptr_t)records, 1);
    return next;
}

/* Writer, second half: the `count` records before `next` are published, and `turn` the journal's
 * bit. 0 = the lease (of that epoch) is not ours any more, nothing happened. */
static inline int mesh_ring_commit(const mesh_ring *r, uint64_t epoch, uint64_t next,
                                   uint64_t count, uint64_t turn) {
    uint64_t lease = epoch << 1 | (mesh_load(&r->control->lease) & 1);
    return mesh_cas_pair(&r->control->published, next - count, lease, next,
                         lease ^ turn); /* pairs with the acquire in mesh_ring_published */
}

static inline uint64_t mesh_ring_published(const mesh_ring *r) {
    return mesh_load_acquire(&r->control->published);
}

/* Oldest sequence that can be trusted, as of what was copied before this call. */
static inline uint64_t mesh_ring_oldest(const mesh_ring *r) {
    mesh_fence_acquire(); /* pairs with the release fence in mesh_ring_write */
    uint64_t intent = mesh_load(&r->control->intent);
    return intent > r->capacity ? intent - r->capacity : 0;
}

/* Is the ring's control what a writer can have left? Anything else is corruption. */
static inline int mesh_ring_sane(const mesh_ring *r, uint64_t tail) {
    mesh_fence_acquire();
    uint64_t intent = mesh_load_acquire(&r->control->intent);
    /* raised by one batch at most above what was published then, or later */
    return intent >= tail && intent <= mesh_ring_published(r) + r->capacity;
}

/* Reader or next writer: copy the newest state; its number, 0 = none, -1 = try again. */
static inline int64_t mesh_journal_read(const mesh_ring *r, void *out, uint64_t *length) {
    uint64_t which = mesh_load_acquire(&r->control->lease) & 1; /* pairs with mesh_ring_commit */
    mesh_journal *entry = mesh_journal_of(r, which);
    uint64_t seq = mesh_load_acquire(&entry->seq);
    if (seq == 0) return 0;
    *length = mesh_load(&entry->length);
    if (*length <= r->state_size) mesh_copy_out(out, (uint8_t *)entry + sizeof *entry, *length);
    mesh_fence_acquire(); /* pairs with the release fence in mesh_journal_write */
    /* first: still (or again) in force? Then: is it what was read all the time up to here? In the
     * other order a dead writer's state could pass, and the next writer turn the bit afterwards. */
    if ((mesh_load_acquire(&r->control->lease) & 1) != which) return -1;
    if (seq % 2 != 0 || mesh_load(&entry->seq) != seq) return -1;
    return *length <= r->state_size ? (int64_t)(seq / 2) : -1;
}

/* Next writer: the highest number either entry was ever opened with; the next state gets a higher
 * one, so that no reader mistakes an entry that was written again for the one it began to read. */
static inline uint64_t mesh_journal_last(const mesh_ring *r) {
    uint64_t a = mesh_load(&mesh_journal_of(r, 0)->seq), b = mesh_load(&mesh_journal_of(r, 1)->seq);
    return ((a > b ? a : b) + 1) / 2;
}

#endif
