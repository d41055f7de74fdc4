/* Every instruction of every write path of the core, under ptrace.
 *
 *   kill    SIGKILL at instruction k, for every k: readers get the last published or the new value
 *           whole, at the first attempt; the next writer goes on; a lock can be broken. (I1, I2, I3, I5)
 *   fence   stopped at instruction k, its lease taken, let go again: what readers see does not
 *           change any more. A reader of a heartbeat that is stopped while the row gets another
 *           name is told one of both whole, or to try again. (I1, I3)
 *
 * Usage: crash_driver kill|fence [SCENARIO]. Prints "SCENARIO: N of N" each and the sum; exit code
 * 1 if a point failed. Counted are the instructions of the write itself. For x86-64 (registers,
 * breakpoints).
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "heartbeat.h"
#include "lease.h"
#include "ring.h"
#include "seqlock.h"
#include "spinlock.h"
#include "stepping.h"
#include "table.h"
#include "tensors.h"

#define SIZE 65536u
#define DATA 4096u
#define JOURNAL 2048u
#define CAPACITY 8u
#define RECORD 24u
#define BULK 640u
#define STATE 8u
#define MAX_POINTS 20000

static uint8_t *segment, *before;
static volatile uint64_t *phase; /* 1 while the write runs */

static mesh_control *control(void) {
    return (mesh_control *)(void *)(segment + MESH_CONTROL_OFFSET);
}
static mesh_readers *readers(void) { return (mesh_readers *)(void *)(segment + SIZE - MESH_PAGE); }
static mesh_lock *lock_of(void) {
    return (mesh_lock *)(void *)((uint8_t *)readers() + MESH_LOCK_OFFSET);
}

static void fill(uint8_t *to, size_t bytes, uint64_t n) {
    for (size_t i = 0; i < bytes; i++) to[i] = (uint8_t)(n * 31 + i * 7 + 1);
}
static int filled(const uint8_t *from, size_t bytes, uint64_t n) {
    for (size_t i = 0; i < bytes; i++)
        if (from[i] != (uint8_t)(n * 31 + i * 7 + 1)) return 0;
    return 1;
}
static uint64_t lease(void) { return mesh_epoch(control()) << 1; }
static void wake(void) { mesh_wake_waiting(&readers()->waiting, &control()->published); }
static void take(uint32_t pid) { (void)mesh_lease_set(control(), pid, pid * 11, 1); }
static void begin(void) {
    memset(segment, 0, SIZE);
    take(1);
    readers()->waiting = 1; /* so that the wake is part of the path */
}

/* --- cells ----------------------------------------------------------------------------------- */

static size_t cell_bytes;
static mesh_slots cell(void) {
    return (mesh_slots){&control()->published, segment + DATA, 1024, 2, cell_bytes == BULK};
}
static void cell_write(uint64_t n) {
    uint8_t value[BULK];
    fill(value, cell_bytes, n);
    mesh_slots s = cell();
    uint64_t mine = lease();
    *phase = 1;
    (void)mesh_slots_publish(&s, mine, value, cell_bytes);
    wake();
}
static void cell_prepare(void) {
    cell_bytes = 64;
    begin();
    cell_write(1);
    readers()->waiting = 1;
}
static void bulk_prepare(void) {
    cell_bytes = BULK;
    begin();
    cell_write(1);
    readers()->waiting = 1;
}
static void cell_path(void) { cell_write(2); }
static const char *cell_holds(uint64_t low, uint64_t high) {
    uint8_t value[BULK];
    size_t bytes = 0;
    mesh_slots s = cell();
    int64_t version = mesh_slots_read(&s, value, cell_bytes, &bytes);
    if (version < (int64_t)low || version > (int64_t)high) return "no value at the first attempt";
    return bytes == cell_bytes && filled(value, bytes, (uint64_t)version) ? NULL : "torn value";
}
static const char *cell_check(void) {
    const char *problem = cell_holds(1, 2);
    if (problem != NULL) return problem;
    uint64_t next = control()->published + 1;
    take(2);
    cell_write(next);
    return cell_holds(next, next) == NULL ? NULL : "the next writer does not go on";
}

/* --- rings ----------------------------------------------------------------------------------- */

