/* The binding of the gates: buffers in, numbers out; the judgement is in gates.h. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "gates.h"

typedef struct {
    PyObject_HEAD
    gate_state state;
    gate_rules rules;
    Py_buffer memory;
} gates_object;

/* Gates(memory, wide_share, iv_max, jump_share, future_ns, stale_ns, hold, drop, dead): memory is a
 * writable buffer of gate_memory, which the caller keeps and reads. */
static PyObject *gates_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    Py_buffer memory;
    gate_rules r;
    long long future, stale;
    unsigned int hold, drop, dead;
    static char *names[] = {"memory",   "wide_share", "iv_max", "jump_share", "future_ns",
                            "stale_ns", "hold",       "drop",   "dead",       NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "w*dddLLIII", names, &memory, &r.wide_share,
                                     &r.iv_max, &r.jump_share, &future, &stale, &hold, &drop,
                                     &dead))
        return NULL;
    size_t capacity = (size_t)memory.len / sizeof(gate_memory);
    if (capacity == 0 || (size_t)memory.len % sizeof(gate_memory) || capacity > UINT32_MAX / 4) {
        PyErr_Format(PyExc_ValueError, "%zd bytes hold no %zu-byte memories", memory.len,
                     sizeof(gate_memory));
        PyBuffer_Release(&memory);
        return NULL;
    }
    gates_object *g = (gates_object *)type->tp_alloc(type, 0);
    if (g == NULL) {
        PyBuffer_Release(&memory);
        return NULL;
    }
    g->memory = memory;
    r.future_ns = future;
    r.stale_ns = stale;
    r.hold = hold;
    r.drop = drop;
    r.dead = dead;
    g->rules = r;
    uint32_t entries = 2;
    while (entries < 2 * capacity) entries *= 2;
    g->state = (gate_state){
        memory.buf, PyMem_Calloc(entries, sizeof(uint32_t)), entries - 1, (uint32_t)capacity, 0, 0,
        0};
    if (g->state.index == NULL) {
        Py_DECREF(g);
        return PyErr_NoMemory();
    }
    return (PyObject *)g;
}

static void gates_dealloc(gates_object *g) {
    PyMem_Free(g->state.index);
    if (g->memory.obj != NULL) PyBuffer_Release(&g->memory);
    Py_TYPE(g)->tp_free((PyObject *)g);
}

/* find(symbols) -> count: numbers the symbols (32 bytes each, into numbers, int32); those from the
 * old count on are new: the caller says what they are before judge. -1: no room. */
static PyObject *gates_find(gates_object *g, PyObject *args) {
    Py_buffer rows, numbers;
    if (!PyArg_ParseTuple(args, "y*w*", &rows, &numbers)) return NULL;
    size_t n = (size_t)rows.len / sizeof(tick);
    int fits = (size_t)rows.len == n * sizeof(tick) && (size_t)numbers.len >= n * sizeof(int32_t);
    const tick *t = rows.buf;
    for (size_t i = 0; fits && i < n; i++) {
        int is_new;
        uint32_t found = gate_find(&g->state, t[i].symbol, &is_new);
        ((int32_t *)numbers.buf)[i] = found == g->state.capacity ? -1 : (int32_t)found;
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&numbers);
    if (!fits) return PyErr_Format(PyExc_ValueError, "expected rows and a number for each");
    return PyLong_FromUnsignedLong(g->state.count);
}

/* judge(rows, numbers, fates, latest, counts, now_ns, batch) -> (published, touched)
 * fates (uint8 by row); latest (int32 by symbol): the last published row of each symbol that this
 * batch touched, -1 none, -2 not touched; counts (int64 by gate) are added to. */
