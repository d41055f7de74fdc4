/* A decode plan: one (writer schema, reader schema) pair as a flat list of operations.
 *
 * The list is made once in Python (workers/ingest/decode/plan.py) and run here over every message of that
 * writer. Operations follow the order of the bytes on the wire (Avro 1.12, binary encoding);
 * jumps only go forward, so that a plan ends whatever the message holds. A plan is checked before
 * it is used: no operation can name a byte outside the row, the pool or the list.
 *
 *     template  the row before the first operation: absent values, defaults of the reader
 *     ops       END is the last one
 *     pool      bytes that operations refer to: defaults, enum symbols, branch tables (uint32)
 *
 * Numbers on the wire are little-endian, and so are rows: a big-endian host is refused. */
#ifndef INGEST_PLAN_H
#define INGEST_PLAN_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rows and Avro numbers are little-endian: copy them byte by byte on this host"
#endif

/* What became of a message. */
enum avro_status {
    AVRO_OK,
    AVRO_FRAME,        /* no value, too short, wrong magic byte */
    AVRO_UNKNOWN,      /* the registry does not know the schema id (set by the caller) */
    AVRO_INCOMPATIBLE, /* the writer's schema, or the branch it took, cannot be read as the reader's */
    AVRO_BODY,         /* the bytes contradict the schema */
    AVRO_VALUE,        /* a value that a row cannot hold */
    AVRO_FALLBACK,     /* this message is beyond the plan */
    AVRO_PENDING,      /* framed, not decoded yet */
};

enum avro_op_code {
    AVRO_OP_END,
    AVRO_OP_FAIL,     /* status `from` */
    AVRO_OP_JUMP,     /* to `jump` */
    AVRO_OP_UNION,    /* `size` branches; pool[scale]: uint32 targets */
    AVRO_OP_NULLABLE, /* two branches, null is number `from`; null goes to `jump` */
    AVRO_OP_SET,      /* row[at .. at + size] = pool[scale ..] */
    AVRO_OP_SKIP,     /* `size` bytes */
    AVRO_OP_SKIP_BOOL,
    AVRO_OP_SKIP_INT,
    AVRO_OP_SKIP_LONG,
    AVRO_OP_SKIP_BYTES,
    AVRO_OP_SKIP_TEXT,    /* a string that the reader sees: it must be UTF-8 */
    AVRO_OP_SKIP_ENUM,    /* `size` symbols */
    AVRO_OP_COPY,         /* row[at .. at + size] = the next bytes (doubles, floats as they are) */
    AVRO_OP_NUMBER,       /* wire type `from`, row type `to`, times `scale` where that is not 0 */
    AVRO_OP_TEXT,         /* string or bytes to row[at .. at + size]; `flags` */
    AVRO_OP_FIXED,        /* `jump` bytes to row[at .. at + size]; `flags` */
    AVRO_OP_ENUM,         /* `size` symbols, pool[scale]: avro_symbol_entry each; row[at ..] */
    AVRO_OP_DECIMAL,      /* bytes (jump 0) or fixed of `jump` bytes / 10^scale to a double;
                          * more than `size` digits are beyond the plan */
    AVRO_OP_REQUIRE_TEXT, /* row[at] is not 0 */
    AVRO_OP_REQUIRE_POSITIVE, /* the int64 in row[at] is above 0 */
    AVRO_OP_COUNT,
};

enum avro_wire_type {
    AVRO_WIRE_BOOL,
    AVRO_WIRE_INT,
    AVRO_WIRE_LONG,
    AVRO_WIRE_FLOAT,
    AVRO_WIRE_DOUBLE,
    AVRO_WIRE_COUNT
};
enum avro_row_type {
    AVRO_ROW_F8,
    AVRO_ROW_F4,
    AVRO_ROW_I8,
    AVRO_ROW_I4,
    AVRO_ROW_I2,
    AVRO_ROW_I1,
    AVRO_ROW_U8,
    AVRO_ROW_U4,
    AVRO_ROW_U2,
    AVRO_ROW_U1,
    AVRO_ROW_COUNT
};
enum avro_flag { AVRO_FLAG_UTF8 = 1, AVRO_FLAG_CUT = 2 }; /* must be UTF-8; may be cut to fit */

