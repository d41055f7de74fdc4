/* A batch of messages: where their bytes are, what became of each, and their rows.
 *
 * The arrays are numpy's, made once and used again for every batch; nothing is allocated for a
 * message. The bytes stay where librdkafka's binding put them: the batch holds the list. */
#ifndef INGEST_PY_BATCH_H
#define INGEST_PY_BATCH_H

#include "py_plan.h"

enum { FRAME_BYTES = 5, MAGIC = 0 };
enum { ROWS, STATUS, SCHEMA_IDS, OFFSETS, PLACES, ORIGINS, ARRAYS };

typedef struct {
    PyObject *name;  /* str */
    int32_t *places; /* by partition; -1: not ours */
    int32_t partitions;
} batch_topic;

typedef struct {
    PyObject_HEAD
    Py_buffer arrays[ARRAYS];
    const uint8_t **data; /* bodies, behind the frame */
    uint32_t *sizes;
    batch_topic *topics;
    int32_t *place_topic, *place_partition; /* what is stamped into rows */
    PyObject *messages;
    Py_ssize_t capacity, count, topic_count, place_count, row_size;
    Py_ssize_t at_topic, at_partition, at_offset;
} batch_object;

static const Py_ssize_t batch_item[ARRAYS] = {0, 1, 4, 8, 4, 4};
static PyObject *name_value, *name_error, *name_topic, *name_partition, *name_offset;

static void batch_dealloc(batch_object *b) {
    for (int i = 0; i < ARRAYS; i++)
        if (b->arrays[i].obj != NULL) PyBuffer_Release(&b->arrays[i]);
    for (Py_ssize_t i = 0; b->topics != NULL && i < b->topic_count; i++) {
        Py_XDECREF(b->topics[i].name);
        PyMem_Free(b->topics[i].places);
    }
    PyMem_Free(b->topics);
    PyMem_Free(b->place_topic);
    PyMem_Free(b->place_partition);
    PyMem_Free(b->data);
    PyMem_Free(b->sizes);
    Py_XDECREF(b->messages);
    Py_TYPE(b)->tp_free((PyObject *)b);
}

static int batch_arrays(batch_object *b, PyObject *arrays) {
    if (!PyTuple_Check(arrays) || PyTuple_GET_SIZE(arrays) != ARRAYS) {
        PyErr_SetString(PyExc_TypeError, "expected (rows, status, ids, offsets, places, origins)");
        return -1;
    }
    for (int i = 0; i < ARRAYS; i++)
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(arrays, i), &b->arrays[i],
                               PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0)
            return -1;
    b->capacity = b->arrays[STATUS].len;
    for (int i = STATUS; i < ARRAYS; i++)
        if (b->capacity < 1 || b->arrays[i].len != b->capacity * batch_item[i]) {
            PyErr_Format(PyExc_ValueError, "array %d has %zd bytes for %zd messages", i,
                         b->arrays[i].len, b->capacity);
            return -1;
        }
    b->row_size = b->arrays[ROWS].len / b->capacity;
    return 0;
}

static int batch_topic_add(batch_object *b, PyObject *name) {
    for (Py_ssize_t i = 0; i < b->topic_count; i++)
        if (PyUnicode_Compare(b->topics[i].name, name) == 0) return (int)i;
    b->topics[b->topic_count].name = Py_NewRef(name);
    return (int)b->topic_count++;
}

static int batch_place_add(batch_topic *topic, int32_t partition, int32_t place) {
    if (partition >= topic->partitions) {
        int32_t *grown =
            PyMem_Realloc(topic->places, ((size_t)partition + 1) * sizeof *topic->places);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        topic->places = grown;
        while (topic->partitions <= partition) grown[topic->partitions++] = -1;
    }
    topic->places[partition] = place;
    return 0;
}

/* places: [(topic, index of the topic in rows, partition)] */
static int batch_places(batch_object *b, PyObject *places) {
    if (!PyList_Check(places)) {
        PyErr_SetString(PyExc_TypeError, "places is a list");
        return -1;
    }
    Py_ssize_t n = PyList_GET_SIZE(places);
    b->topics = PyMem_Calloc((size_t)n + 1, sizeof *b->topics);
    b->place_topic = PyMem_Calloc((size_t)n + 1, sizeof *b->place_topic);
    b->place_partition = PyMem_Calloc((size_t)n + 1, sizeof *b->place_partition);
    if (b->topics == NULL || b->place_topic == NULL || b->place_partition == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *name;
        int index, partition;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(places, i), "Uii", &name, &index, &partition))
            return -1;
        if (partition < 0 || partition > 1 << 20) {
            PyErr_Format(PyExc_ValueError, "partition %d", partition);
            return -1;
        }
        b->place_topic[i] = index;
        b->place_partition[i] = partition;
        if (batch_place_add(&b->topics[batch_topic_add(b, name)], partition, (int32_t)i) < 0)
            return -1;
    }
    b->place_count = n;
    return 0;
}