static PyObject *gates_judge(gates_object *g, PyObject *args) {
    Py_buffer rows, numbers, fates, latest, counts;
    long long now, batch;
    if (!PyArg_ParseTuple(args, "w*y*w*w*w*LL", &rows, &numbers, &fates, &latest, &counts, &now,
                          &batch))
        return NULL;
    size_t n = (size_t)rows.len / sizeof(tick);
    int fits = (size_t)rows.len == n * sizeof(tick) && (size_t)numbers.len >= n * sizeof(int32_t) &&
               (size_t)fates.len >= n && (size_t)latest.len >= g->state.count * sizeof(int32_t) &&
               counts.len == GATES * (Py_ssize_t)sizeof(int64_t);
    tick *t = rows.buf;
    int32_t *newest = latest.buf;
    Py_ssize_t published = 0;
    uint64_t seen = 0;
    memset(newest, 0xfe, fits ? (size_t)latest.len : 0); /* below -1 everywhere */
    for (size_t i = 0; fits && i < n; i++) {
        int32_t number = ((int32_t *)numbers.buf)[i];
        if (number >= (int32_t)g->state.count) {
            fits = 0;
            break;
        }
        gate_memory *m = number < 0 ? NULL : &g->state.memory[number];
        if (m != NULL && newest[number] < -1) {
            newest[number] = -1;
            m->before = m->now;
            m->batch = batch;
        }
        enum gate_fate fate = gate_judge(&g->state, &g->rules, m, &t[i], now);
        ((uint8_t *)fates.buf)[i] = (uint8_t)fate;
        published += fate == FATE_PUBLISH;
        if (m != NULL && fate == FATE_PUBLISH) newest[number] = (int32_t)i;
        seen |= t[i].flags;
        for (uint32_t bits = t[i].flags & ~GATE_HELD; bits != 0; bits &= bits - 1)
            ((int64_t *)counts.buf)[__builtin_ctz(bits)]++;
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&numbers);
    PyBuffer_Release(&fates);
    PyBuffer_Release(&latest);
    PyBuffer_Release(&counts);
    if (!fits) return PyErr_Format(PyExc_ValueError, "the arrays do not fit each other");
    return Py_BuildValue("(nK)", published, (unsigned long long)seen);
}

static PyObject *gates_get_clock(gates_object *g, void *unused) {
    (void)unused;
    return Py_BuildValue("(LL)", (long long)g->state.clock, (long long)g->state.leap);
}

static int gates_set_clock(gates_object *g, PyObject *value, void *unused) {
    (void)unused;
    long long clock, leap;
    if (value == NULL || !PyArg_ParseTuple(value, "LL", &clock, &leap)) return -1;
    g->state.clock = clock;
    g->state.leap = leap;
    return 0;
}

static PyMethodDef gates_methods[] = {
    {"find", (PyCFunction)gates_find, METH_VARARGS, NULL},
    {"judge", (PyCFunction)gates_judge, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef gates_getset[] = {
    {"clock", (getter)gates_get_clock, (setter)gates_set_clock, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject gates_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "workers.ingest.quality._checks._native.Gates",
    .tp_basicsize = sizeof(gates_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = gates_new,
    .tp_dealloc = (destructor)gates_dealloc,
    .tp_methods = gates_methods,
    .tp_getset = gates_getset,
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "workers.ingest.quality._checks._native",
    .m_doc = "Quality gates over rows of TICK_DTYPE; see gates.h.",
    .m_size = -1,
};

/* {field: offset} of a row and a memory, and their sizes: a test compares them with the dtypes */
static PyObject *layout(void) {
#define AT(type, field) #type "." #field, (Py_ssize_t)offsetof(type, field)
    return Py_BuildValue(
        "{sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn sn}", "tick",
        (Py_ssize_t)sizeof(tick), "gate_memory", (Py_ssize_t)sizeof(gate_memory), "gate_past",
        (Py_ssize_t)sizeof(gate_past), AT(tick, ts_event), AT(tick, bid), AT(tick, last),
        AT(tick, bid_size), AT(tick, ask_size), AT(tick, volume), AT(tick, implied_volatility),
        AT(tick, delta), AT(tick, underlying_price), AT(tick, sequence), AT(tick, flags),
        AT(tick, venue), AT(gate_memory, expiry), AT(gate_memory, right), AT(gate_memory, known),
        AT(gate_memory, batch), AT(gate_memory, before), AT(gate_memory, now), AT(gate_past, mid),
        AT(gate_past, seen), AT(gate_past, good), AT(gate_past, held));
#undef AT
}

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL || PyModule_AddType(module, &gates_type) < 0 ||
        PyModule_AddObject(module, "LAYOUT", layout()) < 0)
        return NULL;
    return module;
}
