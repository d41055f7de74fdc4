/* The ring's writer and its readers. */
#ifndef MESH_PY_RING_H
#define MESH_PY_RING_H

#include "py_records.h"
#include "ring.h"

typedef struct {
    PyObject_HEAD
    mapping_object *mapping;
    mesh_ring ring;
    record_type type;
    uint64_t journal_n;
} ring_object;

static PyTypeObject ring_type;

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *mapping, *dtype;
    Py_ssize_t data, stride, capacity, journal, state_size;
    int checked;
    static char *names[] = {"mapping",    "data_offset", "stride",  "capacity", "journal_offset",
                            "state_size", "dtype",       "checked", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!nnnnnOp", names, &mapping_type, &mapping, &data,
                                     &stride, &capacity, &journal, &state_size, &dtype, &checked))
        return NULL;
    mapping_object *m = (mapping_object *)mapping;
    size_t end = m->readers_offset;
    if (m->closed || data < 0 || (size_t)data > end || data % 8 || stride < 8 || stride % 8 ||
        capacity < 1 || journal < 0 || (size_t)journal > end || journal % 8 || state_size < 0 ||
        (size_t)state_size > end || (size_t)capacity > (end - (size_t)data) / (size_t)stride ||
        (state_size > 0 && (size_t)journal + 2 * mesh_journal_stride((uint64_t)state_size) > end))
        return PyErr_Format(PyExc_ValueError, "the ring lies outside the segment");
    ring_object *r = (ring_object *)type->tp_alloc(type, 0);
    if (r == NULL) return NULL;
    r->mapping = (mapping_object *)Py_NewRef(mapping);
    if (record_type_set(&r->type, dtype) < 0) {
        Py_DECREF(r);
        return NULL;
    }
    r->ring =
        (mesh_ring){mapping_control(m),   m->base + data, state_size ? m->base + journal : NULL,
                    (uint64_t)stride,     r->type.size,   (uint64_t)capacity,
                    (uint64_t)state_size, checked};
    if ((size_t)stride < r->type.size + (checked ? 8u : 0u)) {
        Py_DECREF(r);
        return PyErr_Format(PyExc_ValueError, "records of %zu bytes in a stride of %zd",
                            r->type.size, stride);
    }
    return (PyObject *)r;
}

static void ring_dealloc(ring_object *r) {
    record_type_clear(&r->type);
    Py_XDECREF(r->mapping);
    Py_TYPE(r)->tp_free((PyObject *)r);
}

/* state() -> bytes, the newest committed one, or None */
static PyObject *ring_state(ring_object *r, PyObject *unused) {
    (void)unused;
    int code = mapping_read_problem(r->mapping);
    if (code != 0) return mapping_raise(r->mapping, code);
    if (r->ring.journal == NULL) Py_RETURN_NONE;
    PyObject *state = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)r->ring.state_size);
    if (state == NULL) return NULL;
    uint64_t length = 0;
    int64_t n = -1;
    for (int tries = 0; n < 0 && tries < MESH_READ_TRIES; tries++)
        n = mesh_journal_read(&r->ring, PyBytes_AS_STRING(state), &length);
    if (n <= 0) {
        Py_DECREF(state);
        if (n < 0) return mapping_raise(r->mapping, MESH_CORRUPT);
        Py_RETURN_NONE;
    }
    _PyBytes_Resize(&state, (Py_ssize_t)length);
    return state;
}

/* recover(): what the next writer does before its first publish. */
static PyObject *ring_recover(ring_object *r, PyObject *unused) {
    int code = mapping_write_problem(r->mapping);
    if (code == 0 && !mesh_ring_sane(&r->ring, mesh_ring_published(&r->ring))) code = MESH_CORRUPT;
    if (code != 0) return mapping_raise(r->mapping, code);
    if (r->ring.journal != NULL) r->journal_n = mesh_journal_last(&r->ring);
    return ring_state(r, unused);
}

