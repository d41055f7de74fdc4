/* The binding of ingest's C part: arguments and buffers; the work is in the headers beside it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "py_batch.h"
#include "py_plan.h"

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "workers.ingest.decode._avro._native",
    .m_doc =
        "Framed Avro messages to rows; see plan.h for the plan and decode.h for its execution.",
    .m_size = -1,
};

static int intern_names(void) {
    name_value = PyUnicode_InternFromString("value");
    name_error = PyUnicode_InternFromString("error");
    name_topic = PyUnicode_InternFromString("topic");
    name_partition = PyUnicode_InternFromString("partition");
    name_offset = PyUnicode_InternFromString("offset");
    return name_value != NULL && name_error != NULL && name_topic != NULL &&
           name_partition != NULL && name_offset != NULL;
}

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL || !intern_names() || PyModule_AddType(module, &plan_type) < 0 ||
        PyModule_AddType(module, &batch_type) < 0 ||
        PyModule_AddIntConstant(module, "OP_BYTES", sizeof(avro_op)) < 0)
        return NULL;
    return module;
}
