/* The binding of the Avro decoder: arguments and buffers; the work is in the headers beside it.
 *
 * The kernel's prefix (docs/style.md) is avro_; the Python types are plan and batch, and message_
 * functions read the messages of the Kafka client. */
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
    message_name_value = PyUnicode_InternFromString("value");
    message_name_error = PyUnicode_InternFromString("error");
    message_name_topic = PyUnicode_InternFromString("topic");
    message_name_partition = PyUnicode_InternFromString("partition");
    message_name_offset = PyUnicode_InternFromString("offset");
    return message_name_value != NULL && message_name_error != NULL && message_name_topic != NULL &&
           message_name_partition != NULL && message_name_offset != NULL;
}

/* The codes of plan.h under the names that plan.py uses. */
static int add_codes(PyObject *module) {
#define CODE(name)                                                                                 \
    {                                                                                              \
        #name, AVRO_##name                                                                         \
    }
    static const struct {
        const char *name;
        int value;
    } codes[] = {
        CODE(OK),
        CODE(FRAME),
        CODE(UNKNOWN),
        CODE(INCOMPATIBLE),
        CODE(BODY),
        CODE(VALUE),
        CODE(FALLBACK),
        CODE(PENDING),
        CODE(OP_END),
        CODE(OP_FAIL),
        CODE(OP_JUMP),
        CODE(OP_UNION),
        CODE(OP_NULLABLE),
        CODE(OP_SET),
        CODE(OP_SKIP),
        CODE(OP_SKIP_BOOL),
        CODE(OP_SKIP_INT),
        CODE(OP_SKIP_LONG),
        CODE(OP_SKIP_BYTES),
        CODE(OP_SKIP_TEXT),
        CODE(OP_SKIP_ENUM),
        CODE(OP_COPY),
        CODE(OP_NUMBER),
        CODE(OP_TEXT),
        CODE(OP_FIXED),
        CODE(OP_ENUM),
        CODE(OP_DECIMAL),
        CODE(OP_REQUIRE_TEXT),
        CODE(OP_REQUIRE_POSITIVE),
        CODE(WIRE_BOOL),
        CODE(WIRE_INT),
        CODE(WIRE_LONG),
        CODE(WIRE_FLOAT),
        CODE(WIRE_DOUBLE),
        CODE(ROW_F8),
        CODE(ROW_F4),
        CODE(ROW_I8),
        CODE(ROW_I4),
        CODE(ROW_I2),
        CODE(ROW_I1),
        CODE(ROW_U8),
        CODE(ROW_U4),
        CODE(ROW_U2),
        CODE(ROW_U1),
        CODE(FLAG_UTF8),
        CODE(FLAG_CUT),
    };
#undef CODE
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (PyModule_AddIntConstant(module, codes[i].name, codes[i].value) < 0) return -1;
    return 0;
}

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL || !intern_names() || PyModule_AddType(module, &plan_type) < 0 ||
        PyModule_AddType(module, &batch_type) < 0 || add_codes(module) < 0 ||
        PyModule_AddIntConstant(module, "OP_BYTES", sizeof(avro_op)) < 0)
        return NULL;
    return module;
}