/* publish(records, state=None) -> sequence of the last record */
static PyObject *ring_publish(ring_object *r, PyObject *const *args, Py_ssize_t n,
                              PyObject *names) {
    mapping_object *m = r->mapping;
    PyObject *records = py_argument(args, n, names, 0, "records");
    PyObject *state = py_argument(args, n, names, 1, "state");
    Py_ssize_t count;
    if (records == NULL) return PyErr_Format(PyExc_TypeError, "publish takes records");
    void *bytes = record_type_bytes(&r->type, records, &count, 0);
    if (bytes == NULL) return NULL;
    if ((uint64_t)count > r->ring.capacity)
        return PyErr_Format(PyExc_ValueError, "%zd records in one call, the ring holds %llu", count,
                            (unsigned long long)r->ring.capacity);
    Py_buffer view = {0};
    if (state != NULL && state != Py_None) {
        if (PyObject_GetBuffer(state, &view, PyBUF_SIMPLE) < 0) return NULL;
        if ((uint64_t)view.len > r->ring.state_size) {
            PyErr_Format(PyExc_ValueError, "a state of %zd bytes, the ring was made for %llu",
                         view.len, (unsigned long long)r->ring.state_size);
            PyBuffer_Release(&view);
            return NULL;
        }
    }
    PyThreadState *thread;
    int code = mapping_begin_writing(m, (size_t)count * r->type.size, &thread);
    uint64_t next = 0, turn = 0, epoch = m->lease_epoch;
    if (code == 0) {
        next = mesh_ring_write(&r->ring, bytes, (uint64_t)count);
        if (view.obj != NULL)
            turn = mesh_journal_write(&r->ring, ++r->journal_n, next, view.buf, (uint64_t)view.len);
        int done = mesh_ring_commit(&r->ring, epoch, next, (uint64_t)count, turn);
        mapping_end_writing(m, thread);
        if (done)
            mapping_wake_waiting(m);
        else
            code = mapping_refusal(m);
    }
    if (view.obj != NULL) PyBuffer_Release(&view);
    if (code != 0) return mapping_raise(m, code);
    return PyLong_FromLongLong((long long)next - 1);
}

static PyObject *ring_oldest(ring_object *r, void *unused) {
    (void)unused;
    int code = mapping_read_problem(r->mapping);
    if (code != 0) return mapping_raise(r->mapping, code);
    return PyLong_FromUnsignedLongLong(mesh_ring_oldest(&r->ring));
}

#define GATHER_AHEAD 16 /* records: several page walks and misses of memory run at once */

/* Copy the bytes `offset` to `offset + bytes` of the records of n sequences; the oldest one used. */
static int64_t gather_copy(const ring_object *r, const int64_t *sequences, size_t n, size_t offset,
                           size_t bytes, uint8_t *out) {
    const mesh_ring *ring = &r->ring;
    int64_t first = INT64_MAX;
    for (size_t i = 0; i < n; i++, out += bytes) {
        if (i + GATHER_AHEAD < n) {
            uint64_t slot = (uint64_t)sequences[i + GATHER_AHEAD] % ring->capacity;
            const uint8_t *next = ring->records + slot * ring->stride + offset;
            for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(next + line);
        }
        if (sequences[i] < first) first = sequences[i];
        uint64_t slot = (uint64_t)sequences[i] % ring->capacity;
        /* plain: what the writer overtook is refused afterwards, as in mesh_copy_out's bulk */
        memcpy(out, ring->records + slot * ring->stride + offset, bytes);
    }
    return first;
}

