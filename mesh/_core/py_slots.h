/* Cells and tensors: the value in slots behind the segment's published version. */
#ifndef MESH_PY_SLOTS_H
#define MESH_PY_SLOTS_H

#include "py_records.h"
#include "tensors.h"

typedef struct {
    PyObject_HEAD
    mapping_object *mapping;
    mesh_slots slots;
    record_type type; /* size 0: bytes of any number */
    size_t room;
    uint8_t *scratch;
    PyObject *encode, *decode, *refuses; /* of a Struct's cell, see set_codec */
    PyObject *pair;                      /* what read(out) gave last: used again when it is free */
    PyObject *number;                    /* the version in it */
    uint64_t numbered;
} slots_object;

/* A slot's bytes: payloads are copied by whole words. */
static inline size_t slots_rounded_payload(size_t room) {
    return sizeof(mesh_slot) + (room + 7) / 8 * 8;
}

static PyObject *slots_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *mapping, *dtype;
    Py_ssize_t data, stride, count, room;
    int checked;
    static char *names[] = {"mapping",     "data_offset", "stride",  "slots",
                            "record_size", "dtype",       "checked", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!nnnnOp", names, &mapping_type, &mapping, &data,
                                     &stride, &count, &room, &dtype, &checked))
        return NULL;
    mapping_object *m = (mapping_object *)mapping;
    size_t end = m->readers_offset;
    if (m->closed || data < 0 || (size_t)data > end || data % 8 || count < 2 || count > 64 ||
        room < 1 || stride % 8 || (size_t)stride > (end - (size_t)data) / (size_t)count ||
        (size_t)stride < slots_rounded_payload((size_t)room))
        return PyErr_Format(PyExc_ValueError, "slots outside the segment");
    slots_object *s = (slots_object *)type->tp_alloc(type, 0);
    if (s == NULL) return NULL;
    s->mapping = (mapping_object *)Py_NewRef(mapping);
    s->slots = (mesh_slots){&mapping_control(m)->published, m->base + data, (uint64_t)stride,
                            (uint64_t)count, checked};
    s->room = (size_t)room;
    s->scratch = PyMem_Malloc(s->room);
    if (s->scratch == NULL || (dtype != Py_None && record_type_set(&s->type, dtype) < 0)) {
        Py_DECREF(s);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    return (PyObject *)s;
}

static int slots_traverse(slots_object *s, visitproc visit, void *arg) {
    Py_VISIT(s->mapping);
    Py_VISIT(s->encode);
    Py_VISIT(s->decode);
    Py_VISIT(s->refuses);
    Py_VISIT(s->pair);
    return 0;
}

static void slots_dealloc(slots_object *s) {
    PyObject_GC_UnTrack(s);
    record_type_clear(&s->type);
    Py_CLEAR(s->encode);
    Py_CLEAR(s->decode);
    Py_CLEAR(s->refuses);
    Py_CLEAR(s->pair);
    Py_CLEAR(s->number);
    PyMem_Free(s->scratch);
    Py_XDECREF(s->mapping);
    Py_TYPE(s)->tp_free((PyObject *)s);
}

static PyObject *slots_publish(slots_object *s, const void *payload, size_t bytes) {
    mapping_object *m = s->mapping;
    PyThreadState *state;
    int code = mapping_begin_writing(m, bytes, &state);
    if (code != 0) return mapping_raise(m, code);
    uint64_t version = mesh_slots_publish(&s->slots, m->lease_epoch << 1, payload, bytes);
    mapping_end_writing(m, state);
    if (version == 0) return mapping_raise(m, mapping_refusal(m));
    mapping_wake_waiting(m);
    return PyLong_FromUnsignedLongLong(version);
}

/* write(record) -> version */
static PyObject *slots_write(slots_object *s, PyObject *record) {
    Py_ssize_t count;
    void *bytes = record_type_bytes(&s->type, record, &count, 0);
    if (bytes == NULL) return NULL;
    if (count != 1) return PyErr_Format(PyExc_ValueError, "expected 1 record, got %zd", count);
    return slots_publish(s, bytes, s->type.size);
}