static int ring_checked;
static mesh_ring ring(void) {
    uint64_t stride = RECORD + (ring_checked ? 8 : 0);
    return (mesh_ring){control(), segment + DATA, segment + JOURNAL, stride, RECORD,
                       CAPACITY,  STATE,          ring_checked};
}
static void ring_publish(uint64_t count, int state) {
    uint8_t records[CAPACITY * RECORD];
    mesh_ring r = ring();
    uint64_t tail = control()->published, n = mesh_journal_last(&r) + 1, turn = 0;
    uint64_t position = tail + count + (count == 0 ? 1000 : 0), epoch = mesh_epoch(control());
    for (uint64_t i = 0; i < count; i++) fill(records + i * RECORD, RECORD, tail + i);
    *phase = 1;
    uint64_t next = mesh_ring_write(&r, records, count);
    if (state) turn = mesh_journal_write(&r, n, next, &position, STATE);
    if (mesh_ring_commit(&r, epoch, next, count, turn)) wake();
}
static void ring_prepare(void) {
    ring_checked = 0;
    begin();
    ring_publish(6, 1);
    readers()->waiting = 1;
}
static void checked_prepare(void) {
    ring_checked = 1;
    begin();
    ring_publish(6, 1);
    readers()->waiting = 1;
}
static void ring_one(void) { ring_publish(1, 0); }
static void ring_wrap(void) { ring_publish(5, 0); }
static void ring_wrap_state(void) { ring_publish(5, 1); }
static void ring_state_alone(void) { ring_publish(0, 1); }
static const char *ring_whole(uint64_t *tail, uint64_t *state) {
    uint8_t records[CAPACITY * RECORD];
    mesh_ring r = ring();
    *tail = mesh_ring_published(&r);
    if (!mesh_ring_sane(&r, *tail)) return "control contradicts itself";
    uint64_t first = mesh_ring_oldest(&r), length = 0;
    if (first > *tail || *tail - first > CAPACITY) return "wrong window";
    if (mesh_ring_copy(&r, first, *tail - first, records, 0) != 0) return "wrong checksum";
    for (uint64_t s = first; s < *tail; s++)
        if (!filled(records + (s - first) * RECORD, RECORD, s)) return "torn record";
    if (mesh_journal_read(&r, state, &length) < 1 || length != STATE) return "no state";
    return NULL;
}
static const char *ring_next(uint64_t tail) {
    uint64_t state = 0, after = 0;
    take(2);
    readers()->waiting = 1;
    ring_publish(3, 1);
    const char *problem = ring_whole(&after, &state);
    if (problem != NULL) return problem;
    return after == tail + 3 && state == after ? NULL : "the next writer does not go on";
}
static const char *ring_check(void) { /* state 6 stays: the records went without a new one */
    uint64_t tail = 0, state = 0;
    const char *problem = ring_whole(&tail, &state);
    if (problem == NULL && (tail < 6 || tail > 11 || state != 6)) problem = "gap or wrong state";
    return problem != NULL ? problem : ring_next(tail);
}
static const char *ring_state_check(void) { /* records and state come into force together */
    uint64_t tail = 0, state = 0;
    const char *problem = ring_whole(&tail, &state);
    if (problem == NULL && state != tail && state != tail + 1000)
        problem = "state of other records";
    if (problem == NULL && tail != 6 && tail != 11) problem = "half a batch";
    return problem != NULL ? problem : ring_next(tail);
}

/* --- tables and heartbeats ------------------------------------------------------------------- */

