/* What the hardware allows: the mesh's own core called from C, without Python, and plain memcpy.
 *
 * A shared library: the bench calls it in the two processes that run ours, on the very segment that
 * ours uses, and lets both take turns. A virtual machine's processors move about its host, and with
 * them the way from one to the other (here between 30 and 600 million records a second): only
 * what was measured in the same moments can be compared. */
#define _GNU_SOURCE
#include "futex.h"
#include "ring.h"
#include "seqlock.h"

#define RECORD 64u

static mesh_control *control(uint8_t *segment) {
    return (mesh_control *)(void *)(segment + MESH_CONTROL_OFFSET);
}
static const mesh_identity *identity(const uint8_t *segment) {
    return (const mesh_identity *)(const void *)segment;
}
static mesh_readers *readers(uint8_t *segment) {
    return (mesh_readers *)(void *)(segment + identity(segment)->readers_offset);
}
static mesh_slots cell(uint8_t *segment) {
    const mesh_identity *i = identity(segment);
    return (mesh_slots){&control(segment)->published, segment + i->data_offset, i->stride, i->slots,
                        0};
}
static mesh_ring ring(uint8_t *segment) {
    const mesh_identity *i = identity(segment);
    return (mesh_ring){control(segment),
                       segment + i->data_offset,
                       NULL,
                       i->stride,
                       i->record_size,
                       i->capacity,
                       0,
                       0};
}

static void publish(uint8_t *segment, const void *record) {
    mesh_slots s = cell(segment);
    (void)mesh_slots_publish(&s, mesh_load(&control(segment)->lease), record, RECORD);
    mesh_wake_waiting(&readers(segment)->waiting, s.version);
}

void limit_write(uint8_t *segment, uint64_t calls) {
    uint64_t record[RECORD / 8] = {0};
    for (; calls > 0; calls--) {
        record[0]++;
        publish(segment, record);
    }
}

void limit_read(uint8_t *segment, uint64_t calls) {
    mesh_slots s = cell(segment);
    uint64_t out[RECORD / 8];
    size_t bytes;
    for (; calls > 0; calls--) {
        (void)mesh_slots_read(&s, out, sizeof out, &bytes);
        __asm__ volatile("" : : "r"(out) : "memory");
    }
}

/* Publish the time every `gap_ns` until *done is above `turn`. */
void limit_send(uint8_t *segment, int64_t gap_ns, const uint64_t *done, uint64_t turn) {
    while (mesh_load_acquire(done) <= turn) {
        int64_t until = mesh_monotonic_ns() + gap_ns;
        while (mesh_monotonic_ns() < until) mesh_relax();
        uint64_t record[RECORD / 8] = {(uint64_t)mesh_monotonic_ns()};
        publish(segment, record);
    }
}

/* `samples` one-way delays, ns: polling, or asleep on the futex. */
void limit_receive(uint8_t *segment, int sleeping, uint64_t samples, int64_t *delays) {
    mesh_slots s = cell(segment);
    uint64_t record[RECORD / 8], last = mesh_load_acquire(s.version);
    size_t bytes;
    for (uint64_t n = 0; n < samples;) {
        uint64_t now = mesh_load_acquire(s.version);
        if (now <= last) {
            if (!sleeping) continue;
            mesh_announce_wait(&readers(segment)->waiting);
            now = mesh_load_acquire(s.version);
            if (now <= last)
                (void)mesh_futex_wait((const uint32_t *)(const void *)s.version, (uint32_t)now,
                                      100000000);
            continue;
        }
        int64_t version = mesh_slots_read(&s, record, sizeof record, &bytes);
        if (version <= (int64_t)last) continue;
        last = (uint64_t)version;
        delays[n++] = mesh_monotonic_ns() - (int64_t)record[0];
    }
}

/* Lossless: the writer looks every 1024 records whether the reader (at *cursor) is near enough. */
void limit_publish(uint8_t *segment, const uint8_t *records, uint64_t batch, uint64_t total,
                   const uint64_t *cursor) {
    mesh_ring r = ring(segment);
    uint64_t first = mesh_ring_published(&r), epoch = mesh_load(&control(segment)->lease) >> 1;
    for (uint64_t n = 0; n < total; n += batch) {
        if (n % 1024 == 0)
            while (first + n - mesh_load_acquire(cursor) > r.capacity - 2048) mesh_relax();
        uint64_t next = mesh_ring_write(&r, records, batch);
        (void)mesh_ring_commit(&r, epoch, next, batch, 0);
        mesh_wake_waiting(&readers(segment)->waiting, &r.control->published);
    }
}

/* Copy `total` records out, at most `room` at a time; how many were lost. */
uint64_t limit_follow(uint8_t *segment, uint8_t *out, uint64_t room, uint64_t total,
                      uint64_t *cursor) {
    mesh_ring r = ring(segment);
    uint64_t sequence = mesh_load(cursor), end = sequence + total, lost = 0;
    while (sequence < end) {
        uint64_t count = mesh_ring_published(&r) - sequence;
        if (count > room) count = room;
        (void)mesh_ring_copy(&r, sequence, count, out, 0);
        uint64_t oldest = mesh_ring_oldest(&r);
        if (oldest > sequence) lost += oldest - sequence;
        sequence += count;
        mesh_store_release(cursor, sequence);
    }
    return lost;
}

/* `bytes` copied `calls` times, to one of three places in turn, as tensors are published. */
void limit_copy(uint8_t *to, const uint8_t *from, uint64_t bytes, uint64_t calls) {
    for (uint64_t n = 0; n < calls; n++) {
        memcpy(to + n % 3 * bytes, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
}
