/* The binding of the quality checks: buffers in, indices out; the rules are in checks.h.
 *
 * The kernel's prefix (docs/style.md) is check_; the Python type is checks. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "checks.h"

typedef struct {
    PyObject_HEAD
    check_state state;
    check_rules rules;
    Py_buffer memory;
} checks_object;

/* QualityChecks(memory, wide_share, iv_max, jump_share, future_ns, stale_ns, hold, drop,
 * dead_letter): memory is a writable buffer of check_memory, which the caller keeps and reads. */
static PyObject *checks_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    Py_buffer memory;
    check_rules r;
    long long future, stale;
    unsigned int hold, drop, dead_letter;
    static char *names[] = {"memory",   "wide_share", "iv_max", "jump_share",  "future_ns",
                            "stale_ns", "hold",       "drop",   "dead_letter", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "w*dddLLIII", names, &memory, &r.wide_share,
                                     &r.iv_max, &r.jump_share, &future, &stale, &hold, &drop,
                                     &dead_letter))
        return NULL;
    size_t capacity = (size_t)memory.len / sizeof(check_memory);
    if (capacity == 0 || (size_t)memory.len % sizeof(check_memory) || capacity > UINT32_MAX / 4) {
        PyErr_Format(PyExc_ValueError, "%zd bytes hold no %zu-byte memories", memory.len,
                     sizeof(check_memory));
        PyBuffer_Release(&memory);
        return NULL;
    }
    checks_object *g = (checks_object *)type->tp_alloc(type, 0);
    if (g == NULL) {
        PyBuffer_Release(&memory);
        return NULL;
    }
    g->memory = memory;
    r.future_ns = future;
    r.stale_ns = stale;
    r.hold = hold;
    r.drop = drop;
    r.dead_letter = dead_letter;
    g->rules = r;
    uint32_t entries = 2;
    while (entries < 2 * capacity) entries *= 2;
    g->state = (check_state){
        memory.buf, PyMem_Calloc(entries, sizeof(uint32_t)), entries - 1, (uint32_t)capacity, 0, 0,
        0};
    if (g->state.index == NULL) {
        Py_DECREF(g);
        return PyErr_NoMemory();
    }
    return (PyObject *)g;
}

static void checks_dealloc(checks_object *g) {
    PyMem_Free(g->state.index);
    if (g->memory.obj != NULL) PyBuffer_Release(&g->memory);
    Py_TYPE(g)->tp_free((PyObject *)g);
}

/* index_symbols(rows, indices) -> count: writes the memory index of each row's symbol into indices
 * (int32 by row; -1: no room). Indices from the old count on are new: the caller describes these
 * symbols before evaluate. */
static PyObject *checks_index_symbols(checks_object *g, PyObject *args) {
    Py_buffer rows, indices;
    if (!PyArg_ParseTuple(args, "y*w*", &rows, &indices)) return NULL;
    size_t n = (size_t)rows.len / sizeof(tick);
    int fits = (size_t)rows.len == n * sizeof(tick) && (size_t)indices.len >= n * sizeof(int32_t);
    const tick *t = rows.buf;
    for (size_t i = 0; fits && i < n; i++) {
        int is_new;
        uint32_t found = check_find_symbol(&g->state, t[i].symbol, &is_new);
        ((int32_t *)indices.buf)[i] = found == g->state.capacity ? -1 : (int32_t)found;
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&indices);
    if (!fits) return PyErr_Format(PyExc_ValueError, "expected rows and an index for each");
    return PyLong_FromUnsignedLong(g->state.count);
}

/* evaluate(rows, indices, dispositions, latest, counts, now_ns, batch) -> (published, flags)
 * dispositions (uint8 by row); latest (int32 by symbol): the last published row of each symbol that
 * occurs in this batch, -1 where no row of it is published, below that where it does not occur;
 * counts (int64 by check) are added to; flags: the bits of all rows, or-ed. */
static PyObject *checks_evaluate(checks_object *g, PyObject *args) {
    Py_buffer rows, indices, dispositions, latest, counts;
    long long now, batch;
    if (!PyArg_ParseTuple(args, "w*y*w*w*w*LL", &rows, &indices, &dispositions, &latest, &counts,
                          &now, &batch))
        return NULL;
    size_t n = (size_t)rows.len / sizeof(tick);
    int fits = (size_t)rows.len == n * sizeof(tick) && (size_t)indices.len >= n * sizeof(int32_t) &&
               (size_t)dispositions.len >= n &&
               (size_t)latest.len >= g->state.count * sizeof(int32_t) &&
               counts.len == CHECK_COUNT * (Py_ssize_t)sizeof(int64_t);
    tick *t = rows.buf;
    int32_t *newest = latest.buf;
    Py_ssize_t published = 0;
    uint64_t seen = 0;
    memset(newest, 0xfe, fits ? (size_t)latest.len : 0); /* below -1 everywhere */
    for (size_t i = 0; fits && i < n; i++) {
        int32_t index = ((int32_t *)indices.buf)[i];
        if (index >= (int32_t)g->state.count) {
            fits = 0;
            break;
        }
        check_memory *m = index < 0 ? NULL : &g->state.memory[index];
        if (m != NULL && newest[index] < -1) {
            newest[index] = -1;
            m->before = m->now;
            m->batch = batch;
        }
        enum check_disposition disposition = check_evaluate(&g->state, &g->rules, m, &t[i], now);
        ((uint8_t *)dispositions.buf)[i] = (uint8_t)disposition;
        published += disposition == CHECK_PUBLISH;
        if (m != NULL && disposition == CHECK_PUBLISH) newest[index] = (int32_t)i;
        seen |= t[i].flags;
        for (uint32_t bits = t[i].flags & ~CHECK_HELD; bits != 0; bits &= bits - 1)
            ((int64_t *)counts.buf)[__builtin_ctz(bits)]++;
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&indices);
    PyBuffer_Release(&dispositions);
    PyBuffer_Release(&latest);
    PyBuffer_Release(&counts);
    if (!fits) return PyErr_Format(PyExc_ValueError, "the arrays do not fit each other");
    return Py_BuildValue("(nK)", published, (unsigned long long)seen);
}