typedef struct {
    uint8_t code, from, to, flags;
    uint32_t at, size, jump;
    int64_t scale;
} avro_op;
_Static_assert(sizeof(avro_op) == 24, "Python builds the list with this layout");

typedef struct {
    uint32_t at,
        size; /* of the symbol in the pool; size UINT32_MAX: the reader has no such symbol */
} avro_symbol_entry;

typedef struct {
    const avro_op *ops;
    const uint8_t *pool;
    const uint8_t *template;
    uint32_t count;
    uint32_t pool_size;
    uint32_t row_size;
} avro_plan;

static const uint8_t avro_row_bytes[AVRO_ROW_COUNT] = {8, 4, 8, 4, 2, 1, 8, 4, 2, 1};

static inline int avro_within(uint64_t at, uint64_t size, uint64_t limit) {
    return at <= limit && size <= limit - at;
}

static inline uint32_t avro_pool_u32(const avro_plan *plan, uint64_t at) {
    uint32_t value;
    memcpy(&value, plan->pool + at, sizeof value);
    return value;
}

static inline avro_symbol_entry avro_symbol(const avro_plan *plan, const avro_op *op,
                                            uint64_t index) {
    avro_symbol_entry entry;
    memcpy(&entry, plan->pool + op->scale + index * sizeof entry, sizeof entry);
    return entry;
}

/* Are the tables of a branching operation whole, and do they lead forward? */
static inline int avro_table_is_sound(const avro_plan *plan, uint32_t index) {
    const avro_op *op = &plan->ops[index];
    uint64_t entry = op->code == AVRO_OP_UNION ? sizeof(uint32_t) : sizeof(avro_symbol_entry);
    if (op->scale < 0 || !avro_within((uint64_t)op->scale, op->size * entry, plan->pool_size))
        return 0;
    for (uint64_t i = 0; i < op->size; i++) {
        if (op->code == AVRO_OP_UNION) {
            uint32_t target = avro_pool_u32(plan, (uint64_t)op->scale + i * entry);
            if (target <= index || target >= plan->count) return 0;
        } else {
            avro_symbol_entry symbol = avro_symbol(plan, op, i);
            if (symbol.size != UINT32_MAX &&
                (!avro_within(symbol.at, symbol.size, plan->pool_size) ||
                 !avro_within(op->at, symbol.size, plan->row_size)))
                return 0;
        }
    }
    return 1;
}

static inline int avro_op_is_sound(const avro_plan *plan, uint32_t index) {
    const avro_op *op = &plan->ops[index];
    int in_row = avro_within(op->at, op->size, plan->row_size);
    int forward = op->jump > index && op->jump < plan->count;
    switch (op->code) {
    case AVRO_OP_FAIL:
        return op->from > AVRO_OK && op->from < AVRO_PENDING;
    case AVRO_OP_JUMP:
        return forward;
    case AVRO_OP_NULLABLE:
        return forward && op->from < 2;
    case AVRO_OP_UNION:
    case AVRO_OP_ENUM:
        return avro_table_is_sound(plan, index);
    case AVRO_OP_SET:
        return in_row && op->scale >= 0 &&
               avro_within((uint64_t)op->scale, op->size, plan->pool_size);
    case AVRO_OP_COPY:
    case AVRO_OP_TEXT:
    case AVRO_OP_FIXED:
        return in_row;
    case AVRO_OP_NUMBER:
        return op->from < AVRO_WIRE_COUNT && op->to < AVRO_ROW_COUNT && op->scale >= 0 &&
               avro_within(op->at, avro_row_bytes[op->to], plan->row_size);
    case AVRO_OP_DECIMAL:
        return op->scale >= 0 && op->scale <= 22 && avro_within(op->at, 8, plan->row_size);
    case AVRO_OP_REQUIRE_TEXT:
        return avro_within(op->at, 1, plan->row_size);
    case AVRO_OP_REQUIRE_POSITIVE:
        return avro_within(op->at, 8, plan->row_size);
    default:
        return op->code < AVRO_OP_COUNT;
    }
}

/* May this plan be run? Afterwards only the message has to be mistrusted. */
static inline int avro_plan_is_sound(const avro_plan *plan) {
    if (plan->count == 0 || plan->ops[plan->count - 1].code != AVRO_OP_END) return 0;
    for (uint32_t i = 0; i < plan->count; i++)
        if (!avro_op_is_sound(plan, i)) return 0;
    return 1;
}

#endif
