/* A batch of messages: where their bytes are, what became of each, and their rows.
 *
 * The arrays are numpy's, made once and used again for every batch; nothing is allocated for a
 * message. The bytes stay in the objects that confluent-kafka made: the batch holds the list. */
#ifndef INGEST_PY_BATCH_H
#define INGEST_PY_BATCH_H

#include "py_plan.h"

enum { BATCH_FRAME_BYTES = 5, BATCH_FRAME_MAGIC = 0 };
enum {
    BATCH_ROWS,
    BATCH_STATUS,
    BATCH_SCHEMA_IDS,
    BATCH_OFFSETS,
    BATCH_PARTITIONS,
    BATCH_ORIGINS,
    BATCH_ARRAYS
};

typedef struct {
    PyObject *name;   /* str */
    int32_t *indices; /* by partition: its index among the assigned ones; -1: not assigned */
    int32_t limit;    /* partitions below this one are in `indices` */
} batch_topic;

typedef struct {
    PyObject_HEAD
    Py_buffer arrays[BATCH_ARRAYS];
    const uint8_t **data; /* bodies, behind the frame */
    uint32_t *sizes;
    batch_topic *topics;
    int32_t *topic_of, *partition_of; /* by index of a partition: what is stamped into rows */
    PyObject *messages;
    PyObject *values; /* list: bodies that no message keeps alive; NULL: none were loaded */
    int is_direct;    /* methods of messages may be called as C functions */
    Py_ssize_t capacity, count, topic_count, partition_count, row_size;
    Py_ssize_t at_topic, at_partition, at_offset;
} batch_object;

static const Py_ssize_t batch_item_bytes[BATCH_ARRAYS] = {0, 1, 4, 8, 4, 4};
static PyObject *message_name_value, *message_name_error, *message_name_topic,
    *message_name_partition, *message_name_offset;

static void batch_dealloc(batch_object *b) {
    for (int i = 0; i < BATCH_ARRAYS; i++)
        if (b->arrays[i].obj != NULL) PyBuffer_Release(&b->arrays[i]);
    for (Py_ssize_t i = 0; b->topics != NULL && i < b->topic_count; i++) {
        Py_XDECREF(b->topics[i].name);
        PyMem_Free(b->topics[i].indices);
    }
    PyMem_Free(b->topics);
    PyMem_Free(b->topic_of);
    PyMem_Free(b->partition_of);
    PyMem_Free(b->data);
    PyMem_Free(b->sizes);
    Py_XDECREF(b->messages);
    Py_XDECREF(b->values);
    Py_TYPE(b)->tp_free((PyObject *)b);
}

static int batch_arrays(batch_object *b, PyObject *arrays) {
    if (!PyTuple_Check(arrays) || PyTuple_GET_SIZE(arrays) != BATCH_ARRAYS) {
        PyErr_SetString(PyExc_TypeError,
                        "expected (rows, status, schema_ids, offsets, partitions, origins)");
        return -1;
    }
    /* buffers, not arrays (py_arrays.h): this module is built without NumPy */
    for (int i = 0; i < BATCH_ARRAYS; i++)
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(arrays, i), &b->arrays[i],
                               PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0)
            return -1;
    b->capacity = b->arrays[BATCH_STATUS].len;
    for (int i = BATCH_STATUS; i < BATCH_ARRAYS; i++)
        if (b->capacity < 1 || b->arrays[i].len != b->capacity * batch_item_bytes[i]) {
            PyErr_Format(PyExc_ValueError, "array %d has %zd bytes for %zd messages", i,
                         b->arrays[i].len, b->capacity);
            return -1;
        }
    b->row_size = b->arrays[BATCH_ROWS].len / b->capacity;
    return 0;
}

static int batch_topic_add(batch_object *b, PyObject *name) {
    for (Py_ssize_t i = 0; i < b->topic_count; i++)
        if (PyUnicode_Compare(b->topics[i].name, name) == 0) return (int)i;
    b->topics[b->topic_count].name = Py_NewRef(name);
    return (int)b->topic_count++;
}

