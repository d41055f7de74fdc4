/* Runs a plan over one message. Nothing is allocated; every byte is asked for before it is read. */
#ifndef INGEST_DECODE_H
#define INGEST_DECODE_H

#include <math.h>

#include "plan.h"
#include "utf8.h"

typedef struct {
    const uint8_t *at, *end;
} avro_bytes;

static inline uint64_t avro_left(const avro_bytes *in) { return (uint64_t)(in->end - in->at); }

/* A zigzag varint of at most 64 bits: at most ten bytes, the tenth holds one bit. */
static inline int avro_long(avro_bytes *in, int64_t *out) {
    const uint8_t *p = in->at;
    uint64_t value = 0;
    if (p < in->end && *p < 0x80) { /* one byte: nearly all of them */
        value = *p++;
    } else {
        for (unsigned shift = 0;; shift += 7) {
            if (p == in->end || shift > 63) return 0;
            uint8_t byte = *p++;
            if (shift == 63 && byte > 1) return 0;
            value |= (uint64_t)(byte & 0x7f) << shift;
            if (byte < 0x80) break;
        }
    }
    in->at = p;
    *out = (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
    return 1;
}

static inline int avro_int(avro_bytes *in, int64_t *out) {
    return avro_long(in, out) && *out >= INT32_MIN && *out <= INT32_MAX;
}

/* An index below `count`. */
static inline int avro_index(avro_bytes *in, uint32_t count, uint32_t *out) {
    int64_t index;
    if (!avro_long(in, &index) || index < 0 || index >= (int64_t)count) return 0;
    *out = (uint32_t)index;
    return 1;
}

static inline int avro_bool(avro_bytes *in, int64_t *out) {
    if (in->at == in->end || *in->at > 1) return 0;
    *out = *in->at++;
    return 1;
}

/* The next `size` bytes; NULL when there are fewer. */
static inline const uint8_t *avro_read_bytes(avro_bytes *in, uint64_t size) {
    if (avro_left(in) < size) return NULL;
    const uint8_t *start = in->at;
    in->at += size;
    return start;
}

/* A length and that many bytes; NULL when there are fewer. */
static inline const uint8_t *avro_read_sized(avro_bytes *in, uint64_t *size) {
    int64_t length;
    if (!avro_long(in, &length) || length < 0) return NULL;
    *size = (uint64_t)length;
    return avro_read_bytes(in, *size);
}

/* Store an integer where it fits. */
static inline int avro_store_integer(uint8_t *row, uint8_t to, int64_t value) {
    switch (to) {
    case AVRO_ROW_I8:
        break;
    case AVRO_ROW_I4:
        if (value < INT32_MIN || value > INT32_MAX) return AVRO_VALUE;
        break;
    case AVRO_ROW_I2:
        if (value < INT16_MIN || value > INT16_MAX) return AVRO_VALUE;
        break;
    case AVRO_ROW_I1:
        if (value < INT8_MIN || value > INT8_MAX) return AVRO_VALUE;
        break;
    case AVRO_ROW_U8:
        if (value < 0) return AVRO_VALUE;
        break;
    case AVRO_ROW_U4:
        if (value < 0 || value > UINT32_MAX) return AVRO_VALUE;
        break;
    case AVRO_ROW_U2:
        if (value < 0 || value > UINT16_MAX) return AVRO_VALUE;
        break;
    default:
        if (value < 0 || value > UINT8_MAX) return AVRO_VALUE;
        break;
    }
    memcpy(row, &value, avro_row_bytes[to]); /* little-endian: the low bytes come first */
    return AVRO_OK;
}

static inline void avro_store_float(uint8_t *row, uint8_t to, double value) {
    float narrow = (float)value;
    if (to == AVRO_ROW_F8)
        memcpy(row, &value, sizeof value);
    else
        memcpy(row, &narrow, sizeof narrow);
}

/* A float for an integer: whole, or scaled to a whole number of nanoseconds (half to even). */
static inline int avro_whole(double value, int64_t scale, int64_t *out) {
    double scaled = scale != 0 ? rint(value * (double)scale) : value;
    if (!(scaled >= -9223372036854775808.0 && scaled < 9223372036854775808.0)) return AVRO_VALUE;
    *out = (int64_t)scaled;
    return (double)*out == scaled ? AVRO_OK : AVRO_VALUE;
}

static inline int avro_number(avro_bytes *in, const avro_op *op, uint8_t *row) {
    int64_t whole = 0;
    double real = 0.0;
    float narrow;
    const uint8_t *p;
    switch (op->from) {
    case AVRO_WIRE_BOOL:
        if (!avro_bool(in, &whole)) return AVRO_BODY;
        break;
    case AVRO_WIRE_INT:
        if (!avro_int(in, &whole)) return AVRO_BODY;
        break;
    case AVRO_WIRE_LONG:
        if (!avro_long(in, &whole)) return AVRO_BODY;
        break;
    case AVRO_WIRE_FLOAT:
        if ((p = avro_read_bytes(in, sizeof narrow)) == NULL) return AVRO_BODY;
        memcpy(&narrow, p, sizeof narrow);
        real = (double)narrow;
        break;
    default:
        if ((p = avro_read_bytes(in, sizeof real)) == NULL) return AVRO_BODY;
        memcpy(&real, p, sizeof real);
    }
    int is_whole = op->from <= AVRO_WIRE_LONG;
    if (op->to <= AVRO_ROW_F4) {
        avro_store_float(row + op->at, op->to, is_whole ? (double)whole : real);
        return AVRO_OK;
    }
    if (!is_whole) {
        if (avro_whole(real, op->scale, &whole) != AVRO_OK) return AVRO_VALUE;
    } else if (op->scale != 0 && __builtin_mul_overflow(whole, op->scale, &whole)) {
        return AVRO_VALUE;
    }
    return avro_store_integer(row + op->at, op->to, whole);
}

/* `size` bytes into a text column, which is already zero. */
static inline int avro_store_text(const avro_op *op, uint8_t *row, const uint8_t *p,
                                  uint64_t size) {
    if ((op->flags & AVRO_FLAG_UTF8) && !avro_utf8_is_valid(p, size)) return AVRO_BODY;
    if (memchr(p, 0, size) != NULL) return AVRO_VALUE;
    if (size > op->size) {
        if (!(op->flags & AVRO_FLAG_CUT)) return AVRO_VALUE;
        size = op->size;
        if (op->flags & AVRO_FLAG_UTF8)
            while (size > 0 && (p[size] & 0xc0) == 0x80) size--; /* not within a character */
    }
    memcpy(row + op->at, p, size);
    return AVRO_OK;
}

/* A big-endian two's complement number / 10^scale; exact numbers only, others are left alone. */
static inline int avro_decimal(avro_bytes *in, const avro_op *op, uint8_t *row) {
    static const double tens[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    uint64_t size = op->jump;
    const uint8_t *p = size != 0 ? avro_read_bytes(in, size) : avro_read_sized(in, &size);
    if (p == NULL) return AVRO_BODY;
    if (size > 8) return AVRO_FALLBACK;
    uint64_t bits = size > 0 && (p[0] & 0x80) ? UINT64_MAX : 0;
    for (uint64_t i = 0; i < size; i++) bits = bits << 8 | p[i];
    int64_t value = (int64_t)bits;
    double limit = op->size <= 15 ? tens[op->size] : 9007199254740992.0; /* 2^53 */
    if ((double)value >= limit || (double)value <= -limit) return AVRO_FALLBACK;
    avro_store_float(row + op->at, AVRO_ROW_F8, (double)value / tens[op->scale]);
    return AVRO_OK;
}

static inline int avro_enum(avro_bytes *in, const avro_plan *plan, const avro_op *op,
                            uint8_t *row) {
    uint32_t index;
    if (!avro_index(in, op->size, &index)) return AVRO_BODY;
    avro_symbol_entry symbol = avro_symbol(plan, op, index);
    if (symbol.size == UINT32_MAX) return AVRO_INCOMPATIBLE;
    memcpy(row + op->at, plan->pool + symbol.at, symbol.size);
    return AVRO_OK;
}

/* Text, fixed, decimal, enum and skipped values. */
static inline int avro_rare(avro_bytes *in, const avro_plan *plan, const avro_op *op,
                            uint8_t *row) {
    uint64_t size;
    uint32_t index;
    int64_t whole;
    const uint8_t *p;
    switch (op->code) {
    case AVRO_OP_FIXED:
        if ((p = avro_read_bytes(in, op->jump)) == NULL) return AVRO_BODY;
        return avro_store_text(op, row, p, op->jump);
    case AVRO_OP_ENUM:
        return avro_enum(in, plan, op, row);
    case AVRO_OP_DECIMAL:
        return avro_decimal(in, op, row);
    case AVRO_OP_SET:
        memcpy(row + op->at, plan->pool + op->scale, op->size);
        return AVRO_OK;
    case AVRO_OP_SKIP:
        return avro_read_bytes(in, op->size) != NULL ? AVRO_OK : AVRO_BODY;
    case AVRO_OP_SKIP_BOOL:
        return avro_bool(in, &whole) ? AVRO_OK : AVRO_BODY;
    case AVRO_OP_SKIP_INT:
        return avro_int(in, &whole) ? AVRO_OK : AVRO_BODY;
    case AVRO_OP_SKIP_LONG:
        return avro_long(in, &whole) ? AVRO_OK : AVRO_BODY;
    case AVRO_OP_SKIP_BYTES:
        return avro_read_sized(in, &size) != NULL ? AVRO_OK : AVRO_BODY;
    case AVRO_OP_SKIP_TEXT:
        p = avro_read_sized(in, &size);
        return p != NULL && avro_utf8_is_valid(p, size) ? AVRO_OK : AVRO_BODY;
    case AVRO_OP_SKIP_ENUM:
        return avro_index(in, op->size, &index) ? AVRO_OK : AVRO_BODY;
    case AVRO_OP_REQUIRE_TEXT:
        return row[op->at] != 0 ? AVRO_OK : AVRO_VALUE;
    case AVRO_OP_REQUIRE_POSITIVE:
        memcpy(&whole, row + op->at, sizeof whole);
        return whole > 0 ? AVRO_OK : AVRO_VALUE;
    default:
        return op->from; /* AVRO_OP_FAIL */
    }
}

/* One body to one row; the row is only whole where AVRO_OK is returned. */
static inline int avro_decode(const avro_plan *plan, const uint8_t *body, uint64_t length,
                              uint8_t *row) {
    avro_bytes in = {body, body + length};
    const uint8_t *p;
    uint64_t size;
    uint32_t index;
    int status = AVRO_OK;
    memcpy(row, plan->template, plan->row_size);
    for (const avro_op *op = plan->ops;; op++) {
        switch (op->code) {
        case AVRO_OP_END:
            return in.at == in.end ? AVRO_OK : AVRO_BODY;
        case AVRO_OP_JUMP:
            op = plan->ops + op->jump - 1;
            break;
        case AVRO_OP_COPY:
            if ((p = avro_read_bytes(&in, op->size)) == NULL) return AVRO_BODY;
            memcpy(row + op->at, p, op->size);
            break;
        case AVRO_OP_NUMBER:
            if ((status = avro_number(&in, op, row)) != AVRO_OK) return status;
            break;
        case AVRO_OP_TEXT:
            if ((p = avro_read_sized(&in, &size)) == NULL) return AVRO_BODY;
            if ((status = avro_store_text(op, row, p, size)) != AVRO_OK) return status;
            break;
        case AVRO_OP_NULLABLE:
            if (!avro_index(&in, 2, &index)) return AVRO_BODY;
            if (index == op->from) op = plan->ops + op->jump - 1;
            break;
        case AVRO_OP_UNION:
            if (!avro_index(&in, op->size, &index)) return AVRO_BODY;
            op = plan->ops + avro_pool_u32(plan, (uint64_t)op->scale + index * 4u) - 1;
            break;
        default:
            if ((status = avro_rare(&in, plan, op, row)) != AVRO_OK) return status;
        }
    }
}

#endif