/* gather(sequences, offset, bytes, out) -> were all of them there, also after the copy? */
static PyObject *ring_gather(ring_object *r, PyObject *args) {
    Py_buffer at, out;
    Py_ssize_t offset, bytes;
    if (!PyArg_ParseTuple(args, "y*nnw*", &at, &offset, &bytes, &out)) return NULL;
    mapping_object *m = r->mapping;
    PyObject *result = NULL;
    Py_ssize_t n = at.len / 8;
    int code = mapping_read_problem(m);
    if (code != 0)
        (void)mapping_raise(m, code);
    else if (at.len % 8 || offset < 0 || bytes < 1 ||
             (uint64_t)bytes > r->ring.record_size - (uint64_t)offset || out.len / bytes != n ||
             out.len % bytes)
        PyErr_Format(PyExc_ValueError, "gather: %zd sequences of %zd bytes each into %zd bytes", n,
                     bytes, out.len);
    else {
        m->users++;
        PyThreadState *state = out.len > (Py_ssize_t)MESH_GIL_BYTES ? PyEval_SaveThread() : NULL;
        int64_t first = gather_copy(r, at.buf, (size_t)n, (size_t)offset, (size_t)bytes, out.buf);
        uint64_t oldest = mesh_ring_oldest(&r->ring);
        if (state != NULL) PyEval_RestoreThread(state);
        m->users--;
        result = PyBool_FromLong(n == 0 || (first >= 0 && (uint64_t)first >= oldest));
    }
    PyBuffer_Release(&at);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef ring_methods[] = {
    {"gather", (PyCFunction)ring_gather, METH_VARARGS, NULL},
    {"publish", (PyCFunction)(void (*)(void))ring_publish, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"state", (PyCFunction)ring_state, METH_NOARGS, NULL},
    {"recover", (PyCFunction)ring_recover, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef ring_getset[] = {
    {"oldest", (getter)ring_oldest, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject ring_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "mesh._core._native.Ring",
    .tp_basicsize = sizeof(ring_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = ring_new,
    .tp_dealloc = (destructor)ring_dealloc,
    .tp_methods = ring_methods,
    .tp_getset = ring_getset,
};

/* --- a reader: a cursor of its own, in its own process ------------------------------------- */

typedef struct {
    PyObject_HEAD
    ring_object *ring;
    uint64_t sequence; /* the next one to read */
    uint64_t lost;
    uint64_t lapped;
} reader_object;

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *ring;
    unsigned long long sequence;
    static char *names[] = {"ring", "sequence", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!K", names, &ring_type, &ring, &sequence))
        return NULL;
    reader_object *self = (reader_object *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->ring = (ring_object *)Py_NewRef(ring);
    self->sequence = sequence;
    return (PyObject *)self;
}

static void reader_dealloc(reader_object *self) {
    Py_XDECREF(self->ring);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Move the cursor to the oldest trusted record and count what was passed over. */
static void reader_catch_up(reader_object *self, uint64_t oldest) {
    if (oldest <= self->sequence) return;
    mapping_object *m = self->ring->mapping;
    uint64_t lost = oldest - self->sequence;
    self->lost += lost;
    self->lapped++;
    self->sequence = oldest;
    count_reader(m, &m->readers->laps, 1);
    count_reader(m, &m->readers->lost, lost);
}

/* How many records can be read now (at most `room`), or -1 with the problem raised. */
static Py_ssize_t reader_available(reader_object *self, uint64_t room) {
    const mesh_ring *ring = &self->ring->ring;
    int code = mapping_read_problem(self->ring->mapping);
    uint64_t tail = 0;
    if (code == 0) {
        tail = mesh_ring_published(ring);
        if (!mesh_ring_sane(ring, tail)) code = MESH_CORRUPT;
    }
    if (code != 0) {
        mapping_raise(self->ring->mapping, code);
        return -1;
    }
    uint64_t oldest = mesh_ring_oldest(ring);
    reader_catch_up(self, oldest < tail ? oldest : tail);
    if (tail <= self->sequence) return 0;
    uint64_t count = tail - self->sequence;
    return (Py_ssize_t)(count < room ? count : room);
}

/* Copy `count` records to `out`; afterwards the overwritten ones are dropped and counted. -1 with
 * the problem raised where one that was not overwritten has a wrong checksum. */
static Py_ssize_t reader_copy(reader_object *self, uint8_t *out, Py_ssize_t count) {
    ring_object *r = self->ring;
    size_t bytes = (size_t)count * r->type.size;
    uint64_t first = self->sequence, end = first + (uint64_t)count;
    PyThreadState *state = mapping_begin_reading(r->mapping, bytes);
    uint64_t wrong = mesh_ring_copy(&r->ring, first, (uint64_t)count, out, 0);
    uint64_t oldest = mesh_ring_oldest(&r->ring);
    mapping_end_reading(r->mapping, state);
    if (wrong > oldest) {
        mapping_raise(r->mapping, MESH_CHECKSUM);
        return -1;
    }
    if (self->sequence != first)
        PyErr_SetString(PyExc_RuntimeError, "two threads read through one RingReader");
    if (self->sequence != first) return -1;
    reader_catch_up(self, oldest);
    if (self->sequence >= end) return 0;
    Py_ssize_t kept = (Py_ssize_t)(end - self->sequence);
    if (self->sequence > first)
        memmove(out, out + (self->sequence - first) * r->type.size, (size_t)kept * r->type.size);
    self->sequence = end;
    return kept;
}

/* The records as bytes, of a ring opened without a dtype. */
static PyObject *reader_read_bytes(reader_object *self, Py_ssize_t count) {
    Py_ssize_t size = (Py_ssize_t)self->ring->type.size;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, count * size);
    if (bytes == NULL || count == 0) return bytes;
    Py_ssize_t kept = reader_copy(self, (uint8_t *)PyBytes_AS_STRING(bytes), count);
    if (kept < 0)
        Py_CLEAR(bytes);
    else if (kept < count)
        (void)_PyBytes_Resize(&bytes, kept * size);
    return bytes;
}

static PyObject *reader_read_new(reader_object *self, Py_ssize_t most) {
    PyArray_Descr *descr = self->ring->type.descr;
    Py_ssize_t count = reader_available(self, (uint64_t)most);
    if (count < 0) return NULL;
    if (descr == NULL) return reader_read_bytes(self, count);
    npy_intp shape[1] = {count};
    Py_INCREF(descr);
    PyObject *array = PyArray_SimpleNewFromDescr(1, shape, descr);
    if (array == NULL || count == 0) return array;
    Py_ssize_t kept = reader_copy(self, PyArray_DATA((PyArrayObject *)array), count);
    if (kept < 0) {
        Py_DECREF(array);
        return NULL;
    }
    if (kept == count) return array;
    PyObject *part = PySequence_GetSlice(array, 0, kept);
    Py_DECREF(array);
    return part;
}

/* read's timeout and spin: wait until there is something to read. -1 with the error raised. */
static int reader_await(reader_object *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    PyObject *timeout = py_argument(args, n, names, 2, "timeout");
    py_wait_limits w;
    if (timeout == NULL) return 0;
    if (py_wait_limits_set(&w, timeout, py_argument(args, n, names, 3, "spin")) < 0) return -1;
    return mapping_wait_above(self->ring->mapping, self->sequence, w);
}

/* read(max_records=4096) -> array (or bytes), or read(out=array) -> count; both with timeout=0, spin=... */
static PyObject *reader_read(reader_object *self, PyObject *const *args, Py_ssize_t n,
                             PyObject *names) {
    PyObject *most = py_argument(args, n, names, 0, "max_records");
    PyObject *out = py_argument(args, n, names, 1, "out");
    if ((n > 2 || names != NULL) && reader_await(self, args, n, names) < 0) return NULL;
    if (out == NULL || out == Py_None) {
        Py_ssize_t limit = most == NULL ? 4096 : PyLong_AsSsize_t(most);
        if (PyErr_Occurred()) return NULL;
        if (limit < 1) return PyErr_Format(PyExc_ValueError, "max_records must be >= 1");
        return reader_read_new(self, limit);
    }
    Py_ssize_t room;
    uint8_t *bytes = record_type_bytes(&self->ring->type, out, &room, 1);
    if (bytes == NULL) return NULL;
    Py_ssize_t count = reader_available(self, (uint64_t)room);
    if (count < 0) return NULL;
    if (count > 0) count = reader_copy(self, bytes, count);
    return count < 0 ? NULL : PyLong_FromSsize_t(count);
}

static PyObject *reader_get(reader_object *self, void *which) {
    uint64_t values[3] = {self->sequence, self->lost, self->lapped};
    return PyLong_FromUnsignedLongLong(values[(intptr_t)which]);
}

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))reader_read, METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef reader_getset[] = {
    {"sequence", (getter)reader_get, NULL, NULL, (void *)0},
    {"lost", (getter)reader_get, NULL, NULL, (void *)1},
    {"lapped", (getter)reader_get, NULL, NULL, (void *)2},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject reader_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "mesh._core._native.RingReader",
    .tp_basicsize = sizeof(reader_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = reader_new,
    .tp_dealloc = (destructor)reader_dealloc,
    .tp_methods = reader_methods,
    .tp_getset = reader_getset,
};

#endif