static mesh_table table(void) {
    return (mesh_table){control(),
                        (uint32_t *)(void *)(segment + JOURNAL),
                        16,
                        segment + DATA,
                        64 + 2 * 128,
                        128,
                        8,
                        0};
}
static void key_of(uint8_t key[MESH_KEY_BYTES], uint64_t n) {
    memset(key, 0, MESH_KEY_BYTES);
    fill(key, 9, n);
}
static void table_write(uint64_t k, uint64_t n) {
    uint8_t key[MESH_KEY_BYTES], value[72];
    key_of(key, k);
    fill(value, sizeof value, n);
    mesh_table t = table();
    uint64_t mine = lease(), count = control()->published;
    *phase = 1;
    int64_t row = mesh_table_find(&t, key);
    if (row < 0) row = mesh_table_add(&t, key, mine);
    mesh_slots s = mesh_row_slots(&t, (uint64_t)row);
    (void)mesh_slots_publish(&s, mine, value, sizeof value);
    (void)mesh_cas_pair(&control()->published, count, mine, count + 1, mine);
    wake();
}
static void table_prepare(void) {
    begin();
    table_write(1, 1);
    table_write(2, 1);
    readers()->waiting = 1;
}
static void table_path(void) { table_write(1, 2); }
static void table_add_path(void) { table_write(3, 1); }
static const char *table_row(uint64_t k, uint64_t low, uint64_t high) {
    uint8_t key[MESH_KEY_BYTES], value[72];
    size_t bytes = 0;
    key_of(key, k);
    mesh_table t = table();
    int64_t row = mesh_table_find(&t, key);
    if (row < 0) return low == 0 ? NULL : "a key is gone";
    mesh_slots s = mesh_row_slots(&t, (uint64_t)row);
    int64_t version = mesh_slots_read(&s, value, sizeof value, &bytes);
    if (version < (int64_t)low || version > (int64_t)high) return "no row at the first attempt";
    return version == 0 || filled(value, sizeof value, (uint64_t)version) ? NULL : "torn row";
}
static const char *table_check(void) {
    const char *problem = table_row(1, 1, 2);
    if (problem == NULL) problem = table_row(2, 1, 1);
    if (problem == NULL) problem = table_row(3, 0, 1);
    if (problem != NULL) return problem;
    take(2);
    mesh_table t = table();
    if (!mesh_table_repair(&t, lease())) return "index corrupt";
    table_write(1, 3);
    table_write(1, 4);
    uint64_t rows = mesh_table_rows(&t);
    for (uint64_t row = 0; row < rows; row++)
        if (mesh_table_find(&t, mesh_row_of(&t, row)->key) != (int64_t)row) return "row not found";
    uint8_t value[72];
    size_t bytes;
    mesh_slots s = mesh_row_slots(&t, 0);
    (void)mesh_slots_read(&s, value, sizeof value, &bytes);
    return filled(value, sizeof value, 4) ? NULL : "the next writer does not go on";
}

