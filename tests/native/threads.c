/* One writer, readers and lock owners as threads, so that the sanitizers see every access.
 *
 * Usage: threads ITERATIONS. Exit code 1 and a line if a value was torn, a record lost or repeated,
 * or two threads were in the lock. -DSEED=1 copies the payload without atomics, -DSEED=2 frees the
 * lock without a release: what ThreadSanitizer must find. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "futex.h"
#include "lease.h"
#include "ring.h"
#include "seqlock.h"
#include "spinlock.h"
#include "table.h"
#include "tensors.h"

#ifndef SEED
#define SEED 0
#endif
#define SIZE 65536u
#define DATA 4096u
#define JOURNAL 2048u
#define WORDS 9u /* of a value */
#define ARRAY 700u
#define CAPACITY 64u
#define KEYS 5u

static uint8_t *cells, *rings, *tables, *arrays_segment, *lock_page;
static uint64_t iterations, failures, done; /* `done` through the core's atomics */
static uint64_t counter;                    /* plain: the lock is what protects it */

static mesh_control *control(uint8_t *segment) {
    return (mesh_control *)(void *)(segment + MESH_CONTROL_OFFSET);
}
static mesh_readers *readers(uint8_t *segment) {
    return (mesh_readers *)(void *)(segment + SIZE - MESH_PAGE);
}
static mesh_slots cell(void) {
    return (mesh_slots){&control(cells)->published, cells + DATA, 256, 2, 1};
}
static mesh_slots tensors(void) {
    return (mesh_slots){&control(arrays_segment)->published, arrays_segment + DATA, 8192, 3, 1};
}
static mesh_ring ring(int checked) {
    return (mesh_ring){
        control(rings), rings + DATA, rings + JOURNAL, 8 * WORDS + 8, 8 * WORDS, CAPACITY, 8,
        checked};
}
static mesh_table table(void) {
    return (mesh_table){control(tables),
                        (uint32_t *)(void *)(tables + JOURNAL),
                        16,
                        tables + DATA,
                        64 + 2 * 128,
                        128,
                        8,
                        0};
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    mesh_add(&failures, 1);
}
static void fill(uint64_t *to, uint64_t words, uint64_t n) {
    for (uint64_t i = 0; i < words; i++) to[i] = n;
}
static int same(const uint64_t *from, uint64_t words, uint64_t n) {
    for (uint64_t i = 0; i < words; i++)
        if (from[i] != n) return 0;
    return 1;
}

static void write_cell(const uint64_t *value, uint64_t lease) {
    mesh_slots s = cell();
#if SEED == 1
    uint64_t version;
    mesh_slot *slot = mesh_slots_begin(&s, &version);
    for (size_t i = 0; i < WORDS; i++) ((uint64_t *)(void *)mesh_slot_payload(slot))[i] = value[i];
    (void)mesh_slots_commit(&s, slot, version, lease, 8 * WORDS, mesh_checksum(value, 8 * WORDS));
#else
    if (mesh_slots_publish(&s, lease, value, 8 * WORDS) == 0) fail("the lease was lost");
#endif
    mesh_wake_waiting(&readers(cells)->waiting, s.version);
}

static void write_table(uint64_t n, uint64_t lease) {
    uint64_t value[WORDS];
    uint8_t key[MESH_KEY_BYTES] = {(uint8_t)('a' + n % KEYS)};
    mesh_table t = table();
    int64_t row = mesh_table_find(&t, key);
    if (row < 0) row = mesh_table_add(&t, key, lease);
    mesh_slots s = mesh_row_slots(&t, (uint64_t)row);
    fill(value, WORDS, mesh_load(s.version) + 1);
    if (mesh_slots_publish(&s, lease, value, 8 * WORDS) == 0) fail("the row was lost");
}

static void *writer(void *unused) {
    (void)unused;
    static uint64_t first[ARRAY], second[WORDS];
    void *data[2] = {first, second};
    size_t bytes[2] = {sizeof first, sizeof second};
    mesh_arrays a = {data, bytes, 2,
                     mesh_array_room(sizeof first) + mesh_array_room(sizeof second)};
    mesh_ring r = ring(1);
    mesh_slots t = tensors();
    uint64_t epoch = 1, lease = 2;
    for (uint64_t n = 1; n <= iterations; n++) {
        uint64_t value[WORDS], batch[3 * WORDS];
        if (n % 1000 == 0) { /* the next writer: nothing may change for the readers */
            epoch = mesh_lease_set(control(cells), 1, n, 1);
            (void)mesh_lease_set(control(rings), 1, n, 1);
            (void)mesh_lease_set(control(tables), 1, n, 1);
            (void)mesh_lease_set(control(arrays_segment), 1, n, 1);
            lease = epoch << 1;
            mesh_table again = table();
            (void)mesh_table_repair(&again, lease);
        }
        fill(value, WORDS, n);
        write_cell(value, lease);
        uint64_t tail = mesh_load(&control(rings)->published), count = n % 3 + 1;
        for (uint64_t i = 0; i < count; i++) fill(batch + i * WORDS, WORDS, tail + i);
        uint64_t next = mesh_ring_write(&r, batch, count);
        uint64_t turn = mesh_journal_write(&r, n, next, &next, 8);
        if (!mesh_ring_commit(&r, epoch, next, count, turn)) fail("the ring was lost");
        mesh_wake_waiting(&readers(rings)->waiting, &control(rings)->published);
        write_table(n, lease);
        fill(first, ARRAY, n);
        fill(second, WORDS, n);
        if (mesh_arrays_publish(&t, lease, &a) == 0) fail("the tensors were lost");
    }
    mesh_store_release(&done, 1);
    return NULL;
}

