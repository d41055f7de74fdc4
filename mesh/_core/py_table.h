/* Tables: the latest record of each key. */
#ifndef MESH_PY_TABLE_H
#define MESH_PY_TABLE_H

#include "py_records.h"
#include "table.h"

typedef struct {
    PyObject_HEAD
    mapping_object *mapping;
    mesh_table table;
    record_type type;
    uint8_t *scratch;
} table_object;

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *mapping, *dtype;
    Py_ssize_t data, stride, capacity, index, index_size;
    int checked;
    static char *names[] = {"mapping",    "data_offset", "slot_stride", "rows", "index_offset",
                            "index_size", "dtype",       "checked",     NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!nnnnnOp", names, &mapping_type, &mapping, &data,
                                     &stride, &capacity, &index, &index_size, &dtype, &checked))
        return NULL;
    mapping_object *m = (mapping_object *)mapping;
    size_t row_stride = sizeof(mesh_row) + 2 * (size_t)stride;
    size_t end = m->readers_offset;
    if (m->closed || data < 0 || (size_t)data > end || data % 16 || stride < 64 || stride % 8 ||
        (size_t)stride > end || capacity < 1 || (size_t)capacity > end || index < 0 ||
        (size_t)index > end || index % 4 || index_size < 2 || (size_t)index_size > end ||
        (index_size & (index_size - 1)) || index_size < 2 * capacity ||
        (size_t)capacity > (m->readers_offset - (size_t)data) / row_stride ||
        (size_t)index + 4 * (size_t)index_size > m->readers_offset)
        return PyErr_Format(PyExc_ValueError, "the table lies outside the segment");
    table_object *t = (table_object *)type->tp_alloc(type, 0);
    if (t == NULL) return NULL;
    t->mapping = (mapping_object *)Py_NewRef(mapping);
    t->table = (mesh_table){mapping_control(m),   (uint32_t *)(void *)(m->base + index),
                            (uint64_t)index_size, m->base + data,
                            row_stride,           (uint64_t)stride,
                            (uint64_t)capacity,   checked};
    if (record_type_set(&t->type, dtype) < 0 ||
        (t->scratch = PyMem_Malloc(t->type.size + 8)) == NULL) {
        Py_DECREF(t);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    if ((size_t)stride < sizeof(mesh_slot) + (t->type.size + 7) / 8 * 8) {
        Py_DECREF(t);
        return PyErr_Format(PyExc_ValueError, "records of %zu bytes in a stride of %zd",
                            t->type.size, stride);
    }
    return (PyObject *)t;
}

static void table_dealloc(table_object *t) {
    record_type_clear(&t->type);
    PyMem_Free(t->scratch);
    Py_XDECREF(t->mapping);
    Py_TYPE(t)->tp_free((PyObject *)t);
}

/* A str or bytes key, zero-padded. */
static int py_key_bytes(PyObject *key, uint8_t out[MESH_KEY_BYTES]) {
    const char *text = NULL;
    Py_ssize_t length = 0;
    if (PyUnicode_Check(key))
        text = PyUnicode_AsUTF8AndSize(key, &length);
    else if (PyBytes_Check(key)) {
        text = PyBytes_AS_STRING(key);
        length = PyBytes_GET_SIZE(key);
    } else
        PyErr_Format(PyExc_TypeError, "a key is str or bytes, got %R", key);
    if (text == NULL) return -1;
    if (length < 1 || length > (Py_ssize_t)MESH_KEY_BYTES) {
        PyErr_Format(PyExc_ValueError, "key %R has %zd bytes, 1 to %d are allowed", key, length,
                     (int)MESH_KEY_BYTES);
        return -1;
    }
    memset(out, 0, MESH_KEY_BYTES);
    memcpy(out, text, (size_t)length);
    return 0;
}

/* 0 or a problem; the row's version in *version. */
static int table_put(table_object *t, const uint8_t *key, const void *record, uint64_t *version) {
    uint64_t lease = t->mapping->lease_epoch << 1;
    int64_t row = mesh_table_find(&t->table, key);
    if (row < 0) row = mesh_table_add(&t->table, key, lease);
    if (row < 0) return MESH_FULL;
    mesh_slots slots = mesh_row_slots(&t->table, (uint64_t)row);
    *version = mesh_slots_publish(&slots, lease, record, t->type.size);
    return *version != 0 ? 0 : mapping_refusal(t->mapping);
}