static int batch_partition_add(batch_topic *topic, int32_t partition, int32_t index) {
    if (partition >= topic->limit) {
        int32_t *grown =
            PyMem_Realloc(topic->indices, ((size_t)partition + 1) * sizeof *topic->indices);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        topic->indices = grown;
        while (topic->limit <= partition) grown[topic->limit++] = -1;
    }
    topic->indices[partition] = index;
    return 0;
}

/* partitions: [(topic, number of the topic in rows, partition)] */
static int batch_partitions(batch_object *b, PyObject *partitions) {
    if (!PyList_Check(partitions)) {
        PyErr_SetString(PyExc_TypeError, "partitions is a list");
        return -1;
    }
    Py_ssize_t n = PyList_GET_SIZE(partitions);
    b->topics = PyMem_Calloc((size_t)n + 1, sizeof *b->topics);
    b->topic_of = PyMem_Calloc((size_t)n + 1, sizeof *b->topic_of);
    b->partition_of = PyMem_Calloc((size_t)n + 1, sizeof *b->partition_of);
    if (b->topics == NULL || b->topic_of == NULL || b->partition_of == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *name;
        int index, partition;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(partitions, i), "Uii", &name, &index, &partition))
            return -1;
        if (partition < 0 || partition > 1 << 20) {
            PyErr_Format(PyExc_ValueError, "partition %d", partition);
            return -1;
        }
        b->topic_of[i] = index;
        b->partition_of[i] = partition;
        if (batch_partition_add(&b->topics[batch_topic_add(b, name)], partition, (int32_t)i) < 0)
            return -1;
    }
    b->partition_count = n;
    return 0;
}

/* Batch(arrays, partitions, at_topic, at_partition, at_offset, is_direct): the three positions are
 * bytes from the start of a row, -1 where it has no such column; is_direct: the methods of messages
 * may be called as C functions (see message_calls). */
static PyObject *batch_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *arrays, *partitions;
    Py_ssize_t topic, partition, offset;
    int is_direct;
    static char *names[] = {"arrays",    "partitions", "at_topic", "at_partition",
                            "at_offset", "is_direct",  NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOnnnp", names, &arrays, &partitions, &topic,
                                     &partition, &offset, &is_direct))
        return NULL;
    batch_object *b = (batch_object *)type->tp_alloc(type, 0);
    if (b == NULL) return NULL;
    b->at_topic = topic;
    b->at_partition = partition;
    b->at_offset = offset;
    b->is_direct = is_direct;
    if (batch_arrays(b, arrays) < 0 || batch_partitions(b, partitions) < 0) {
        Py_DECREF(b);
        return NULL;
    }
    Py_ssize_t last = b->row_size;
    b->data = PyMem_Calloc((size_t)b->capacity, sizeof *b->data);
    b->sizes = PyMem_Calloc((size_t)b->capacity, sizeof *b->sizes);
    if (b->data == NULL || b->sizes == NULL) {
        PyErr_NoMemory();
    } else if ((topic >= 0 && topic > last - 4) || (partition >= 0 && partition > last - 4) ||
               (offset >= 0 && offset > last - 8)) {
        PyErr_SetString(PyExc_ValueError, "a stamp lies outside the row");
    } else {
        return (PyObject *)b;
    }
    Py_DECREF(b);
    return NULL;
}

/* --- loading messages --------------------------------------------------------------------- */

/* The methods of a message as C functions, NULL where they are called as Python does it.
 *
 * confluent-kafka's Message has plain METH_NOARGS methods, and its value() returns an object that
 * the message itself holds. Both are internals of that package: a batch relies on them only where
 * `is_direct` says that this version is known (decoder.py compares the versions). Otherwise every
 * method is called by name, and the batch keeps the values itself. */
typedef struct {
    PyTypeObject *type;
    PyCFunction value, error, topic, partition, offset;
} message_calls;