static void read_cell(uint64_t *last) {
    uint64_t value[WORDS];
    size_t bytes;
    mesh_slots s = cell();
    int64_t version = mesh_slots_read(&s, value, sizeof value, &bytes);
    if (version == MESH_BUSY || version == MESH_NEVER_WRITTEN) return;
    if (version < 0 || !same(value, WORDS, (uint64_t)version))
        fail("torn cell");
    else if ((uint64_t)version < *last)
        fail("the cell went back");
    else
        *last = (uint64_t)version;
}

static void read_ring(uint64_t *sequence) {
    uint64_t batch[16 * WORDS], state = 0, length = 0;
    mesh_ring r = ring(1);
    uint64_t tail = mesh_ring_published(&r);
    if (!mesh_ring_sane(&r, tail)) fail("the ring contradicts itself");
    uint64_t oldest = mesh_ring_oldest(&r);
    if (*sequence < oldest) *sequence = oldest < tail ? oldest : tail;
    uint64_t count = tail - *sequence < 16 ? tail - *sequence : 16;
    uint64_t wrong = mesh_ring_copy(&r, *sequence, count, (uint8_t *)batch, 0);
    oldest = mesh_ring_oldest(&r);
    if (wrong > oldest) fail("wrong checksum in the ring");
    for (uint64_t i = 0; i < count; i++)
        if (*sequence + i >= oldest && !same(batch + i * WORDS, WORDS, *sequence + i))
            fail("torn or misplaced record");
    *sequence += count;
    if (mesh_journal_read(&r, &state, &length) > 0 && state < tail && tail <= CAPACITY)
        fail("the state is older than the records");
}

static void read_table(void) {
    uint64_t value[WORDS];
    size_t bytes;
    mesh_table t = table();
    for (uint64_t k = 0; k < KEYS; k++) {
        uint8_t key[MESH_KEY_BYTES] = {(uint8_t)('a' + k)};
        int64_t row = mesh_table_find(&t, key);
        if (row < 0) continue;
        mesh_slots s = mesh_row_slots(&t, (uint64_t)row);
        int64_t version = mesh_slots_read(&s, value, sizeof value, &bytes);
        if (version > 0 && !same(value, WORDS, (uint64_t)version)) fail("torn row");
    }
}

static void read_tensors(void) {
    uint64_t first[ARRAY], second[WORDS], version;
    void *data[2] = {first, second};
    size_t bytes[2] = {sizeof first, sizeof second};
    mesh_arrays a = {data, bytes, 2, 0};
    mesh_slots s = tensors();
    mesh_slot *slot = mesh_slots_open(&s, &version);
    if (slot == NULL) return;
    uint64_t expected = mesh_load(&slot->checksum);
    uint64_t found = mesh_arrays_copy(&a, mesh_slot_payload(slot), 0);
    if (!mesh_slots_valid(slot, version)) return;
    if (found != expected || !same(first, ARRAY, version) || !same(second, WORDS, version))
        fail("a mix of tensors");
}

static void *reader(void *unused) {
    (void)unused;
    uint64_t last = 0, sequence = 0;
    mesh_owner owner;
    while (mesh_load_acquire(&done) == 0) {
        read_cell(&last);
        read_ring(&sequence);
        read_table();
        read_tensors();
        (void)mesh_lease_get(control(cells), &owner);
    }
    return NULL;
}

/* Sleeps for each new value: a lost wake would show as a test that takes for ever. */
static void *sleeper(void *unused) {
    (void)unused;
    mesh_readers *page = readers(cells);
    const uint64_t *word = &control(cells)->published;
    while (mesh_load_acquire(&done) == 0) {
        mesh_announce_wait(&page->waiting);
        (void)mesh_futex_wait((const uint32_t *)(const void *)word,
                              (uint32_t)mesh_load_acquire(word), 1000000);
    }
    return NULL;
}

static void *locker(void *argument) {
    mesh_lock *lock = (mesh_lock *)(void *)lock_page;
    uint32_t index = (uint32_t)(uintptr_t)argument;
    uint8_t name[MESH_KEY_BYTES] = "locker";
    (void)mesh_lock_claim(lock, index, index + 100, 1, name);
    for (uint64_t n = 0; n < iterations; n++) {
        uint64_t held = 0;
        if (!mesh_lock_acquire(lock, index, INT64_MAX, 10000000, &held)) fail("no lock");
        counter++;
#if SEED == 2
        mesh_store(&lock->word, ((held >> 32) + 1) << 32);
#else
        if (!mesh_lock_free(lock, held)) fail("the lock was not ours");
#endif
    }
    return NULL;
}

static uint8_t *page(void) {
    uint8_t *memory = aligned_alloc(MESH_PAGE, SIZE);
    if (memory == NULL) exit(71);
    memset(memory, 0, SIZE);
    (void)mesh_lease_set(control(memory), 1, 1, 1);
    return memory;
}

int main(int count, char **arguments) {
    iterations = count > 1 ? strtoull(arguments[1], NULL, 10) : 20000;
    cells = page(), rings = page(), tables = page(), arrays_segment = page(), lock_page = page();
    memset(lock_page, 0, SIZE);
    void *(*bodies[])(void *) = {writer, reader, reader, sleeper, locker, locker, locker};
    pthread_t threads[sizeof bodies / sizeof *bodies];
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        pthread_create(&threads[i], NULL, bodies[i], (void *)(uintptr_t)i);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) pthread_join(threads[i], NULL);
    if (counter != 3 * iterations) fail("two threads were in the lock");
    free(cells), free(rings), free(tables), free(arrays_segment), free(lock_page);
    printf("%llu iterations, %llu failures\n", (unsigned long long)iterations,
           (unsigned long long)failures);
    return failures != 0;
}
