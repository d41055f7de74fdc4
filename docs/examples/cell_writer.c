/* Be the writer of a cell from C: layout.h is all that is needed.
 *
 *     cc -O2 -mcx16 -I mesh/_core docs/examples/cell_writer.c -o cell_writer   (x86-64: -mcx16)
 *     echo 00112233 | ./cell_writer /dev/shm/tradingmesh/risk
 *
 * Publishes each line of hex digits of its standard input as one value, and prints its version.
 * The cell exists already (Python made it); while another live process is its writer this one is
 * refused. Killed at any instruction it leaves the last value readable.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

/* (published, lease) change in one step or not at all: that is what fences a broken-off writer */
static int publish_pair(uint64_t *pair, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    __extension__ typedef unsigned __int128 pair_t;
    return __sync_bool_compare_and_swap((pair_t *)(void *)pair, (pair_t)b << 64 | a,
                                        (pair_t)d << 64 | c);
}

/* Start time of a process: field 22 of /proc/PID/stat; 0 = there is none, or it is a zombie. */
static uint64_t start_time(uint32_t pid) {
    char path[64], text[1024] = "";
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) return 0;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    char *at = size > 0 ? strrchr(text, ')') : NULL;
    if (at == NULL || at[2] == 'Z') return 0;
    for (int field = 2; field < 22 && at != NULL; field++) at = strchr(at + 1, ' ');
    return at != NULL ? strtoull(at, NULL, 10) : 0;
}

/* Become the writer, under the directory's lock; the epoch, or 0 while the owner lives. */
static uint64_t take_lease(const char *segment, mesh_control *control) {
    char copy[PATH_MAX], lock[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", segment);
    snprintf(lock, sizeof lock, "%.4000s/.lock", dirname(copy));
    int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) != 0) return 0;
    uint64_t epoch = control->lease >> 1;
    const mesh_owner *now = &control->owner[epoch & 1];
    mesh_owner *next = &control->owner[(epoch + 1) & 1];
    uint64_t taken = 0;
    if (now->pid == 0 || start_time(now->pid) != now->start_time) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        next->pid = (uint32_t)getpid();
        next->start_time = start_time(next->pid);
        next->since_ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
        uint64_t n, lease;
        do {
            n = control->published, lease = control->lease;
        } while (!publish_pair(&control->published, n, lease, n, (epoch + 1) << 1));
        taken = epoch + 1;
    }
    close(fd);
    return taken;
}

static int publish(uint8_t *base, const mesh_identity *i, uint64_t epoch, const uint64_t *words,
                   uint64_t bytes) {
    mesh_control *control = (mesh_control *)(void *)(base + MESH_CONTROL_OFFSET);
    mesh_readers *readers = (mesh_readers *)(void *)(base + i->readers_offset);
    uint64_t version = control->published + 1;
    mesh_slot *slot = (void *)(base + i->data_offset + version % i->slots * i->stride);
    uint64_t *payload = (uint64_t *)(void *)(slot + 1);
    __atomic_store_n(&slot->seq, 2 * version - 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (uint64_t w = 0; w < (bytes + 7) / 8; w++)
        __atomic_store_n(&payload[w], words[w], __ATOMIC_RELAXED);
    __atomic_store_n(&slot->length, bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->seq, 2 * version, __ATOMIC_RELEASE);
    uint64_t lease = epoch << 1;
    if (!publish_pair(&control->published, version - 1, lease, version, lease)) return 0;
    if (__atomic_exchange_n(&readers->waiting, 0, __ATOMIC_SEQ_CST) != 0)
        syscall(SYS_futex, &control->published, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    return 1;
}

int main(int count, char **arguments) {
    struct stat found;
    int fd = count > 1 ? open(arguments[1], O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
    uint8_t *base = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &found) == 0 && (size_t)found.st_size >= 2 * MESH_PAGE)
        base = mmap(NULL, (size_t)found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const mesh_identity *i = (const mesh_identity *)(const void *)base;
    if (base == MAP_FAILED || i->magic != MESH_MAGIC || i->layout_version != MESH_LAYOUT_VERSION ||
        i->endian_mark != MESH_ENDIAN_MARK || i->kind != MESH_CELL || i->flags != 0) {
        fprintf(stderr, "usage: cell_writer SEGMENT, an unchecked cell of layout version %u\n",
                MESH_LAYOUT_VERSION);
        return 64;
    }
    mesh_control *control = (mesh_control *)(void *)(base + MESH_CONTROL_OFFSET);
    uint64_t epoch = take_lease(arguments[1], control);
    if (epoch == 0) {
        fprintf(stderr, "pid %u is its writer: stop that process first\n",
                control->owner[control->lease >> 1 & 1].pid);
        return 75;
    }
    uint64_t *value = calloc(i->record_size / 8 + 1, 8);
    char *line = NULL;
    size_t room = 0;
    while (value != NULL && getline(&line, &room, stdin) > 0) {
        uint64_t bytes = strspn(line, "0123456789abcdef") / 2;
        for (uint64_t b = 0; b < bytes && b < i->record_size; b++) {
            unsigned int octet = 0;
            sscanf(line + 2 * b, "%2x", &octet);
            ((uint8_t *)value)[b] = (uint8_t)octet;
        }
        if (bytes > i->record_size || !publish(base, i, epoch, value, bytes)) {
            fprintf(stderr, "too long for the cell, or the lease was taken\n");
            return 75;
        }
        printf("%llu\n", (unsigned long long)control->published);
        fflush(stdout);
    }
    free(line);
    free(value);
    return 0;
}
