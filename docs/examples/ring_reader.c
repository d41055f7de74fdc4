/* Follow a ring from C: layout.h is all that is needed.
 *
 *     cc -O2 -I mesh/_core docs/examples/ring_reader.c -o ring_reader
 *     ./ring_reader /dev/shm/tradingmesh/ticks [COUNT]
 *
 * Prints "SEQUENCE HEX" a record from the oldest on, COUNT of them (all there are, without it), and
 * says how many were lost where the writer was faster. Maps read-only: a reader cannot do harm.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "layout.h"

static uint64_t load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

static const uint8_t *attach(const char *path, const mesh_identity **identity) {
    struct stat found;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &found) != 0) return NULL;
    if ((size_t)found.st_size < 2 * MESH_PAGE) return NULL;
    const uint8_t *base = mmap(NULL, (size_t)found.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return NULL;
    *identity = (const mesh_identity *)(const void *)base;
    const mesh_identity *i = *identity;
    int fits = i->magic == MESH_MAGIC && i->layout_version == MESH_LAYOUT_VERSION &&
               i->endian_mark == MESH_ENDIAN_MARK && i->total_size == (uint64_t)found.st_size;
    return fits ? base : NULL;
}

int main(int count, char **arguments) {
    const mesh_identity *i;
    const uint8_t *base = count > 1 ? attach(arguments[1], &i) : NULL;
    if (base == NULL || i->kind != MESH_RING) {
        fprintf(stderr, "usage: ring_reader SEGMENT [COUNT], a ring of layout version %u\n",
                MESH_LAYOUT_VERSION);
        return 64;
    }
    const mesh_control *control = (const mesh_control *)(const void *)(base + MESH_CONTROL_OFFSET);
    fprintf(stderr, "schema %.*s\n", (int)i->schema_size, (const char *)base + i->schema_offset);
    uint64_t left = count > 2 ? strtoull(arguments[2], NULL, 10) : load(&control->published);
    uint8_t *record = malloc(i->record_size);
    uint64_t intent = load(&control->intent), lost = 0;
    uint64_t sequence = intent > i->capacity ? intent - i->capacity : 0;
    while (record != NULL && left > 0) {
        if (load(&control->retired) != 0) return 75; /* replaced: attach again */
        if (sequence >= load(&control->published)) {
            if (count <= 2) break;
            continue; /* a program of yours would sleep here: FUTEX_WAIT on published's low half */
        }
        memcpy(record, base + i->data_offset + sequence % i->capacity * i->stride, i->record_size);
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* what was copied counts only if intent says so */
        intent = load(&control->intent);
        if (intent > sequence + i->capacity) { /* overwritten meanwhile */
            lost += intent - i->capacity - sequence;
            sequence = intent - i->capacity;
            continue;
        }
        printf("%llu ", (unsigned long long)sequence);
        for (uint64_t b = 0; b < i->record_size; b++) printf("%02x", record[b]);
        printf("\n");
        sequence++, left--;
    }
    if (lost > 0) fprintf(stderr, "lost %llu\n", (unsigned long long)lost);
    free(record);
    return 0;
}