/* A process of a heartbeat row is known by its name, and everything in its beat tells which it is. */
static mesh_table heartbeats(void) {
    return (mesh_table){control(), NULL, 0, segment + DATA, 64 + 2 * 192, 192, 4, 0};
}
static mesh_heartbeat pulse(uint32_t pid, uint64_t n) {
    mesh_heartbeat b = {pid, 1 + pid % 3, pid * 11,   (int64_t)n, 7,
                        n,   n * 3,       (int64_t)n, n & 1,      {0}};
    fill(b.detail, sizeof b.detail, pid + n);
    return b;
}
static void heartbeats_claim(uint64_t row, uint32_t pid, uint64_t *mine) {
    uint8_t key[MESH_KEY_BYTES];
    key_of(key, pid);
    mesh_heartbeat b = pulse(pid, 0);
    mesh_table t = heartbeats();
    (void)mesh_heartbeat_claim(&t, row, key, &b, mine);
}
static uint64_t heart_lease;
static void hearts_prepare(void) {
    uint64_t other;
    begin();
    heartbeats_claim(0, 1, &heart_lease);
    heartbeats_claim(1, 9, &other);
}
static void heart_beat_path(void) {
    mesh_heartbeat b = pulse(1, 5);
    mesh_table t = heartbeats();
    *phase = 1;
    (void)mesh_heartbeat_publish(&t, 0, heart_lease, &b);
}
static void heart_path(uint64_t row, uint32_t pid) {
    uint64_t mine;
    *phase = 1;
    heartbeats_claim(row, pid, &mine);
}
static void heart_again_path(void) { heart_path(0, 1); }
static void heart_rename_path(void) { heart_path(0, 2); }
static void heart_add_path(void) { heart_path(2, 2); }
/* Whose row it is, told by name and beat alike: 0 = nobody's, -1 = a mix, -2 = not to be read. */
static int heart_of(const mesh_heartbeat *b, const uint8_t *key) {
    uint8_t wanted[MESH_KEY_BYTES] = {0};
    mesh_heartbeat whole = {0};
    if (b->pid != 0) {
        key_of(wanted, b->pid);
        whole = pulse(b->pid, b->beats);
    }
    int same = memcmp(key, wanted, sizeof wanted) == 0 && memcmp(b, &whole, sizeof whole) == 0;
    return same ? (int)b->pid : -1;
}
static int heart_in(uint64_t row) {
    mesh_heartbeat b;
    uint8_t key[MESH_KEY_BYTES];
    mesh_table t = heartbeats();
    if (row >= mesh_table_rows(&t)) return 0;
    return mesh_heartbeat_read(&t, row, &b, key) < 0 ? -2 : heart_of(&b, key);
}
static const char *hearts_check(void) {
    int first = heart_in(0), third = heart_in(2);
    uint64_t mine;
    if (first < 0 || third < 0) return "a name with the beat of another one";
    if (first > 2 || (third != 0 && third != 2) || heart_in(1) != 9)
        return "a row of somebody else";
    heartbeats_claim(0, 3, &mine);
    heartbeats_claim(2, 4, &mine);
    return heart_in(0) == 3 && heart_in(2) == 4 && heart_in(1) == 9 ? NULL
                                                                    : "the next one cannot claim";
}
static const char *heart_beat_check(void) {
    int first = heart_in(0);
    return (first == 1 || first == 2) && heart_in(1) == 9 ? NULL : "not the row of its owner";
}
/* What a reader was told, where the parent sees it. */
typedef struct {
    int64_t version;
    mesh_heartbeat beat;
    uint8_t key[MESH_KEY_BYTES];
} heart_told;
static heart_told *told(void) { return (heart_told *)(void *)(segment + SIZE - 2 * MESH_PAGE); }
static void heart_read_path(void) {
    mesh_table t = heartbeats();
    *phase = 1;
    told()->version = mesh_heartbeat_read(&t, 0, &told()->beat, told()->key);
}
static const char *heart_read_check(void) {
    if (told()->version == 0) return heart_in(0) > 0 ? NULL : "killed reader"; /* it said nothing */
    if (told()->version == MESH_BUSY) return NULL;
    return heart_of(&told()->beat, told()->key) >= 0 ? NULL : "a name with the beat of another one";
}

/* --- tensors --------------------------------------------------------------------------------- */

static uint8_t weights[3][BULK];
static void *weight_data[3] = {weights[0], weights[1], weights[2]};
static size_t weight_bytes[3] = {40, BULK, 8};
static mesh_arrays arrays(void) {
    return (mesh_arrays){weight_data, weight_bytes, 3, 64 + BULK + 64};
}
static mesh_slots tensors(void) {
    return (mesh_slots){&control()->published, segment + DATA, 1024, 3, 1};
}
static void tensors_publish(uint64_t n) {
    for (int i = 0; i < 3; i++) fill(weights[i], weight_bytes[i], n);
    mesh_arrays a = arrays();
    mesh_slots s = tensors();
    uint64_t mine = lease();
    *phase = 1;
    (void)mesh_arrays_publish(&s, mine, &a);
    wake();
}
static void tensors_prepare(void) {
    begin();
    tensors_publish(1);
    readers()->waiting = 1;
}
static void tensors_path(void) { tensors_publish(2); }
static const char *tensors_hold(uint64_t low, uint64_t high) {
    uint64_t version;
    mesh_slots s = tensors();
    mesh_slot *slot = mesh_slots_open(&s, &version);
    if (slot == NULL || version < low || version > high) return "no version at the first attempt";
    mesh_arrays a = arrays();
    uint64_t sum = mesh_arrays_copy(&a, mesh_slot_payload(slot), 0);
    if (!mesh_slots_valid(slot, version) || sum != slot->checksum) return "wrong checksum";
    for (int i = 0; i < 3; i++)
        if (!filled(weights[i], weight_bytes[i], version)) return "a mix of versions";
    return NULL;
}
static const char *tensors_check(void) {
    const char *problem = tensors_hold(1, 2);
    if (problem != NULL) return problem;
    uint64_t next = control()->published + 1;
    take(2);
    tensors_publish(next);
    return tensors_hold(next, next) == NULL ? NULL : "the next writer does not go on";
}

