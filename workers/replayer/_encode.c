/* Rows of a structured array to Avro messages in one pass.
 *
 * A writer schema is compiled in Python (workers/replayer/encoder.py) to a list of operations, one
 * a field in the order of the schema; here each row runs through that list into a buffer on the
 * stack and becomes one bytes object. Nothing is allocated besides those. Encoding: Avro 1.12,
 * "Binary Encoding": long as zig-zag in groups of seven bits, double and float little-endian,
 * string as its length and its bytes, a union of null and T as the branch (0 or 1) before T.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum source { BYTES = 0, INT64 = 1, UINT32 = 2, FLOAT64 = 3 };
enum written { STRING = 0, LONG = 1, DOUBLE = 2, FLOAT = 3, NOTHING = 4 };
enum absent { NEVER = 0, IF_NAN = 1, IF_EQUAL = 2, IF_EMPTY = 3, ALWAYS = 4 };

/* one field of the writer's schema; made by struct.pack("<6iq") in encoder.py */
struct operation {
    int32_t source;  /* what the row holds */
    int32_t offset;  /* where, in bytes */
    int32_t size;    /* how many bytes, of BYTES */
    int32_t written; /* what the schema wants; with an absent rule: a union of null and it */
    int32_t absent;  /* which value is written as null */
    int32_t reserved;
    int64_t equal; /* the value of IF_EQUAL */
};
_Static_assert(sizeof(struct operation) == 32, "struct.pack in encoder.py makes 32 bytes");

#define MAX_MESSAGE 4096
#define MAX_VARINT 10

static uint8_t *put_long(uint8_t *to, int64_t value) {
    uint64_t bits = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    while (bits >= 0x80) {
        *to++ = (uint8_t)(bits | 0x80);
        bits >>= 7;
    }
    *to++ = (uint8_t)bits;
    return to;
}

static int64_t as_integer(const struct operation *op, const uint8_t *from) {
    if (op->source == UINT32) {
        uint32_t value;
        memcpy(&value, from, sizeof value);
        return value;
    }
    int64_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static double as_real(const struct operation *op, const uint8_t *from) {
    if (op->source != FLOAT64) return (double)as_integer(op, from);
    double value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* numpy pads texts with zero bytes: the text ends at the last byte that is not zero */
static int32_t text_length(const struct operation *op, const uint8_t *from) {
    int32_t length = op->size;
    while (length > 0 && from[length - 1] == 0) length--;
    return length;
}

static int is_absent(const struct operation *op, const uint8_t *from) {
    switch (op->absent) {
    case IF_NAN: {
        double value = as_real(op, from);
        return value != value;
    }
    case IF_EQUAL:
        return as_integer(op, from) == op->equal;
    case IF_EMPTY:
        return text_length(op, from) == 0;
    case ALWAYS:
        return 1;
    default:
        return 0;
    }
}

static uint8_t *put_field(uint8_t *to, const struct operation *op, const uint8_t *row) {
    const uint8_t *from = row + op->offset;
    if (op->written == NOTHING) /* a field whose whole type is null has no bytes */
        return to;
    if (op->absent != NEVER) {
        int absent = is_absent(op, from);
        *to++ = absent ? 0 : 2;
        if (absent) return to;
    }
    switch (op->written) {
    case STRING: {
        int32_t length = text_length(op, from);
        to = put_long(to, length);
        memcpy(to, from, (size_t)length);
        return to + length;
    }
    case LONG:
        return put_long(to, as_integer(op, from));
    case FLOAT: {
        float value = (float)as_real(op, from);
        memcpy(to, &value, sizeof value);
        return to + sizeof value;
    }
    default: {
        double value = as_real(op, from);
        memcpy(to, &value, sizeof value);
        return to + sizeof value;
    }
    }
}

/* 0 when no operation can read beyond a row or write beyond MAX_MESSAGE, else -1 and ValueError */
static int check_operations(const struct operation *ops, Py_ssize_t count, Py_ssize_t row_bytes,
                            Py_ssize_t head_bytes) {
    Py_ssize_t longest = head_bytes;
    for (Py_ssize_t i = 0; i < count; i++) {
        const struct operation *op = &ops[i];
        Py_ssize_t size = op->source == BYTES ? op->size : op->source == UINT32 ? 4 : 8;
        int text = op->written == STRING;
        if (op->source < BYTES || op->source > FLOAT64 || op->written < STRING ||
            op->written > NOTHING || op->absent < NEVER || op->absent > ALWAYS || op->offset < 0 ||
            size <= 0 || op->offset > row_bytes - size ||
            (text != (op->source == BYTES) && op->written != NOTHING) ||
            (op->absent == IF_EMPTY && op->source != BYTES) ||
            ((op->absent == IF_NAN || op->absent == IF_EQUAL) && op->source == BYTES) ||
            (op->written == LONG && op->source == FLOAT64)) {
            PyErr_Format(PyExc_ValueError, "operation %zd does not fit rows of %zd bytes", i,
                         row_bytes);
            return -1;
        }
        longest += 1 + MAX_VARINT + (text ? size : 0);
    }
    if (longest > MAX_MESSAGE) {
        PyErr_Format(PyExc_ValueError, "messages of %zd bytes, %d at most", longest, MAX_MESSAGE);
        return -1;
    }
    return 0;
}

static PyObject *messages(const struct operation *ops, Py_ssize_t op_count, const uint8_t *rows,
                          Py_ssize_t count, Py_ssize_t row_bytes, const Py_buffer *head) {
    PyObject *list = PyList_New(count);
    if (list == NULL) return NULL;
    uint8_t buffer[MAX_MESSAGE];
    memcpy(buffer, head->buf, (size_t)head->len);
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint8_t *row = rows + i * row_bytes;
        uint8_t *to = buffer + head->len;
        for (Py_ssize_t k = 0; k < op_count; k++) to = put_field(to, &ops[k], row);
        PyObject *message = PyBytes_FromStringAndSize((const char *)buffer, to - buffer);
        if (message == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, message);
    }
    return list;
}

static PyObject *encode(PyObject *module, PyObject *args) {
    (void)module;
    /* buffers, not arrays (py_arrays.h): this module is built without NumPy */
    Py_buffer ops, head, rows;
    Py_ssize_t row_bytes;
    if (!PyArg_ParseTuple(args, "y*y*y*n", &ops, &head, &rows, &row_bytes)) return NULL;
    PyObject *result = NULL;
    Py_ssize_t op_bytes = (Py_ssize_t)sizeof(struct operation);
    Py_ssize_t op_count = ops.len / op_bytes;
    if (row_bytes <= 0 || rows.len % row_bytes != 0 || ops.len % op_bytes != 0)
        PyErr_Format(PyExc_ValueError, "%zd bytes are no whole rows of %zd, or %zd no operations",
                     rows.len, row_bytes, ops.len);
    else if (check_operations(ops.buf, op_count, row_bytes, head.len) == 0)
        result = messages(ops.buf, op_count, rows.buf, rows.len / row_bytes, row_bytes, &head);
    PyBuffer_Release(&ops);
    PyBuffer_Release(&head);
    PyBuffer_Release(&rows);
    return result;
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS,
     "encode(operations, head, rows, row_bytes): one message a row, each behind `head`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "workers.replayer._encode",
    "Rows to Avro messages.",
    0,
    methods,
    NULL,
    NULL,
    NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__encode(void) { return PyModule_Create(&definition); }