static void table_announce(table_object *t) {
    uint64_t *word = &t->table.control->published, lease = t->mapping->lease_epoch << 1;
    uint64_t n = mesh_load(word);
    (void)mesh_cas_pair(word, n, lease, n + 1, lease); /* pairs with the acquire in mapping_wait */
    mapping_wake_waiting(t->mapping);
}

/* write(key, record) -> version of the row */
static PyObject *table_write(table_object *t, PyObject *const *args, Py_ssize_t n) {
    if (n != 2) return PyErr_Format(PyExc_TypeError, "write takes key and record, got %zd", n);
    uint8_t key[MESH_KEY_BYTES];
    Py_ssize_t count;
    if (py_key_bytes(args[0], key) < 0) return NULL;
    void *record = record_type_bytes(&t->type, args[1], &count, 0);
    if (record == NULL) return NULL;
    if (count != 1) return PyErr_Format(PyExc_ValueError, "expected 1 record, got %zd", count);
    uint64_t version = 0;
    PyThreadState *state;
    int code = mapping_begin_writing(t->mapping, 0, &state);
    if (code == 0) code = table_put(t, key, record, &version);
    if (code != 0) return mapping_raise(t->mapping, code);
    table_announce(t);
    return PyLong_FromUnsignedLongLong(version);
}

/* write_batch(keys, records): one call for many rows; the last record of a key wins */
static PyObject *table_write_batch(table_object *t, PyObject *const *args, Py_ssize_t n) {
    if (n != 2) return PyErr_Format(PyExc_TypeError, "write_batch takes keys and records");
    Py_ssize_t count;
    uint8_t *records = record_type_bytes(&t->type, args[1], &count, 0);
    if (records == NULL) return NULL;
    PyArrayObject *keys = (PyArrayObject *)args[0];
    if (!PyArray_Check(args[0]) || PyArray_TYPE(keys) != NPY_STRING || PyArray_NDIM(keys) != 1 ||
        PyArray_ITEMSIZE(keys) > (npy_intp)MESH_KEY_BYTES || PyArray_SIZE(keys) != count)
        return PyErr_Format(PyExc_TypeError, "keys are an array S1 to S%d, one a record (%zd)",
                            (int)MESH_KEY_BYTES, count);
    const uint8_t *source = PyArray_DATA(keys);
    PyThreadState *state;
    int code = mapping_begin_writing(t->mapping, (size_t)count * t->type.size, &state);
    int may = code == 0;
    for (Py_ssize_t i = 0; code == 0 && i < count; i++, source += PyArray_STRIDE(keys, 0)) {
        uint8_t key[MESH_KEY_BYTES] = {0};
        uint64_t version;
        memcpy(key, source, (size_t)PyArray_ITEMSIZE(keys));
        code = table_put(t, key, records + (size_t)i * t->type.size, &version);
    }
    if (may) mapping_end_writing(t->mapping, state);
    if (may && count > 0) table_announce(t); /* a batch that failed midway has written some */
    if (code != 0) return mapping_raise(t->mapping, code);
    Py_RETURN_NONE;
}

/* One row into `out`: its version, 0 if it has no value yet, or minus the problem. */
static int64_t table_fetch(table_object *t, uint64_t row, void *out) {
    mesh_slots slots = mesh_row_slots(&t->table, row);
    size_t bytes = 0;
    for (int tries = 0; tries < MESH_READ_TRIES; tries++) {
        int64_t version = mesh_slots_read(&slots, out, t->type.size, &bytes);
        if (version > 0 && bytes != t->type.size) break;
        if (version >= 0) return version;
        if (version == MESH_WRONG_SUM) return -MESH_CHECKSUM;
        if (version != MESH_BUSY) break;
        count_reader(t->mapping, &t->mapping->readers->retries, 1);
    }
    return -MESH_CORRUPT;
}