/* --- locks and leases ------------------------------------------------------------------------ */

static void lock_prepare(void) {
    begin();
    uint8_t name[MESH_KEY_BYTES] = "victim";
    (void)mesh_lock_claim(lock_of(), 0, 77, 88, name);
    (void)mesh_lock_claim(lock_of(), 1, 99, 11, name);
    lock_of()->waiting = 1;
}
static void lock_path(void) {
    uint64_t held;
    *phase = 1;
    if (mesh_lock_acquire(lock_of(), 0, INT64_MAX, 1000, &held))
        (void)mesh_lock_free(lock_of(), held);
}
static void claim_path(void) {
    uint8_t name[MESH_KEY_BYTES] = "newcomer";
    *phase = 1;
    (void)mesh_lock_claim(lock_of(), 2, 55, 66, name);
}
static void held_prepare(void) {
    uint64_t held;
    lock_prepare();
    (void)mesh_lock_try(lock_of(), 0, 1, &held);
}
static void break_path(void) {
    *phase = 1;
    if (mesh_lock_free(lock_of(), mesh_load(&lock_of()->word))) mesh_add(&lock_of()->breaks, 1);
}
static const char *lock_check(void) {
    uint64_t word = lock_of()->word, held = 0;
    uint32_t index = mesh_lock_owner_index(word);
    if (index != 0) {
        if (index != 1) return "held by nobody in particular";
        if (lock_of()->owner[0].claim != 77 || lock_of()->owner[0].start_time != 88)
            return "the owner is not known";
        if (!mesh_lock_free(lock_of(), word)) return "cannot be broken";
        if (mesh_lock_free(lock_of(), word)) return "broken twice";
    }
    if (!mesh_lock_acquire(lock_of(), 1, 0, 1000, &held)) return "cannot be taken";
    if (mesh_lock_try(lock_of(), 0, 1, &word)) return "taken twice";
    if (!mesh_lock_free(lock_of(), held)) return "cannot be freed";
    uint64_t claim = lock_of()->owner[2].claim;
    if (claim != 0 && (claim != 55 || lock_of()->owner[2].start_time != 66)) return "half an owner";
    return NULL;
}
static void lease_path(void) {
    *phase = 1;
    (void)mesh_lease_set(control(), 2, 22, 1);
}
static const char *lease_check(void) {
    mesh_owner owner;
    uint64_t epoch = mesh_lease_get(control(), &owner), found = owner.pid;
    if (epoch != found || (found != 1 && found != 2) || owner.start_time != found * 11)
        return "an owner that nobody is";
    take(3);
    uint64_t n = control()->published;
    if (mesh_cas_pair(&control()->published, n, epoch << 1, n + 1, epoch << 1))
        return "the former owner publishes";
    (void)mesh_lease_get(control(), &owner);
    return owner.pid == 3 && owner.start_time == 33 ? NULL : "the next owner is not known";
}

/* --- the points ------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    void (*prepare)(void);
    void (*path)(void);
    const char *(*check)(void);
} scenario;

static const scenario scenarios[] = {
    {"Cell.write", cell_prepare, cell_path, cell_check},
    {"Cell.write 640 bytes, checksum", bulk_prepare, cell_path, cell_check},
    {"Ring.publish one", ring_prepare, ring_one, ring_check},
    {"Ring.publish batch over the end", ring_prepare, ring_wrap, ring_check},
    {"Ring.publish batch with state", ring_prepare, ring_wrap_state, ring_state_check},
    {"Ring.publish state alone", ring_prepare, ring_state_alone, ring_state_check},
    {"Ring.publish batch with state, checksum", checked_prepare, ring_wrap_state, ring_state_check},
    {"Table.write", table_prepare, table_path, table_check},
    {"Table.write new key", table_prepare, table_add_path, table_check},
    {"Heartbeat.beat", hearts_prepare, heart_beat_path, heart_beat_check},
    {"Heartbeats.claim again", hearts_prepare, heart_again_path, hearts_check},
    {"Heartbeats.claim new row", hearts_prepare, heart_add_path, hearts_check},
    {"Heartbeats.claim under another name", hearts_prepare, heart_rename_path, hearts_check},
    {"Heartbeats.rows", hearts_prepare, heart_read_path, heart_read_check},
    {"Tensors.publish", tensors_prepare, tensors_path, tensors_check},
    {"SpinLock.acquire and release", lock_prepare, lock_path, lock_check},
    {"SpinLock claim of an entry", lock_prepare, claim_path, lock_check},
    {"SpinLock.break_stale", held_prepare, break_path, lock_check},
    {"lease take", begin, lease_path, lease_check},
};

/* Where the write's instructions lie, in the order they run: found once by single steps. With them
 * a child gets to instruction k by a breakpoint instead of k steps. */