/* Batch(arrays, places, at_topic, at_partition, at_offset): the last three are bytes in the
 * row, -1 where it has no such column. */
static PyObject *batch_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *arrays, *places;
    Py_ssize_t topic, partition, offset;
    static char *names[] = {"arrays", "places", "at_topic", "at_partition", "at_offset", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOnnn", names, &arrays, &places, &topic, &partition,
                                     &offset))
        return NULL;
    batch_object *b = (batch_object *)type->tp_alloc(type, 0);
    if (b == NULL) return NULL;
    b->at_topic = topic;
    b->at_partition = partition;
    b->at_offset = offset;
    if (batch_arrays(b, arrays) < 0 || batch_places(b, places) < 0) {
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

/* --- taking messages ---------------------------------------------------------------------- */

/* The methods of a message as C functions where its type has them (librdkafka's binding does). */
typedef struct {
    PyTypeObject *type;
    PyCFunction value, error, topic, partition, offset;
} message_calls;

static PyCFunction message_call(PyTypeObject *type, PyObject *name) {
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

/* The place of a message, -1 with an exception for one that is not ours. */
static int32_t message_place(batch_object *b, const message_calls *calls, PyObject *message,
                             Py_ssize_t *last) {
    int64_t partition;
    if (message_integer(message, calls->partition, name_partition, &partition) < 0) return -1;
    if (b->topic_count != 1) {
        PyObject *topic = message_get(message, calls->topic, name_topic);
        if (topic == NULL) return -1;
        Py_ssize_t i = *last;
        if (i >= b->topic_count || PyUnicode_Compare(b->topics[i].name, topic) != 0)
            for (i = 0; i < b->topic_count; i++)
                if (PyUnicode_Compare(b->topics[i].name, topic) == 0) break;
        Py_DECREF(topic);
        if (PyErr_Occurred()) return -1;
        *last = i;
    }
    if (*last < b->topic_count && partition >= 0 && partition < b->topics[*last].partitions) {
        int32_t place = b->topics[*last].places[partition];
        if (place >= 0) return place;
    }
    PyErr_Format(PyExc_KeyError, "a message of a partition that was not assigned: %R", message);
    return -1;
}

/* Look at the frame; the body is borrowed from `value`, which its message keeps. */
static void batch_frame(batch_object *b, Py_ssize_t i, PyObject *value) {
    uint8_t *status = (uint8_t *)b->arrays[STATUS].buf + i;
    uint32_t *id = (uint32_t *)b->arrays[SCHEMA_IDS].buf + i;
    *status = AVRO_FRAME;
    *id = 0;
    if (!PyBytes_CheckExact(value) || PyBytes_GET_SIZE(value) < FRAME_BYTES ||
        PyBytes_GET_SIZE(value) > INT32_MAX)
        return;
    const uint8_t *p = (const uint8_t *)PyBytes_AS_STRING(value);
    if (p[0] != MAGIC) return;
    *id = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    b->data[i] = p + FRAME_BYTES;
    b->sizes[i] = (uint32_t)PyBytes_GET_SIZE(value) - FRAME_BYTES;
    *status = AVRO_PENDING;
}

static void batch_begin(batch_object *b, PyObject *messages) {
    Py_INCREF(messages);
    Py_XSETREF(b->messages, messages);
    b->count = 0;
}

/* Append one message; 1: an event, 0: a message (taken, or passed before), -1: an exception. */
static int batch_append(batch_object *b, const message_calls *calls, PyObject *message,
                        Py_ssize_t origin, int64_t *next, Py_ssize_t *topic, Py_ssize_t *stale) {
    PyObject *error = message_get(message, calls->error, name_error);
    if (error == NULL) return -1;
    Py_DECREF(error);
    if (error != Py_None) return 1;
    int64_t offset;
    int32_t place = message_place(b, calls, message, topic);
    if (place < 0 || message_integer(message, calls->offset, name_offset, &offset) < 0) return -1;
    if (offset < next[place]) {
        ++*stale;
        return 0;
    }
    PyObject *value = message_get(message, calls->value, name_value);
    if (value == NULL) return -1;
    Py_ssize_t i = b->count++;
    batch_frame(b, i, value);
    Py_DECREF(value); /* the message still has it */
    ((int64_t *)b->arrays[OFFSETS].buf)[i] = offset;
    ((int32_t *)b->arrays[PLACES].buf)[i] = place;
    ((int32_t *)b->arrays[ORIGINS].buf)[i] = (int32_t)origin;
    next[place] = offset + 1;
    return 0;
}

static int batch_takes(batch_object *b, PyObject *list) {
    if (PyList_CheckExact(list) && PyList_GET_SIZE(list) <= b->capacity) return 1;
    PyErr_Format(PyExc_ValueError, "expected a list of at most %zd", b->capacity);
    return 0;
}

/* take(messages, next) -> (events, stale): `next` (int64 by place) is moved behind the messages;
 * what lies before it was passed already and is left out. Events are messages with an error. */
static PyObject *batch_take(batch_object *b, PyObject *args) {
    PyObject *messages;
    Py_buffer next;
    if (!PyArg_ParseTuple(args, "Ow*", &messages, &next)) return NULL;
    PyObject *events = PyList_New(0);
    Py_ssize_t stale = 0, topic = 0;
    if (next.len != b->place_count * (Py_ssize_t)sizeof(int64_t))
        PyErr_Format(PyExc_ValueError, "%zd bytes of positions for %zd places", next.len,
                     b->place_count);
    else if (events != NULL && batch_takes(b, messages)) {
        message_calls calls = {0};
        batch_begin(b, messages);
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(messages); i++) {
            PyObject *message = PyList_GET_ITEM(messages, i);
            PyTypeObject *type = Py_TYPE(message);
            if (type != calls.type)
                calls = (message_calls){type,
                                        message_call(type, name_value),
                                        message_call(type, name_error),
                                        message_call(type, name_topic),
                                        message_call(type, name_partition),
                                        message_call(type, name_offset)};
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

/* take_values(values): bytes or None each; they belong to no place. */
static PyObject *batch_take_values(batch_object *b, PyObject *values) {
    if (!batch_takes(b, values)) return NULL;
    batch_begin(b, values);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(values); i++) {
        batch_frame(b, i, PyList_GET_ITEM(values, i));
        ((int64_t *)b->arrays[OFFSETS].buf)[i] = 0;
        ((int32_t *)b->arrays[PLACES].buf)[i] = -1;
        ((int32_t *)b->arrays[ORIGINS].buf)[i] = (int32_t)i;
        b->count++;
    }
    Py_RETURN_NONE;
}

/* --- decoding ----------------------------------------------------------------------------- */

static void batch_stamp_row(batch_object *b, Py_ssize_t i) {
    uint8_t *row = (uint8_t *)b->arrays[ROWS].buf + i * b->row_size;
    int32_t place = ((int32_t *)b->arrays[PLACES].buf)[i];
    if (place < 0) return;
    if (b->at_topic >= 0) memcpy(row + b->at_topic, &b->place_topic[place], sizeof(int32_t));
    if (b->at_partition >= 0)
        memcpy(row + b->at_partition, &b->place_partition[place], sizeof(int32_t));
    if (b->at_offset >= 0)
        memcpy(row + b->at_offset, (int64_t *)b->arrays[OFFSETS].buf + i, sizeof(int64_t));
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

/* decode(plans): decode what is pending and has a plan; gives how many remain pending. */
static PyObject *batch_decode(batch_object *b, PyObject *plans) {
    if (!PyDict_Check(plans)) return PyErr_Format(PyExc_TypeError, "plans is a dict");
    uint8_t *status = b->arrays[STATUS].buf, *row = b->arrays[ROWS].buf;
    const uint32_t *ids = b->arrays[SCHEMA_IDS].buf;
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

/* stamp(i): the place and offset into a row that was filled otherwise. */
static PyObject *batch_stamp(batch_object *b, PyObject *number) {
    Py_ssize_t i = PyLong_AsSsize_t(number);
    if (i == -1 && PyErr_Occurred()) return NULL;
    if (i < 0 || i >= b->count) return PyErr_Format(PyExc_IndexError, "message %zd", i);
    batch_stamp_row(b, i);
    Py_RETURN_NONE;
}

/* clear(): let the messages go. */
static PyObject *batch_clear(batch_object *b, PyObject *unused) {
    (void)unused;
    Py_CLEAR(b->messages);
    b->count = 0;
    Py_RETURN_NONE;
}

static PyObject *batch_count(batch_object *b, void *unused) {
    (void)unused;
    return PyLong_FromSsize_t(b->count);
}

static PyMethodDef batch_methods[] = {
    {"take", (PyCFunction)batch_take, METH_VARARGS, NULL},
    {"take_values", (PyCFunction)batch_take_values, METH_O, NULL},
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
