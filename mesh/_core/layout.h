/* Every byte of every segment. Enough for a C or Rust program to attach; no Python in here.
 *
 *   offset 0        identity: constant after creation, covered by `identity_check`
 *   offset 512      control:  written by the segment's writer (lease, published index, counters)
 *   offset 1024     schema text, then the data (see the kinds below), 128-byte aligned
 *   readers_offset  readers' page: the only bytes a reader may write (waiting flag, statistics)
 *
 * All integers are little-endian. The readers' page is a page of its own, so that a reader maps
 * everything else read-only (invariant I6). Cache lines that different processes write never
 * touch: 128 bytes, because of adjacent-line prefetch on x86-64 and 128-byte lines on some ARM.
 *
 * The data of each kind:
 *
 *   cell        slots[2]      slot = 32-byte slot header, payload; version v lies in slot v % 2
 *   tensors     slots[3]      payload = the arrays one after another, each 64-byte aligned
 *   ring        journal[2]    (only where state_size > 0) journal header, state bytes
 *               records       record of sequence s at (s % capacity) * stride; where the flag
 *                             MESH_CHECKED is set, the last 8 bytes of a stride are its checksum
 *   table       index         u32[index_size]: 0 = free, else row + 1; open addressing by key hash
 *               rows          64-byte row header (version, key), then slots[2]
 *   heartbeats  rows          64-byte row header (version, key), then slots[2]
 *   lock        the lock's words lie in the readers' page: every process may take it
 */
#ifndef MESH_LAYOUT_H
#define MESH_LAYOUT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define MESH_MAGIC UINT64_C(0x314853454D534D54) /* "TMSMESH1" read as a little-endian integer */
#define MESH_LAYOUT_VERSION 3u
#define MESH_ENDIAN_MARK 0x01020304u
#define MESH_LINE 128u
#define MESH_PAGE 4096u
#define MESH_KEY_BYTES 32u
#define MESH_DETAIL_BYTES 64u
#define MESH_LOCK_OWNERS 24u
#define MESH_CHECKED 1u /* flag: every value or record carries a checksum (tensors always do) */

enum mesh_kind {
    MESH_CELL = 1,
    MESH_TABLE = 2,
    MESH_RING = 3,
    MESH_TENSORS = 4,
    MESH_LOCK = 5,
    MESH_HEARTBEATS = 6,
};

/* Offset 0. Written once, before the segment gets its name; never changed afterwards. */
typedef struct {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t endian_mark;
    uint32_t kind;           /* enum mesh_kind */
    uint32_t slots;          /* slots per value: 2 (cell, table, heartbeats), 3 (tensors), else 0 */
    uint64_t total_size;     /* of the file, bytes */
    uint64_t record_size;    /* payload bytes of one value or record */
    uint64_t stride;         /* bytes from one slot or record to the next */
    uint64_t capacity;       /* records of a ring, rows of a table or of heartbeats, else 1 */
    uint64_t data_offset;    /* first slot, row or record */
    uint64_t readers_offset; /* the readers' page */
    uint64_t schema_offset;
    uint64_t schema_size;
    uint64_t aux_offset; /* ring: journal; table: index */
    uint64_t aux_size;   /* ring: state bytes; table: entries of the index */
    uint64_t generation; /* wall clock ns at creation; a recreated segment has another one */
    uint64_t creator_start_time;
    uint32_t creator_pid;
    uint32_t payload_encoding; /* 0 numpy record(s), 1 msgpack, 2 named arrays */
    uint32_t flags;            /* MESH_CHECKED */
    uint32_t reserved;
    uint8_t fingerprint[16]; /* blake2b-128 of the schema text */
    uint8_t boot_id[16];
    uint64_t identity_check; /* mesh_checksum of all bytes before it */
} mesh_identity;

/* Who may write. The epoch (in mesh_control.lease) selects owner[epoch % 2]; a new owner is
 * written to the other entry first, so that a process that dies while it takes the lease leaves
 * the old entry selected. pid 0 = nobody. */
typedef struct {
    uint32_t pid;
    uint32_t reserved;
    uint64_t start_time; /* field 22 of /proc/PID/stat, clock ticks since boot */
    int64_t since_ns;    /* CLOCK_MONOTONIC */
    uint64_t reserved2;
} mesh_owner;

/* Offset 512. One line is written at every publish, the other only when the writer changes.
 *
 *   0          8          16         24         32         40                    128
 *   +----------+----------+----------+----------+----------+---------------------+
 *   | published| lease    | intent   | rows     | retired  | (free)              |
 *   +----------+----------+----------+----------+----------+---------------------+
 *   | breaks   | reserved | owner[0]            | owner[1]            | (free)   |
 *   +----------+----------+---------------------+---------------------+----------+
 *
 * `published` and `lease` change by one 16-byte compare-and-swap only: a writer whose lease was
 * broken finds another epoch there and cannot publish, whichever instruction it was stopped at. */
typedef struct {
    uint64_t published; /* version of the newest value; number of records published; its low
                           half is the futex word readers sleep on */
    uint64_t lease;     /* epoch << 1 | ring: which journal entry is in force. The epoch says how
                           often the writer changed, and selects owner[epoch % 2] */
    uint64_t intent;    /* ring: no record before intent - capacity may be trusted */
    uint64_t rows;      /* table, heartbeats: rows in use */
    uint64_t retired;   /* not 0: the segment was replaced or removed; attach again */
    uint8_t pad0[MESH_LINE - 40];
    uint64_t breaks; /* leases taken from a dead writer */
    uint64_t reserved;
    mesh_owner owner[2];
    uint8_t pad1[MESH_LINE - 16 - 64];
} mesh_control;