static PyCFunction message_call(const batch_object *b, PyTypeObject *type, PyObject *name) {
    if (!b->is_direct) return NULL;
    PyObject *found = PyObject_GetAttr((PyObject *)type, name);
    PyCFunction call = NULL;
    if (found == NULL) {
        PyErr_Clear();
    } else if (Py_IS_TYPE(found, &PyMethodDescr_Type)) {
        PyMethodDef *method = ((PyMethodDescrObject *)found)->d_method;
        if (method->ml_flags == METH_NOARGS) call = method->ml_meth;
    }
    Py_XDECREF(found);
    return call;
}

static PyObject *message_get(PyObject *message, PyCFunction call, PyObject *name) {
    return call != NULL ? call(message, NULL) : PyObject_CallMethodNoArgs(message, name);
}

static int message_integer(PyObject *message, PyCFunction call, PyObject *name, int64_t *out) {
    PyObject *found = message_get(message, call, name);
    if (found == NULL) return -1;
    *out = PyLong_AsLongLong(found);
    Py_DECREF(found);
    return *out == -1 && PyErr_Occurred() ? -1 : 0;
}

/* The index of a message's partition; -1 with an exception for one that is not assigned. */
static int32_t message_partition(batch_object *b, const message_calls *calls, PyObject *message,
                                 Py_ssize_t *last) {
    int64_t partition;
    if (message_integer(message, calls->partition, message_name_partition, &partition) < 0)
        return -1;
    if (b->topic_count != 1) {
        PyObject *topic = message_get(message, calls->topic, message_name_topic);
        if (topic == NULL) return -1;
        Py_ssize_t i = *last;
        if (i >= b->topic_count || PyUnicode_Compare(b->topics[i].name, topic) != 0)
            for (i = 0; i < b->topic_count; i++)
                if (PyUnicode_Compare(b->topics[i].name, topic) == 0) break;
        Py_DECREF(topic);
        if (PyErr_Occurred()) return -1;
        *last = i;
    }
    if (*last < b->topic_count && partition >= 0 && partition < b->topics[*last].limit) {
        int32_t index = b->topics[*last].indices[partition];
        if (index >= 0) return index;
    }
    PyErr_Format(PyExc_KeyError, "a message of a partition that was not assigned: %R", message);
    return -1;
}

/* Parse the frame; the body is borrowed from `value`, which its message or the batch keeps. */
static void batch_frame(batch_object *b, Py_ssize_t i, PyObject *value) {
    uint8_t *status = (uint8_t *)b->arrays[BATCH_STATUS].buf + i;
    uint32_t *id = (uint32_t *)b->arrays[BATCH_SCHEMA_IDS].buf + i;
    *status = AVRO_FRAME;
    *id = 0;
    if (!PyBytes_CheckExact(value) || PyBytes_GET_SIZE(value) < BATCH_FRAME_BYTES ||
        PyBytes_GET_SIZE(value) > INT32_MAX)
        return;
    const uint8_t *p = (const uint8_t *)PyBytes_AS_STRING(value);
    if (p[0] != BATCH_FRAME_MAGIC) return;
    *id = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    b->data[i] = p + BATCH_FRAME_BYTES;
    b->sizes[i] = (uint32_t)PyBytes_GET_SIZE(value) - BATCH_FRAME_BYTES;
    *status = AVRO_PENDING;
}

static void batch_begin(batch_object *b, PyObject *messages) {
    Py_INCREF(messages);
    Py_XSETREF(b->messages, messages);
    Py_CLEAR(b->values);
    b->count = 0;
}

/* The message keeps its value; where that is not known, the batch does. */
static int batch_hold(batch_object *b, const message_calls *calls, PyObject *value) {
    if (calls->value != NULL) return 0;
    if (b->values == NULL && (b->values = PyList_New(0)) == NULL) return -1;
    return PyList_Append(b->values, value);
}