static uint64_t trace[MAX_POINTS];
static long traced;

static void rewind_to_start(void) {
    memcpy(segment, before, SIZE);
    *phase = 0;
}

/* A child that stopped before its write. */
static pid_t start(const scenario *s) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        s->path();
        *phase = 2;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    return child;
}

/* A child stopped `k` instructions into the write. */
static pid_t stop_at(const scenario *s, long k) {
    pid_t child = start(s);
    long times = 0;
    for (long i = 1; i <= k; i++) times += trace[i] == trace[k];
    if (run_to(child, trace[0], 1) && (k == 0 || (step(child) && run_on(child, trace[k], times))))
        return child;
    kill(child, SIGKILL); /* no breakpoint there (the kernel's page of functions): step by step */
    waitpid(child, NULL, 0);
    rewind_to_start();
    child = start(s);
    while (*phase == 0) step(child);
    for (long i = 0; i < k; i++) step(child);
    return child;
}

static void end(pid_t child) {
    int status;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
}

static const char *kill_point(const scenario *s, pid_t child) {
    end(child);
    return s->check();
}

/* Everything a reader may look at, as bytes: slots that are not published do not count. */
static const char *fence_point(const scenario *s, pid_t child) {
    int status;
    take(2);
    mesh_table t = table();
    if (s->prepare == table_prepare) (void)mesh_table_repair(&t, lease());
    if (s->prepare == hearts_prepare) heart_rename_path();
    mesh_control *c = control();
    uint64_t published = c->published, at = c->lease, version = 0;
    if (s->prepare == table_prepare) version = mesh_row_of(&t, 0)->version;
    ptrace(PTRACE_CONT, child, 0, 0);
    waitpid(child, &status, 0);
    if (c->published != published || c->lease != at) return "published after its lease was taken";
    if (s->prepare == table_prepare && mesh_row_of(&t, 0)->version != version)
        return "committed a row after its lease was taken";
    if (s->prepare == hearts_prepare && heart_in(0) != 2) return "beats in the row of another one";
    return s->check();
}

static void find_points(const scenario *s) {
    rewind_to_start();
    pid_t child = start(s);
    while (*phase == 0) step(child);
    for (traced = 0; *phase == 1 && traced < MAX_POINTS; traced++) {
        trace[traced] = instruction_pointer(child);
        step(child);
    }
    end(child);
}

static int run(const scenario *s, int fence) {
    long good = 0;
    s->prepare();
    memcpy(before, segment, SIZE);
    find_points(s);
    for (long k = 0; k < traced; k++) {
        rewind_to_start();
        pid_t child = stop_at(s, k);
        const char *problem = fence ? fence_point(s, child) : kill_point(s, child);
        if (problem == NULL)
            good++;
        else if (k - good < 3)
            printf("  at instruction %ld: %s\n", k, problem);
    }
    printf("%s: %ld of %ld\n", s->name, good, traced);
    return good == traced && traced > 10 && traced < MAX_POINTS;
}

int main(int count, char **arguments) {
    if (count < 2) return 64;
    int fence = strcmp(arguments[1], "fence") == 0, fine = 1;
    segment = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    phase = mmap(NULL, MESH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    before = malloc(SIZE);
    if (segment == MAP_FAILED || phase == MAP_FAILED || before == NULL) return 71;
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        const scenario *s = &scenarios[i];
        if (count > 2 && strcmp(arguments[2], s->name) != 0) continue;
        if (fence && (s->check == lock_check || s->check == lease_check)) continue;
        if (fence && s->check == hearts_check) continue; /* claims have the directory's lock */
        fine &= run(s, fence);
        fflush(stdout);
    }
    return fine ? 0 : 1;
}