/* Head of a slot: a seqlock of its own. seq = 2v - 1 while version v is being written, 2v after. */
typedef struct {
    uint64_t seq;
    uint64_t length; /* payload bytes in use */
    uint64_t checksum;
    uint64_t reserved;
} mesh_slot;

/* Head of one of the two journal entries of a ring: the writer's state. The entry in force is
 * chosen by the lowest bit of mesh_control.lease, in the very store that publishes the records. */
typedef struct {
    uint64_t seq;    /* 2n - 1 while state n is being written, 2n after; 0 = never written */
    uint64_t tail;   /* records published together with it */
    uint64_t length; /* bytes of state in use */
    uint64_t reserved;
} mesh_journal;

/* Head of a row of a table or of heartbeats; two slots follow. `version` and `lease` change by one
 * 16-byte compare-and-swap only, as in mesh_control. */
typedef struct {
    uint64_t version; /* 0 = never written */
    uint64_t lease;   /* table: that of its writer; heartbeats: 2 * the claims of this row */
    uint8_t key[MESH_KEY_BYTES]; /* zero-padded */
    uint64_t key_hash;           /* mesh_key_hash of the key: a damaged key finds nothing */
    uint64_t reserved;
} mesh_row;

/* The readers' page. */
typedef struct {
    uint32_t waiting; /* set by a reader before it sleeps; the writer clears it and wakes all */
    uint32_t reserved;
    uint64_t retries; /* reads that had to start again */
    uint64_t laps;    /* times a ring reader was overtaken */
    uint64_t lost;    /* records these readers lost */
    uint8_t pad0[MESH_LINE - 32];
} mesh_readers;

/* A process that may take a lock; filled before it can own it. */
typedef struct {
    uint64_t claim; /* 0 = free, else the pid */
    uint64_t start_time;
    int64_t since_ns;
    uint8_t name[MESH_KEY_BYTES];
    uint64_t reserved;
} mesh_lock_owner;

/* Lock segments: behind mesh_readers in the readers' page. */
typedef struct {
    uint64_t word; /* epoch << 32 | index of the owner + 1; low half 0 = free */
    uint64_t breaks;
    uint64_t acquisitions;
    uint32_t waiting;
    uint32_t reserved;
    uint8_t pad0[MESH_LINE - 32];
    mesh_lock_owner owner[MESH_LOCK_OWNERS];
} mesh_lock;

/* What a heartbeat row carries. Times are CLOCK_MONOTONIC nanoseconds. */
typedef struct {
    uint32_t pid;
    uint32_t phase; /* 0 gone, 1 starting, 2 working, 3 waiting */
    uint64_t start_time;
    int64_t phase_since_ns;
    int64_t expect_ns; /* 0 = the default deadline holds */
    uint64_t beats;
    uint64_t progress;
    int64_t beat_ns;
    uint64_t ready;                    /* 1 once the worker said it is ready */
    uint8_t detail[MESH_DETAIL_BYTES]; /* what it says of itself: UTF-8, zero-padded */
} mesh_heartbeat;

#define MESH_CONTROL_OFFSET 512u
#define MESH_SCHEMA_OFFSET 1024u
#define MESH_LOCK_OFFSET MESH_LINE /* within the readers' page */

static_assert(sizeof(mesh_identity) <= MESH_CONTROL_OFFSET, "identity fits before the control");
static_assert(offsetof(mesh_identity, fingerprint) == 136, "identity has no padding");
static_assert(offsetof(mesh_identity, identity_check) == 168, "identity has no padding");
static_assert(sizeof(mesh_owner) == 32, "owner has no padding");
static_assert(sizeof(mesh_control) == 2 * MESH_LINE, "two lines");
static_assert(offsetof(mesh_control, lease) == 8, "published and lease are one 16-byte pair");
static_assert(MESH_CONTROL_OFFSET % 16 == 0, "the pair is aligned");
static_assert(offsetof(mesh_control, breaks) == MESH_LINE, "the owners have a line of their own");
static_assert(MESH_CONTROL_OFFSET + sizeof(mesh_control) <= MESH_SCHEMA_OFFSET, "control fits");
static_assert(sizeof(mesh_slot) == 32, "slot head has no padding");
static_assert(sizeof(mesh_journal) == 32, "journal head has no padding");
static_assert(sizeof(mesh_row) == 64, "row head has no padding");
static_assert(offsetof(mesh_row, lease) == 8, "version and lease are one 16-byte pair");
static_assert(sizeof(mesh_readers) == MESH_LINE, "one line");
static_assert(sizeof(mesh_lock_owner) == 64, "lock owner has no padding");
static_assert(offsetof(mesh_lock, owner) == MESH_LINE, "the lock word has a line of its own");
static_assert(MESH_LOCK_OFFSET + sizeof(mesh_lock) <= MESH_PAGE, "a lock fits the readers' page");
static_assert(sizeof(mesh_heartbeat) == 128, "heartbeat has no padding");

#endif
