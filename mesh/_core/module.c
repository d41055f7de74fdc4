/* The binding: arguments, buffers, the GIL. The algorithms are in the headers without Python. */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>

#include "py_heartbeat.h"
#include "py_lock.h"
#include "py_mapping.h"
#include "py_records.h"
#include "py_ring.h"
#include "py_slots.h"
#include "py_table.h"

/* checksum(bytes) -> int */
static PyObject *module_checksum(PyObject *self, PyObject *data) {
    (void)self;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return NULL;
    uint64_t sum = mesh_checksum(view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(sum);
}

/* layout() -> {name: size or offset}: what Python's view of the header is compared with */
static PyObject *module_layout(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
#define OFFSET(field) "identity." #field, (int)offsetof(mesh_identity, field)
    return Py_BuildValue(
        "{si si si si si si si si si si si si si si si si}", "sizeof.identity",
        (int)sizeof(mesh_identity), "sizeof.control", (int)sizeof(mesh_control), "sizeof.readers",
        (int)sizeof(mesh_readers), "sizeof.slot", (int)sizeof(mesh_slot), "sizeof.journal",
        (int)sizeof(mesh_journal), "sizeof.row", (int)sizeof(mesh_row), "sizeof.lock",
        (int)sizeof(mesh_lock), "sizeof.heartbeat", (int)sizeof(mesh_heartbeat), OFFSET(total_size),
        OFFSET(data_offset), OFFSET(aux_offset), OFFSET(generation), OFFSET(creator_pid),
        OFFSET(fingerprint), OFFSET(boot_id), OFFSET(identity_check));
#undef OFFSET
}

static PyMethodDef module_methods[] = {
    {"checksum", module_checksum, METH_O, NULL},
    {"layout", module_layout, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mesh._core._native",
    .m_doc = "The mesh's C core; the algorithms are in the headers beside it.",
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL) return NULL;
    PyTypeObject *types[] = {&mapping_type, &slots_type, &ring_type,      &reader_type,
                             &table_type,   &lock_type,  &heartbeats_type};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (PyModule_AddType(module, types[i]) < 0) return NULL;
    counters_type = PyStructSequence_NewType(&counters_description);
    if (counters_type == NULL || PyModule_AddType(module, counters_type) < 0) return NULL;
    PyObject *spin = PyFloat_FromDouble(MESH_SPIN_NS * 1e-9);
    if (PyModule_AddObjectRef(module, "SPIN_S", spin) < 0) return NULL;
    Py_XDECREF(spin);
    if (pthread_atfork(NULL, NULL, py_count_fork) != 0) return PyErr_NoMemory();
    return module;
}