/* read(key, out=None) -> (version, record) */
static PyObject *table_read(table_object *t, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    uint8_t key[MESH_KEY_BYTES];
    PyObject *out = py_argument(args, n, names, 1, "out");
    if (n < 1) return PyErr_Format(PyExc_TypeError, "read takes a key");
    if (py_key_bytes(args[0], key) < 0) return NULL;
    int code = mapping_read_problem(t->mapping);
    if (code != 0) return mapping_raise(t->mapping, code);
    void *target = t->scratch;
    Py_ssize_t count = 1;
    if (out != NULL && out != Py_None &&
        (target = record_type_bytes(&t->type, out, &count, 1)) == NULL)
        return NULL;
    if (count != 1) return PyErr_Format(PyExc_ValueError, "expected 1 record, got %zd", count);
    int64_t row = mesh_table_find(&t->table, key);
    int64_t version = row < 0 ? 0 : table_fetch(t, (uint64_t)row, target);
    if (version < 0) return mapping_raise(t->mapping, (int)-version);
    if (version == 0) {
        PyErr_SetObject(PyExc_KeyError, args[0]);
        return NULL;
    }
    return py_versioned((uint64_t)version, target == t->scratch
                                               ? record_type_value(&t->type, t->scratch)
                                               : Py_NewRef(out));
}

/* snapshot(out) -> rows written to the start of `out` */
static PyObject *table_snapshot(table_object *t, PyObject *out) {
    Py_ssize_t room, filled = 0;
    uint8_t *target = record_type_bytes(&t->type, out, &room, 1);
    if (target == NULL) return NULL;
    int code = mapping_read_problem(t->mapping);
    if (code != 0) return mapping_raise(t->mapping, code);
    uint64_t rows = mesh_table_rows(&t->table);
    for (uint64_t row = 0; row < rows && filled < room; row++) {
        int64_t version = table_fetch(t, row, target + (size_t)filled * t->type.size);
        if (version < 0) return mapping_raise(t->mapping, (int)-version);
        filled += version > 0;
    }
    return PyLong_FromSsize_t(filled);
}

/* keys() -> list of bytes, in the order of snapshot() */
static PyObject *table_keys(table_object *t, PyObject *unused) {
    (void)unused;
    int code = mapping_read_problem(t->mapping);
    if (code != 0) return mapping_raise(t->mapping, code);
    PyObject *keys = PyList_New(0);
    uint64_t rows = mesh_table_rows(&t->table);
    for (uint64_t row = 0; keys != NULL && row < rows; row++) {
        mesh_row *head = mesh_row_of(&t->table, row);
        if (mesh_load_acquire(&head->version) == 0) continue;
        char text[MESH_KEY_BYTES + 1] = {0};
        mesh_copy_out(text, head->key, MESH_KEY_BYTES);
        if (mesh_key_hash((uint8_t *)text) != mesh_load(&head->key_hash)) {
            Py_DECREF(keys);
            return mapping_raise(t->mapping, MESH_CORRUPT);
        }
        PyObject *key = PyBytes_FromString(text);
        if (key == NULL || PyList_Append(keys, key) < 0) Py_CLEAR(keys);
        Py_XDECREF(key);
    }
    return keys;
}

/* recover(): what the next writer does before its first write */
static PyObject *table_recover(table_object *t, PyObject *unused) {
    (void)unused;
    int code = mapping_write_problem(t->mapping);
    if (code == 0 && !mesh_table_repair(&t->table, t->mapping->lease_epoch << 1))
        code = MESH_CORRUPT;
    if (code != 0) return mapping_raise(t->mapping, code);
    table_announce(t); /* what the former writer committed and did not come to announce */
    Py_RETURN_NONE;
}

static PyMethodDef table_methods[] = {
    {"write", (PyCFunction)(void (*)(void))table_write, METH_FASTCALL, NULL},
    {"write_batch", (PyCFunction)(void (*)(void))table_write_batch, METH_FASTCALL, NULL},
    {"read", (PyCFunction)(void (*)(void))table_read, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"snapshot", (PyCFunction)table_snapshot, METH_O, NULL},
    {"keys", (PyCFunction)table_keys, METH_NOARGS, NULL},
    {"recover", (PyCFunction)table_recover, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyTypeObject table_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "mesh._core._native.Table",
    .tp_basicsize = sizeof(table_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = table_new,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = table_methods,
};

#endif
