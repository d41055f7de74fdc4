/* What the hardware allows: the mesh's own core called from C, without Python, and plain memcpy.
 *
 * Usage: mesh_limits FIGURE, one of: cell latency stream tensors. Prints "name value" lines; the
 * writer runs on one processor and the reader on another one. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "futex.h"
#include "lease.h"
#include "ring.h"
#include "seqlock.h"

#define DATA 4096u
#define RECORD 64u
#define SAMPLES 4000
#define CAPACITY (UINT64_C(1) << 16)

static uint8_t *shared(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED) exit(71);
    return p;
}

static void pin(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
}

/* Processor time, as the bench takes it where one process does all: neighbours do not count. */
static int64_t used_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static pid_t reader_process(void) {
    pid_t child = fork();
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(1);
    } else pin(0);
    return child;
}

static mesh_control *control(uint8_t *segment) {
    return (mesh_control *)(void *)(segment + MESH_CONTROL_OFFSET);
}
static mesh_readers *readers(uint8_t *segment) { return (mesh_readers *)(void *)(segment + 2048); }
static mesh_slots cell(uint8_t *segment) {
    return (mesh_slots){&control(segment)->published, segment + DATA, 128, 2, 0};
}

static void publish(uint8_t *segment, const void *record) {
    mesh_slots s = cell(segment);
    (void)mesh_slots_publish(&s, 2, record, RECORD);
    mesh_wake_waiting(&readers(segment)->waiting, s.version);
}

static uint8_t *new_segment(size_t bytes) {
    uint8_t *segment = shared(bytes);
    (void)mesh_lease_set(control(segment), 1, 1, 1);
    return segment;
}

static void cell_figure(void) {
    uint8_t *segment = new_segment(65536);
    uint64_t record[8] = {0}, out[8];
    size_t bytes;
    const int calls = 10000000;
    int64_t start = used_ns();
    for (int i = 0; i < calls; i++) {
        record[0]++;
        publish(segment, record);
    }
    int64_t middle = used_ns();
    mesh_slots s = cell(segment);
    for (int i = 0; i < calls; i++) {
        (void)mesh_slots_read(&s, out, sizeof out, &bytes);
        __asm__ volatile("" : : "r"(out) : "memory");
    }
    int64_t end = used_ns();
    printf("cell.write %.2f\ncell.read %.2f\n", (double)(middle - start) / calls,
           (double)(end - middle) / calls);
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void latency_figure(const char *name, int sleeping, int64_t gap_ns) {
    uint8_t *segment = new_segment(65536);
    int64_t *delays = (void *)shared(SAMPLES * 8);
    pid_t child = reader_process();
    mesh_slots s = cell(segment);
    if (child == 0) {
        uint64_t record[8], last = 0;
        size_t bytes;
        for (int n = 0; n < SAMPLES;) {
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
        _exit(0);
    }
    int status;
    while (waitpid(child, &status, WNOHANG) == 0) {
        int64_t until = mesh_monotonic_ns() + gap_ns;
        while (mesh_monotonic_ns() < until) mesh_relax();
        uint64_t record[8] = {(uint64_t)mesh_monotonic_ns()};
        publish(segment, record);
    }
    qsort(delays, SAMPLES, 8, by_value);
    printf("latency.%s.p50 %.3f\nlatency.%s.p99 %.3f\n", name, (double)delays[SAMPLES / 2] / 1e3,
           name, (double)delays[SAMPLES * 99 / 100] / 1e3);
}

/* Lossless: the writer looks every 1024 records whether the reader is near enough. */
static void stream_figure(uint64_t batch, uint64_t total) {
    uint8_t *segment = new_segment(DATA + CAPACITY * RECORD);
    mesh_ring r = {control(segment), segment + DATA, NULL, RECORD, RECORD, CAPACITY, 0, 0};
    uint8_t *records = calloc(batch, RECORD), *out = calloc(4096, RECORD);
    uint64_t *cursor = (void *)shared(4096);
    pid_t child = reader_process();
    if (child == 0) {
        uint64_t sum = 0; /* a forked process has no page table yet */
        for (size_t at = 0; at < CAPACITY * RECORD; at += MESH_PAGE) sum += segment[DATA + at];
        mesh_store_release(cursor, 1 + sum);
        for (uint64_t sequence = 0; sequence < total; mesh_store_release(cursor, 1 + sequence)) {
            uint64_t count = mesh_ring_published(&r) - sequence;
            if (count > 4096) count = 4096;
            (void)mesh_ring_copy(&r, sequence, count, out, 0);
            if (mesh_ring_oldest(&r) > sequence) _exit(1);
            sequence += count;
        }
        _exit(0);
    }
    while (mesh_load_acquire(cursor) == 0) mesh_relax();
    int64_t start = mesh_monotonic_ns();
    for (uint64_t n = 0; n < total; n += batch) {
        if (n % 1024 == 0)
            while (n - (mesh_load_acquire(cursor) - 1) > CAPACITY - 2048) mesh_relax();
        uint64_t next = mesh_ring_write(&r, records, batch);
        (void)mesh_ring_commit(&r, 1, next, batch, 0);
        mesh_wake_waiting(&readers(segment)->waiting, &r.control->published);
    }
    int status;
    waitpid(child, &status, 0);
    double seconds = (double)(mesh_monotonic_ns() - start) / 1e9;
    if (status == 0) printf("stream.%llu %.3f\n", (unsigned long long)batch, (double)total / seconds / 1e6);
}

static void tensors_figure(void) {
    const size_t bytes = 10000000;
    uint8_t *to = shared(3 * bytes), *from = malloc(bytes);
    if (from == NULL) exit(71);
    memset(from, 1, bytes);
    memset(to, 1, 3 * bytes);
    int64_t start = used_ns();
    for (int i = 0; i < 90; i++) {
        memcpy(to + (size_t)(i % 3) * bytes, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
    printf("tensors.memcpy %.4f\n", (double)(used_ns() - start) / 90e6);
}

int main(int count, char **arguments) {
    const char *figure = count > 1 ? arguments[1] : "";
    if (strcmp(figure, "cell") == 0) cell_figure();
    else if (strcmp(figure, "latency") == 0) {
        latency_figure("polling", 0, 5000);
        latency_figure("sleeping", 1, 200000);
    } else if (strcmp(figure, "stream") == 0) {
        stream_figure(1, 1 << 21);
        stream_figure(256, 1 << 24);
    } else if (strcmp(figure, "tensors") == 0) tensors_figure();
    else return 64;
    return 0;
}