static PyObject *slots_write_bytes(slots_object *s, PyObject *encoded) {
    Py_buffer view;
    if (PyObject_GetBuffer(encoded, &view, PyBUF_SIMPLE) < 0) return NULL;
    PyObject *version = NULL;
    if ((size_t)view.len > s->room)
        PyErr_Format(PyExc_ValueError, "the encoded value has %zd bytes, the cell holds %zu",
                     view.len, s->room);
    else
        version = slots_publish(s, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return version;
}

/* The newest value into `out`: its version, or 0 with the problem raised. */
static uint64_t slots_fetch(slots_object *s, void *out, size_t *bytes) {
    mapping_object *m = s->mapping;
    int code = mapping_read_problem(m);
    int64_t version = MESH_BUSY;
    /* the scratch buffer is every thread's: it is filled under the GIL */
    size_t unlocked = out == s->scratch ? 0 : s->room;
    for (int tries = 0; code == 0 && tries < MESH_READ_TRIES;
         tries++, code = mapping_read_problem(m)) {
        PyThreadState *state = mapping_begin_reading(m, unlocked);
        version = mesh_slots_read(&s->slots, out, s->room, bytes);
        mapping_end_reading(m, state);
        if (version != MESH_BUSY) break;
        count_reader(m, &m->readers->retries, 1);
    }
    if (code == 0 && version > 0 && s->type.size != 0 && *bytes != s->type.size)
        version = MESH_TOO_LONG; /* or too short: a record has one size */
    if (code == 0 && version > 0) return (uint64_t)version;
    if (code == 0) {
        code = version == MESH_NEVER_WRITTEN ? MESH_NOT_WRITTEN : MESH_CORRUPT;
        if (version == MESH_WRONG_SUM) code = MESH_CHECKSUM;
    }
    mapping_raise(m, code);
    return 0;
}

static PyObject *py_versioned(uint64_t version, PyObject *value) {
    PyObject *number = value == NULL ? NULL : PyLong_FromUnsignedLongLong(version);
    PyObject *pair = number == NULL ? NULL : PyTuple_New(2);
    if (pair == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, number);
    PyTuple_SET_ITEM(pair, 1, value);
    return pair;
}

/* (version, out) without an allocation where the caller let go of the last one, as zip() does. */
static PyObject *versioned_again(slots_object *s, uint64_t version, PyObject *out) {
    if (s->number == NULL || s->numbered != version) {
        PyObject *number = PyLong_FromUnsignedLongLong(version);
        if (number == NULL) return NULL;
        Py_XSETREF(s->number, number);
        s->numbered = version;
    }
    if (s->pair != NULL && Py_REFCNT(s->pair) == 1) {
        PyObject *old_number = PyTuple_GET_ITEM(s->pair, 0), *old = PyTuple_GET_ITEM(s->pair, 1);
        PyTuple_SET_ITEM(s->pair, 0, Py_NewRef(s->number));
        PyTuple_SET_ITEM(s->pair, 1, Py_NewRef(out));
        Py_DECREF(old_number);
        Py_DECREF(old);
        if (!PyObject_GC_IsTracked(s->pair)) PyObject_GC_Track(s->pair);
        return Py_NewRef(s->pair);
    }
    PyObject *pair = PyTuple_Pack(2, s->number, out);
    if (pair == NULL) return NULL;
    Py_XSETREF(s->pair, Py_NewRef(pair));
    return pair;
}

/* read(out=None) -> (version, record); `out` is filled where given */
static PyObject *slots_read(slots_object *s, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    PyObject *out = py_argument(args, n, names, 0, "out");
    size_t bytes = 0;
    Py_ssize_t count = 1;
    void *target = s->scratch;
    if (out != NULL && out != Py_None) {
        target = record_type_bytes(&s->type, out, &count, 1);
        if (target == NULL) return NULL;
        if (count != 1) return PyErr_Format(PyExc_ValueError, "expected 1 record, got %zd", count);
    }
    uint64_t version = slots_fetch(s, target, &bytes);
    if (version == 0) return NULL;
    if (target != s->scratch) return versioned_again(s, version, out);
    return py_versioned(version, record_type_value(&s->type, s->scratch));
}

/* The version of read_newer's arguments is waited for: 1, 0 at the end of the time, -1 = error. */
static int slots_await(slots_object *s, PyObject *const *args, Py_ssize_t n, PyObject *names,
                       Py_ssize_t spin_at) {
    if (n < 2) {
        PyErr_SetString(PyExc_TypeError, "read_newer takes a version and a timeout in seconds");
        return -1;
    }
    uint64_t above = PyLong_AsUnsignedLongLong(args[0]);
    py_wait_limits w;
    if (PyErr_Occurred() ||
        py_wait_limits_set(&w, args[1], py_argument(args, n, names, spin_at, "spin")) < 0)
        return -1;
    return mapping_wait_above(s->mapping, above, w);
}

/* read_newer(version, timeout, out=None, spin=...) -> (version, record) or None */
static PyObject *slots_read_newer(slots_object *s, PyObject *const *args, Py_ssize_t n,
                                  PyObject *names) {
    int newer = slots_await(s, args, n, names, 3);
    if (newer < 0) return NULL;
    if (newer == 0) Py_RETURN_NONE;
    PyObject *out = py_argument(args, n, names, 2, "out");
    return slots_read(s, &out, out != NULL, NULL);
}

/* set_codec(encode, decode, error): a cell of values that are not records; `error` is what decode
 * raises for bytes that it cannot decode. */
static PyObject *slots_set_codec(slots_object *s, PyObject *args) {
    PyObject *encode, *decode, *refuses;
    if (!PyArg_ParseTuple(args, "OOO", &encode, &decode, &refuses)) return NULL;
    Py_XSETREF(s->encode, Py_NewRef(encode));
    Py_XSETREF(s->decode, Py_NewRef(decode));
    Py_XSETREF(s->refuses, Py_NewRef(refuses));
    Py_RETURN_NONE;
}

/* write_value(value) -> version */
static PyObject *slots_write_value(slots_object *s, PyObject *value) {
    if (s->encode == NULL) return PyErr_Format(PyExc_TypeError, "no codec was set");
    PyObject *encoded = PyObject_CallOneArg(s->encode, value);
    if (encoded == NULL) return NULL;
    PyObject *version = slots_write_bytes(s, encoded);
    Py_DECREF(encoded);
    return version;
}

/* The problem of a value that does not decode, caused by what the decoder said. */
static void undecodable(slots_object *s) {
    PyObject *type, *cause, *trace, *error;
    PyErr_Fetch(&type, &cause, &trace);
    PyErr_NormalizeException(&type, &cause, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    mapping_raise(s->mapping, MESH_UNDECODABLE);
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    PyException_SetCause(error, cause); /* takes the reference */
    PyErr_Restore(type, error, trace);
}

/* read_value() -> (version, value) */
static PyObject *slots_read_value(slots_object *s, PyObject *unused) {
    (void)unused;
    if (s->decode == NULL) return PyErr_Format(PyExc_TypeError, "no codec was set");
    size_t bytes = 0;
    uint64_t version = slots_fetch(s, s->scratch, &bytes);
    if (version == 0) return NULL;
    PyObject *encoded = PyBytes_FromStringAndSize((char *)s->scratch, (Py_ssize_t)bytes);
    if (encoded == NULL) return NULL;
    PyObject *value = PyObject_CallOneArg(s->decode, encoded);
    Py_DECREF(encoded);
    if (value == NULL && PyErr_ExceptionMatches(s->refuses)) undecodable(s);
    return py_versioned(version, value);
}

/* read_newer_value(version, timeout, spin=...) -> (version, value) or None */
static PyObject *slots_read_newer_value(slots_object *s, PyObject *const *args, Py_ssize_t n,
                                        PyObject *names) {
    int newer = slots_await(s, args, n, names, 2);
    if (newer < 0) return NULL;
    if (newer == 0) Py_RETURN_NONE;
    return slots_read_value(s, NULL);
}

static int arrays_of(slots_object *s, PyObject *arrays, mesh_arrays *list, int writable) {
    Py_ssize_t n = PyTuple_GET_SIZE(arrays);
    list->data = PyMem_Calloc((size_t)n + 1, sizeof(void *));
    list->bytes = PyMem_Calloc((size_t)n + 1, sizeof(size_t));
    list->count = (size_t)n;
    list->total = 0;
    if (list->data == NULL || list->bytes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int flags = writable ? NPY_ARRAY_CARRAY : NPY_ARRAY_C_CONTIGUOUS;
    if (PyArray_ImportNumPyAPI() < 0) return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyArrayObject *a = (PyArrayObject *)PyTuple_GET_ITEM(arrays, i);
        if (!PyArray_Check(a) || (PyArray_FLAGS(a) & flags) != flags) {
            PyErr_Format(PyExc_TypeError, "array %zd is no %sC-contiguous array", i,
                         writable ? "writable " : "");
            return -1;
        }
        list->data[i] = PyArray_DATA(a);
        list->bytes[i] = (size_t)PyArray_NBYTES(a);
        list->total += mesh_array_room(list->bytes[i]);
    }
    if (list->total == s->room) return 0;
    PyErr_Format(PyExc_ValueError, "the arrays take %zu bytes, the segment holds %zu", list->total,
                 s->room);
    return -1;
}

static void py_arrays_free(mesh_arrays *list) {
    PyMem_Free(list->data);
    PyMem_Free(list->bytes);
}

/* publish_arrays(tuple of arrays) -> version */
static PyObject *slots_publish_arrays(slots_object *s, PyObject *arrays) {
    mapping_object *m = s->mapping;
    if (!PyTuple_Check(arrays)) return PyErr_Format(PyExc_TypeError, "expected a tuple");
    mesh_arrays list;
    if (arrays_of(s, arrays, &list, 0) < 0) {
        py_arrays_free(&list);
        return NULL;
    }
    PyThreadState *state;
    int code = mapping_begin_writing(m, list.total, &state);
    if (code != 0) {
        py_arrays_free(&list);
        return mapping_raise(m, code);
    }
    uint64_t version = mesh_arrays_publish(&s->slots, m->lease_epoch << 1, &list);
    mapping_end_writing(m, state);
    py_arrays_free(&list);
    if (version == 0) return mapping_raise(m, mapping_refusal(m));
    mapping_wake_waiting(m);
    return PyLong_FromUnsignedLongLong(version);
}

/* read_arrays(tuple of arrays) -> version */
static PyObject *slots_read_arrays(slots_object *s, PyObject *arrays) {
    mapping_object *m = s->mapping;
    if (!PyTuple_Check(arrays)) return PyErr_Format(PyExc_TypeError, "expected a tuple");
    mesh_arrays list;
    if (arrays_of(s, arrays, &list, 1) < 0) {
        py_arrays_free(&list);
        return NULL;
    }
    int code = mapping_read_problem(m);
    uint64_t version = 0, check = 0, expected = 0, length = 0;
    int done = 0;
    for (int tries = 0; code == 0 && !done && tries < MESH_READ_TRIES; tries++) {
        mesh_slot *slot = mesh_slots_open(&s->slots, &version);
        if (version == 0) break;
        if (slot != NULL) {
            expected = mesh_load(&slot->checksum);
            length = mesh_load(&slot->length);
            PyThreadState *state = mapping_begin_reading(m, list.total);
            check = mesh_arrays_copy(&list, mesh_slot_payload(slot), 0);
            done = mesh_slots_valid(slot, version);
            mapping_end_reading(m, state);
        }
        if (done) break;
        count_reader(m, &m->readers->retries, 1);
        if (PyErr_CheckSignals() < 0) {
            py_arrays_free(&list);
            return NULL;
        }
        code = mapping_read_problem(m);
    }
    py_arrays_free(&list);
    if (code == 0 && !done) code = version == 0 ? MESH_NOT_WRITTEN : MESH_CORRUPT;
    if (code == 0 && (check != expected || length != list.total)) code = MESH_CHECKSUM;
    return code != 0 ? mapping_raise(m, code) : PyLong_FromUnsignedLongLong(version);
}

/* is_intact(version) -> bool: may what was borrowed at `version` be trusted up to now? */
static PyObject *slots_is_intact(slots_object *s, PyObject *arg) {
    uint64_t version = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) return NULL;
    int code = mapping_read_problem(s->mapping);
    if (code != 0) return mapping_raise(s->mapping, code);
    return PyBool_FromLong(version != 0 &&
                           mesh_slots_valid(mesh_slot_of(&s->slots, version), version));
}

static PyMethodDef slots_methods[] = {
    {"write", (PyCFunction)slots_write, METH_O, NULL},
    {"set_codec", (PyCFunction)slots_set_codec, METH_VARARGS, NULL},
    {"write_value", (PyCFunction)slots_write_value, METH_O, NULL},
    {"read_value", (PyCFunction)slots_read_value, METH_NOARGS, NULL},
    {"read", (PyCFunction)(void (*)(void))slots_read, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"read_newer", (PyCFunction)(void (*)(void))slots_read_newer, METH_FASTCALL | METH_KEYWORDS,
     NULL},
    {"read_newer_value", (PyCFunction)(void (*)(void))slots_read_newer_value,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"publish_arrays", (PyCFunction)slots_publish_arrays, METH_O, NULL},
    {"read_arrays", (PyCFunction)slots_read_arrays, METH_O, NULL},
    {"is_intact", (PyCFunction)slots_is_intact, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyTypeObject slots_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "mesh._core._native.Slots",
    .tp_basicsize = sizeof(slots_object),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = slots_new,
    .tp_dealloc = (destructor)slots_dealloc,
    .tp_traverse = (traverseproc)slots_traverse,
    .tp_methods = slots_methods,
};

#endif