static PyObject *checks_get_clock(checks_object *g, void *unused) {
    (void)unused;
    return Py_BuildValue("(LL)", (long long)g->state.clock, (long long)g->state.leap);
}

static int checks_set_clock(checks_object *g, PyObject *value, void *unused) {
    (void)unused;
    long long clock, leap;
    if (value == NULL || !PyArg_ParseTuple(value, "LL", &clock, &leap)) return -1;
    g->state.clock = clock;
    g->state.leap = leap;
    return 0;
}

static PyMethodDef checks_methods[] = {
    {"index_symbols", (PyCFunction)checks_index_symbols, METH_VARARGS, NULL},
    {"evaluate", (PyCFunction)checks_evaluate, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef checks_getset[] = {
    {"clock", (getter)checks_get_clock, (setter)checks_set_clock, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject checks_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "workers.ingest.quality._checks._native.QualityChecks",
    .tp_basicsize = sizeof(checks_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = checks_new,
    .tp_dealloc = (destructor)checks_dealloc,
    .tp_methods = checks_methods,
    .tp_getset = checks_getset,
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "workers.ingest.quality._checks._native",
    .m_doc = "Quality checks over rows of TICK_DTYPE; see checks.h.",
    .m_size = -1,
};

/* {field: offset} of a row and a memory, and their sizes: a test compares them with the dtypes */
static PyObject *layout(void) {
#define AT(type, field) #type "." #field, (Py_ssize_t)offsetof(type, field)
    return Py_BuildValue(
        "{sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn}", "tick",
        (Py_ssize_t)sizeof(tick), "check_memory", (Py_ssize_t)sizeof(check_memory), "check_past",
        (Py_ssize_t)sizeof(check_past), AT(tick, ts_event), AT(tick, bid), AT(tick, last),
        AT(tick, bid_size), AT(tick, ask_size), AT(tick, volume), AT(tick, implied_volatility),
        AT(tick, delta), AT(tick, underlying_price), AT(tick, sequence), AT(tick, flags),
        AT(tick, venue), AT(check_memory, expiry), AT(check_memory, right), AT(check_memory, known),
        AT(check_memory, batch), AT(check_memory, before), AT(check_memory, now),
        AT(check_past, mid), AT(check_past, seen), AT(check_past, good), AT(check_past, held));
#undef AT
}

/* NAMES: the checks in the order of their bits; the dispositions and the bit HELD. */
static int add_codes(PyObject *module) {
    static const char *const names[CHECK_COUNT] = {
        [CHECK_NONFINITE] = "nonfinite", [CHECK_NEGATIVE] = "negative",
        [CHECK_CROSSED] = "crossed",     [CHECK_LOCKED] = "locked",
        [CHECK_ZERO_BID] = "zero_bid",   [CHECK_WIDE] = "wide",
        [CHECK_IV_RANGE] = "iv_range",   [CHECK_GREEK_SIGN] = "greek_sign",
        [CHECK_FUTURE] = "future",       [CHECK_BACKWARDS] = "backwards",
        [CHECK_DUPLICATE] = "duplicate", [CHECK_JUMP] = "jump",
        [CHECK_STALE] = "stale",         [CHECK_EXPIRED] = "expired",
        [CHECK_UNKNOWN] = "unknown",
    };
    PyObject *tuple = PyTuple_New(CHECK_COUNT);
    for (int i = 0; tuple != NULL && i < CHECK_COUNT; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (name == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, name);
    }
    int is_added = tuple != NULL && PyModule_AddObjectRef(module, "NAMES", tuple) == 0;
    Py_XDECREF(tuple);
    return is_added && PyModule_AddIntConstant(module, "PUBLISH", CHECK_PUBLISH) == 0 &&
                   PyModule_AddIntConstant(module, "DROP", CHECK_DROP) == 0 &&
                   PyModule_AddIntConstant(module, "DEAD_LETTER", CHECK_DEAD_LETTER) == 0 &&
                   PyModule_AddIntConstant(module, "HELD", CHECK_HELD) == 0
               ? 0
               : -1;
}

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL || PyModule_AddType(module, &checks_type) < 0 ||
        PyModule_AddObject(module, "LAYOUT", layout()) < 0 || add_codes(module) < 0)
        return NULL;
    return module;
}
