/* Records between segment and numpy: where their bytes are, without a Python object per field.
 *
 * numpy is imported by the first dtype or array that is met: who reads bytes starts without it. */
#ifndef MESH_PY_RECORDS_H
#define MESH_PY_RECORDS_H

#include "py_mapping.h"

/* The dtype a segment holds, and the last other descriptor found equivalent to it; without a
 * descriptor records are read as bytes, `size` of them each, and cannot be written. */
typedef struct {
    PyArray_Descr *descr;
    PyArray_Descr *alias;
    size_t size;
} record_type;

/* `dtype`: that of the records, or their size in bytes. */
static int record_type_set(record_type *t, PyObject *dtype) {
    if (PyLong_Check(dtype)) {
        Py_ssize_t size = PyLong_AsSsize_t(dtype);
        if (size < 1 && !PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "records of %zd bytes", size);
        t->size = (size_t)size;
        return size < 1 ? -1 : 0;
    }
    if (PyArray_ImportNumPyAPI() < 0) return -1;
    if (!PyArray_DescrConverter(dtype, &t->descr)) return -1;
    t->size = (size_t)PyDataType_ELSIZE(t->descr);
    return 0;
}

static void record_type_clear(record_type *t) {
    Py_CLEAR(t->descr);
    Py_CLEAR(t->alias);
}

static int record_type_accepts(record_type *t, PyArray_Descr *descr) {
    if (descr == t->descr || descr == t->alias) return 1;
    if (!PyArray_EquivTypes(descr, t->descr)) return 0;
    Py_XSETREF(t->alias, (PyArray_Descr *)Py_NewRef((PyObject *)descr));
    return 1;
}

/* Bytes of `o` (a contiguous array, or a record of the dtype), their number in *count; or NULL. */
static void *record_type_bytes(record_type *t, PyObject *o, Py_ssize_t *count, int writable) {
    if (t->descr == NULL) {
        PyErr_Format(PyExc_TypeError, "attached for reading bytes; open it with its dtype");
        return NULL;
    }
    if (PyArray_Check(o)) {
        PyArrayObject *a = (PyArrayObject *)o;
        int flags = writable ? NPY_ARRAY_CARRAY : NPY_ARRAY_C_CONTIGUOUS;
        if (record_type_accepts(t, PyArray_DESCR(a)) && (PyArray_FLAGS(a) & flags) == flags) {
            *count = PyArray_SIZE(a);
            return PyArray_DATA(a);
        }
    } else if (PyArray_IsScalar(o, Void)) {
        PyVoidScalarObject *v = (PyVoidScalarObject *)o;
        if (record_type_accepts(t, (PyArray_Descr *)v->descr)) {
            *count = 1;
            return v->obval;
        }
    }
    PyErr_Format(PyExc_TypeError, "expected a %sC-contiguous array or record of dtype %S, got %R",
                 writable ? "writable " : "", t->descr, o);
    return NULL;
}

/* One record as a Python object. */
static PyObject *record_type_value(const record_type *t, const void *bytes) {
    if (t->descr == NULL) return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)t->size);
    return PyArray_Scalar((void *)(uintptr_t)bytes, t->descr, NULL);
}

/* The value of keyword `name` (or the one positional argument at `at`), borrowed; NULL if absent. */
static PyObject *py_argument(PyObject *const *args, Py_ssize_t n, PyObject *names, Py_ssize_t at,
                             const char *name) {
    if (n > at) return args[at];
    Py_ssize_t keywords = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = 0; i < keywords; i++)
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, i), name) == 0)
            return args[n + i];
    return NULL;
}

#endif
