/* Heartbeats: a row a worker, each a value in two slots. */
#ifndef MESH_PY_HEARTBEAT_H
#define MESH_PY_HEARTBEAT_H

#include "heartbeat.h"
#include "py_mapping.h"

typedef struct {
    PyObject_HEAD
    mapping_object *mapping;
    mesh_table table; /* without an index */
    int64_t row;      /* ours, -1 = a reader */
    uint64_t fork;
    uint64_t lease; /* of our claim; the next one shuts us out */
    mesh_heartbeat now;
} heartbeats_object;

static PyObject *heartbeats_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *mapping;
    Py_ssize_t data, stride, rows;
    static char *names[] = {"mapping", "data_offset", "slot_stride", "rows", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!nnn", names, &mapping_type, &mapping, &data,
                                     &stride, &rows))
        return NULL;
    mapping_object *m = (mapping_object *)mapping;
    size_t row_stride = sizeof(mesh_row) + 2 * (size_t)stride;
    size_t end = m->readers_offset;
    if (m->closed || data < 0 || (size_t)data > end || data % 16 || (size_t)stride > end ||
        stride < (Py_ssize_t)(sizeof(mesh_slot) + sizeof(mesh_heartbeat)) || stride % 8 ||
        rows < 1 || (size_t)rows > end ||
        (size_t)rows > (m->readers_offset - (size_t)data) / row_stride)
        return PyErr_Format(PyExc_ValueError, "the rows lie outside the segment");
    heartbeats_object *h = (heartbeats_object *)type->tp_alloc(type, 0);
    if (h == NULL) return NULL;
    h->mapping = (mapping_object *)Py_NewRef(mapping);
    h->table = (mesh_table){mapping_control(m), NULL,           0, m->base + data, row_stride,
                            (uint64_t)stride,   (uint64_t)rows, 0};
    h->row = -1;
    return (PyObject *)h;
}

static void heartbeats_dealloc(heartbeats_object *h) {
    Py_XDECREF(h->mapping);
    Py_TYPE(h)->tp_free((PyObject *)h);
}

/* rows() -> [(key, pid, phase, start_time, phase_since_ns, expect_ns, beats, progress, beat_ns, ready,
 * detail)] */