/* Append one message; 1: an event, 0: a message (loaded, or stale), -1: an exception. */
static int batch_append(batch_object *b, const message_calls *calls, PyObject *message,
                        Py_ssize_t origin, int64_t *next, Py_ssize_t *topic, Py_ssize_t *stale) {
    PyObject *error = message_get(message, calls->error, message_name_error);
    if (error == NULL) return -1;
    Py_DECREF(error);
    if (error != Py_None) return 1;
    int64_t offset;
    int32_t index = message_partition(b, calls, message, topic);
    if (index < 0 || message_integer(message, calls->offset, message_name_offset, &offset) < 0)
        return -1;
    if (offset < next[index]) {
        ++*stale;
        return 0;
    }
    PyObject *value = message_get(message, calls->value, message_name_value);
    if (value == NULL) return -1;
    int is_held = batch_hold(b, calls, value);
    Py_DECREF(value); /* whoever keeps it still has it */
    if (is_held < 0) return -1;
    Py_ssize_t i = b->count++;
    batch_frame(b, i, value);
    ((int64_t *)b->arrays[BATCH_OFFSETS].buf)[i] = offset;
    ((int32_t *)b->arrays[BATCH_PARTITIONS].buf)[i] = index;
    ((int32_t *)b->arrays[BATCH_ORIGINS].buf)[i] = (int32_t)origin;
    next[index] = offset + 1;
    return 0;
}

static int batch_accepts(batch_object *b, PyObject *list) {
    if (PyList_CheckExact(list) && PyList_GET_SIZE(list) <= b->capacity) return 1;
    PyErr_Format(PyExc_ValueError, "expected a list of at most %zd", b->capacity);
    return 0;
}

/* load(messages, next_offsets) -> (events, stale): `next_offsets` (int64 by index of a partition) is
 * moved behind the messages; those before it are stale, counted and left out. Events are messages
 * with an error. */
static PyObject *batch_load(batch_object *b, PyObject *args) {
    PyObject *messages;
    Py_buffer next;
    if (!PyArg_ParseTuple(args, "Ow*", &messages, &next)) return NULL;
    PyObject *events = PyList_New(0);
    Py_ssize_t stale = 0, topic = 0;
    if (next.len != b->partition_count * (Py_ssize_t)sizeof(int64_t))
        PyErr_Format(PyExc_ValueError, "%zd bytes of offsets for %zd partitions", next.len,
                     b->partition_count);
    else if (events != NULL && batch_accepts(b, messages)) {
        message_calls calls = {0};
        batch_begin(b, messages);
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(messages); i++) {
            PyObject *message = PyList_GET_ITEM(messages, i);
            PyTypeObject *type = Py_TYPE(message);
            if (type != calls.type)
                calls = (message_calls){type,
                                        message_call(b, type, message_name_value),
                                        message_call(b, type, message_name_error),
                                        message_call(b, type, message_name_topic),
                                        message_call(b, type, message_name_partition),
                                        message_call(b, type, message_name_offset)};
            int kind = batch_append(b, &calls, message, i, next.buf, &topic, &stale);
            if (kind < 0 || (kind > 0 && PyList_Append(events, message) < 0)) break;
        }
    }
    PyBuffer_Release(&next);
    if (PyErr_Occurred()) {
        b->count = 0;
        Py_XDECREF(events);
        return NULL;
    }
    return Py_BuildValue("(Nn)", events, stale);
}

/* load_values(values): bytes or None each; they belong to no partition. */
static PyObject *batch_load_values(batch_object *b, PyObject *values) {
    if (!batch_accepts(b, values)) return NULL;
    batch_begin(b, values);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(values); i++) {
        batch_frame(b, i, PyList_GET_ITEM(values, i));
        ((int64_t *)b->arrays[BATCH_OFFSETS].buf)[i] = 0;
        ((int32_t *)b->arrays[BATCH_PARTITIONS].buf)[i] = -1;
        ((int32_t *)b->arrays[BATCH_ORIGINS].buf)[i] = (int32_t)i;
        b->count++;
    }
    Py_RETURN_NONE;
}

/* --- decoding ----------------------------------------------------------------------------- */

