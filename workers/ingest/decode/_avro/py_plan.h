/* A plan as a Python object: made once a schema, immutable. */
#ifndef INGEST_PY_PLAN_H
#define INGEST_PY_PLAN_H

#include <Python.h>

#include "decode.h"

typedef struct {
    PyObject_HEAD
    avro_plan plan;
    uint8_t *memory; /* operations, pool and template behind each other */
} plan_object;

static PyTypeObject plan_type;

/* Plan(ops, pool, template): any objects with a buffer. Raises ValueError for an unsound list. */
static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    Py_buffer ops, pool, template;
    static char *names[] = {"ops", "pool", "template", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "y*y*y*", names, &ops, &pool, &template))
        return NULL;
    plan_object *self = NULL;
    size_t total = (size_t)ops.len + (size_t)pool.len + (size_t)template.len;
    if (ops.len % (Py_ssize_t)sizeof(avro_op) != 0 || total > UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%zd bytes of operations, %zu bytes in all", ops.len, total);
    } else if ((self = (plan_object *)type->tp_alloc(type, 0)) != NULL) {
        self->memory = PyMem_Malloc(total + 1);
        if (self->memory == NULL) {
            Py_CLEAR(self);
            PyErr_NoMemory();
        }
    }
    if (self != NULL) {
        uint8_t *at = self->memory;
        memcpy(at, ops.buf, (size_t)ops.len);
        memcpy(at + ops.len, pool.buf, (size_t)pool.len);
        memcpy(at + ops.len + pool.len, template.buf, (size_t)template.len);
        self->plan = (avro_plan){(const avro_op *)(const void *)at,
                                 at + ops.len,
                                 at + ops.len + pool.len,
                                 (uint32_t)((size_t)ops.len / sizeof(avro_op)),
                                 (uint32_t)pool.len,
                                 (uint32_t)template.len};
        if (!avro_plan_is_sound(&self->plan)) {
            Py_CLEAR(self);
            PyErr_SetString(PyExc_ValueError, "an operation lies outside the row or the plan");
        }
    }
    PyBuffer_Release(&ops);
    PyBuffer_Release(&pool);
    PyBuffer_Release(&template);
    return (PyObject *)self;
}

static void plan_dealloc(plan_object *self) {
    PyMem_Free(self->memory);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyTypeObject plan_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "workers.ingest.decode._avro._native.Plan",
    .tp_basicsize = sizeof(plan_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = plan_new,
    .tp_dealloc = (destructor)plan_dealloc,
};

#endif