static PyObject *heartbeats_rows(heartbeats_object *h, PyObject *unused) {
    (void)unused;
    int code = mapping_read_problem(h->mapping);
    if (code != 0) return mapping_raise(h->mapping, code);
    PyObject *list = PyList_New(0);
    uint64_t rows = mesh_table_rows(&h->table);
    for (uint64_t row = 0; list != NULL && row < rows; row++) {
        mesh_heartbeat b;
        uint8_t key[MESH_KEY_BYTES + 1] = {0};
        char detail[MESH_DETAIL_BYTES + 1] = {0};
        int64_t version = MESH_BUSY;
        for (int tries = 0; version == MESH_BUSY && tries < MESH_READ_TRIES; tries++)
            version = mesh_heartbeat_read(&h->table, row, &b, key);
        if (version <
            0) { /* damaged: nobody's, so that the others are seen and it can be claimed */
            memset(&b, 0, sizeof b);
            memset(key, 0, sizeof key);
        }
        memcpy(detail, b.detail, MESH_DETAIL_BYTES);
        PyObject *item = Py_BuildValue("yIIKLLKKLKy", (char *)key, b.pid, b.phase,
                                       (unsigned long long)b.start_time,
                                       (long long)b.phase_since_ns, (long long)b.expect_ns,
                                       (unsigned long long)b.beats, (unsigned long long)b.progress,
                                       (long long)b.beat_ns, (unsigned long long)b.ready, detail);
        if (item == NULL || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* claim(row, key, pid, start_time): take a row (rows() long = a new one) under the directory's
 * lock, its former process being dead. False when no row is left. */
static PyObject *heartbeats_claim(heartbeats_object *h, PyObject *args) {
    unsigned long long row, start;
    const char *name;
    Py_ssize_t length;
    unsigned int pid;
    if (!PyArg_ParseTuple(args, "Ky#IK", &row, &name, &length, &pid, &start)) return NULL;
    int code = mapping_read_problem(h->mapping);
    if (code == 0 && !h->mapping->writable) code = MESH_NOT_WRITER;
    if (code != 0) return mapping_raise(h->mapping, code);
    uint64_t rows = mesh_table_rows(&h->table);
    if (row > rows || length < 1 || length > (Py_ssize_t)MESH_KEY_BYTES)
        return PyErr_Format(PyExc_ValueError, "row %llu of %llu, name of %zd bytes", row,
                            (unsigned long long)rows, length);
    uint8_t key[MESH_KEY_BYTES] = {0};
    memcpy(key, name, (size_t)length);
    int64_t now = mesh_monotonic_ns();
    h->now = (mesh_heartbeat){pid, 1, start, now, 0, 0, 0, now, 0, {0}};
    int claimed = mesh_heartbeat_claim(&h->table, row, key, &h->now, &h->lease);
    if (claimed == MESH_HEARTBEATS_FULL) Py_RETURN_FALSE;
    if (claimed == MESH_HEARTBEAT_LOST) return mapping_raise(h->mapping, MESH_LEASE_LOST);
    h->row = (int64_t)row;
    h->fork = py_fork_count;
    Py_RETURN_TRUE;
}

/* beat(phase, progress, expect_ns, ready): from the worker's own loop; one write, no system call */
static PyObject *heartbeats_beat(heartbeats_object *h, PyObject *const *args, Py_ssize_t n) {
    if (n != 4) return PyErr_Format(PyExc_TypeError, "beat takes 4 arguments, got %zd", n);
    unsigned long phase = PyLong_AsUnsignedLong(args[0]);
    uint64_t progress = PyLong_AsUnsignedLongLong(args[1]);
    int64_t expect = PyLong_AsLongLong(args[2]);
    int ready = PyObject_IsTrue(args[3]);
    if (PyErr_Occurred()) return NULL;
    int code = mapping_read_problem(h->mapping);
    if (code == 0 && (h->row < 0 || h->fork != py_fork_count)) code = MESH_LEASE_LOST;
    if (code != 0) return mapping_raise(h->mapping, code);
    int64_t now = mesh_monotonic_ns();
    if (phase != h->now.phase || expect != h->now.expect_ns) h->now.phase_since_ns = now;
    h->now.phase = (uint32_t)phase;
    h->now.expect_ns = expect;
    h->now.progress = progress;
    h->now.ready = (uint64_t)(ready != 0);
    h->now.beats++;
    h->now.beat_ns = now;
    if (!mesh_heartbeat_publish(&h->table, (uint64_t)h->row, h->lease, &h->now))
        return mapping_raise(h->mapping, MESH_LEASE_LOST);
    Py_RETURN_NONE;
}

/* describe(detail): what goes out with the next beat; at most MESH_DETAIL_BYTES are kept */
static PyObject *heartbeats_describe(heartbeats_object *h, PyObject *detail) {
    char *text;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(detail, &text, &length) < 0) return NULL;
    if (length > (Py_ssize_t)MESH_DETAIL_BYTES) length = MESH_DETAIL_BYTES;
    memset(h->now.detail, 0, sizeof h->now.detail);
    memcpy(h->now.detail, text, (size_t)length);
    Py_RETURN_NONE;
}

static PyMethodDef heartbeats_methods[] = {
    {"rows", (PyCFunction)heartbeats_rows, METH_NOARGS, NULL},
    {"claim", (PyCFunction)heartbeats_claim, METH_VARARGS, NULL},
    {"beat", (PyCFunction)(void (*)(void))heartbeats_beat, METH_FASTCALL, NULL},
    {"describe", (PyCFunction)heartbeats_describe, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyTypeObject heartbeats_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "mesh._core._native.Heartbeats",
    .tp_basicsize = sizeof(heartbeats_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = heartbeats_new,
    .tp_dealloc = (destructor)heartbeats_dealloc,
    .tp_methods = heartbeats_methods,
};

#endif