static void batch_stamp_row(batch_object *b, Py_ssize_t i) {
    uint8_t *row = (uint8_t *)b->arrays[BATCH_ROWS].buf + i * b->row_size;
    int32_t index = ((int32_t *)b->arrays[BATCH_PARTITIONS].buf)[i];
    if (index < 0) return;
    if (b->at_topic >= 0) memcpy(row + b->at_topic, &b->topic_of[index], sizeof(int32_t));
    if (b->at_partition >= 0)
        memcpy(row + b->at_partition, &b->partition_of[index], sizeof(int32_t));
    if (b->at_offset >= 0)
        memcpy(row + b->at_offset, (int64_t *)b->arrays[BATCH_OFFSETS].buf + i, sizeof(int64_t));
}

/* The plan of a schema id, borrowed; NULL (perhaps with an exception) where there is none. */
static const avro_plan *batch_plan(batch_object *b, PyObject *plans, uint32_t id) {
    PyObject *key = PyLong_FromUnsignedLong(id);
    if (key == NULL) return NULL;
    PyObject *found = PyDict_GetItemWithError(plans, key);
    Py_DECREF(key);
    if (found == NULL) return NULL;
    const avro_plan *plan = &((plan_object *)found)->plan;
    if (Py_IS_TYPE(found, &plan_type) && (Py_ssize_t)plan->row_size == b->row_size) return plan;
    PyErr_SetString(PyExc_TypeError, "expected plans for rows of this size, by schema id");
    return NULL;
}

/* decode(plans): decode what is pending and has a plan; returns how many remain pending. */
static PyObject *batch_decode(batch_object *b, PyObject *plans) {
    if (!PyDict_Check(plans)) return PyErr_Format(PyExc_TypeError, "plans is a dict");
    uint8_t *status = b->arrays[BATCH_STATUS].buf, *row = b->arrays[BATCH_ROWS].buf;
    const uint32_t *ids = b->arrays[BATCH_SCHEMA_IDS].buf;
    const avro_plan *plan = NULL;
    int64_t last = -1;
    Py_ssize_t pending = 0;
    for (Py_ssize_t i = 0; i < b->count; i++, row += b->row_size) {
        if (status[i] != AVRO_PENDING) continue;
        if ((int64_t)ids[i] != last) {
            plan = batch_plan(b, plans, ids[i]);
            if (plan == NULL && PyErr_Occurred()) return NULL;
            last = ids[i];
        }
        if (plan == NULL) {
            pending++;
            continue;
        }
        status[i] = (uint8_t)avro_decode(plan, b->data[i], b->sizes[i], row);
        if (status[i] == AVRO_OK) batch_stamp_row(b, i);
    }
    return PyLong_FromSsize_t(pending);
}

/* stamp(i): write topic, partition and offset into a row that Python filled. */
static PyObject *batch_stamp(batch_object *b, PyObject *number) {
    Py_ssize_t i = PyLong_AsSsize_t(number);
    if (i == -1 && PyErr_Occurred()) return NULL;
    if (i < 0 || i >= b->count) return PyErr_Format(PyExc_IndexError, "message %zd", i);
    batch_stamp_row(b, i);
    Py_RETURN_NONE;
}

/* clear(): release the messages. */
static PyObject *batch_clear(batch_object *b, PyObject *unused) {
    (void)unused;
    Py_CLEAR(b->messages);
    Py_CLEAR(b->values);
    b->count = 0;
    Py_RETURN_NONE;
}

static PyObject *batch_count(batch_object *b, void *unused) {
    (void)unused;
    return PyLong_FromSsize_t(b->count);
}

static PyMethodDef batch_methods[] = {
    {"load", (PyCFunction)batch_load, METH_VARARGS, NULL},
    {"load_values", (PyCFunction)batch_load_values, METH_O, NULL},
    {"decode", (PyCFunction)batch_decode, METH_O, NULL},
    {"stamp", (PyCFunction)batch_stamp, METH_O, NULL},
    {"clear", (PyCFunction)batch_clear, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef batch_getset[] = {
    {"count", (getter)batch_count, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject batch_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "workers.ingest.decode._avro._native.Batch",
    .tp_basicsize = sizeof(batch_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = batch_new,
    .tp_dealloc = (destructor)batch_dealloc,
    .tp_methods = batch_methods,
    .tp_getset = batch_getset,
};

#endif
