/* Binding of `lane.h`: arrays are checked once, when a `Block` or `Lanes` is made, and kept alive
 * by it; a step checks its rows and the arrays it writes. The GIL is held: a step is microseconds.
 */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>

#include "lane.h"
#include "py_arrays.h"

enum { LANE_ARRAYS = 4, STEP_ARGUMENTS = 9 };

typedef struct {
    PyObject_HEAD
    PyObject *arrays;
    block_t block;
} PyBlock;

typedef struct {
    PyObject_HEAD
    PyObject *arrays;
    lanes_t lanes;
} PyLanes;

static PyObject *block_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *array;
    if (!PyArg_ParseTuple(arguments, "O", &array)) {
        return NULL;
    }
    PyArrayObject *rows = (PyArrayObject *)array;
    if ((keywords != NULL && PyDict_Size(keywords) > 0) || !PyArray_Check(array) ||
        PyArray_NDIM(rows) != 1 || PyArray_ITEMSIZE(rows) != sizeof(row_t) ||
        !PyArray_IS_C_CONTIGUOUS(rows) || (uintptr_t)PyArray_DATA(rows) % _Alignof(row_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "Block takes a contiguous array (T,) of ROW_DTYPE");
        return NULL;
    }
    PyBlock *self = (PyBlock *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    Py_INCREF(arguments);
    self->arrays = arguments;
    self->block = (block_t){PyArray_DATA(rows), PyArray_DIM(rows, 0)};
    return (PyObject *)self;
}

static void block_dealloc(PyObject *object) {
    Py_XDECREF(((PyBlock *)object)->arrays);
    Py_TYPE(object)->tp_free(object);
}

static PyTypeObject BlockType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "workers.trading_env.account._kernel.Block",
    .tp_doc = "Columns of market states, checked once.",
    .tp_basicsize = sizeof(PyBlock),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = block_new,
    .tp_dealloc = block_dealloc,
};

static PyObject *lanes_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *a[LANE_ARRAYS], *rules;
    if (keywords != NULL && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Lanes takes positional arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "OOOOO", &a[0], &a[1], &a[2], &a[3], &rules)) {
        return NULL;
    }
    npy_intp lanes = PyArray_Check(a[3]) && PyArray_NDIM((PyArrayObject *)a[3]) == 1
                         ? PyArray_DIM((PyArrayObject *)a[3], 0)
                         : -1;
    const npy_intp accounts[2] = {lanes, COLUMNS}, orders[3] = {lanes, -1, SLOTS};
    const npy_intp windows[3] = {lanes, HISTORY, FEATURES}, flat[1] = {lanes}, count[1] = {RULES};
    double *memory = py_array_data(a[0], "memory", NPY_DOUBLE, 2, accounts, 1);
    double *pending = memory ? py_array_data(a[1], "pending", NPY_DOUBLE, 3, orders, 1) : NULL;
    float *frames = pending ? py_array_data(a[2], "frames", NPY_FLOAT, 3, windows, 1) : NULL;
    int64_t *steps = frames ? py_array_data(a[3], "steps", NPY_INT64, 1, flat, 1) : NULL;
    const double *values = steps ? py_array_data(rules, "rules", NPY_DOUBLE, 1, count, 0) : NULL;
    if (values == NULL) {
        return NULL;
    }
    PyLanes *self = (PyLanes *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    Py_INCREF(arguments);
    self->arrays = arguments;
    self->lanes = (lanes_t){.memory = memory,
                            .pending = pending,
                            .frames = frames,
                            .steps = steps,
                            .lanes = lanes,
                            .latency = PyArray_DIM((PyArrayObject *)a[1], 1)};
    memcpy(&self->lanes.rules, values, sizeof(rules_t));
    return (PyObject *)self;
}

static void lanes_dealloc(PyObject *object) {
    Py_XDECREF(((PyLanes *)object)->arrays);
    Py_TYPE(object)->tp_free(object);
}

static const char start_doc[] =
    "start(block, rows, lanes): episodes of these lanes begin at these rows.";
static PyObject *lanes_start(PyObject *object, PyObject *const *a, Py_ssize_t count) {
    lanes_t *self = &((PyLanes *)object)->lanes;
    if (count != 3 || !Py_IS_TYPE(a[0], &BlockType)) {
        PyErr_SetString(PyExc_TypeError, start_doc);
        return NULL;
    }
    const block_t *block = &((PyBlock *)a[0])->block;
    const npy_intp any[1] = {-1};
    const int64_t *rows = py_array_data(a[1], "rows", NPY_INT64, 1, any, 0);
    const int64_t *which = rows ? py_array_data(a[2], "lanes", NPY_INT64, 1, any, 0) : NULL;
    if (which == NULL) {
        return NULL;
    }
    npy_intp n = PyArray_DIM((PyArrayObject *)a[1], 0);
    bool inside = n == PyArray_DIM((PyArrayObject *)a[2], 0);
    for (npy_intp i = 0; inside && i < n; i++) {
        inside = rows[i] >= 0 && rows[i] < block->count && which[i] >= 0 && which[i] < self->lanes;
    }
    if (!inside) {
        PyErr_SetString(PyExc_IndexError, "a row or a lane that does not exist");
        return NULL;
    }
    for (npy_intp i = 0; i < n; i++) {
        start_lane(self, which[i], block->rows[rows[i]].features);
    }
    Py_RETURN_NONE;
}

static const char unsound_doc[] =
    "unsound(actions) -> the first lane whose action is not finite, -1 when all are.";
static PyObject *lanes_unsound(PyObject *object, PyObject *array) {
    const lanes_t *self = &((PyLanes *)object)->lanes;
    bool is_double = PyArray_Check(array) && PyArray_TYPE((PyArrayObject *)array) == NPY_DOUBLE;
    const npy_intp slots[2] = {self->lanes, SLOTS};
    const void *actions =
        py_array_data(array, "actions", is_double ? NPY_DOUBLE : NPY_FLOAT, 2, slots, 0);
    if (actions == NULL) {
        return NULL;
    }
    return PyLong_FromSsize_t(unsound_lane(actions, is_double, self->lanes));
}

static PyTypeObject *OutcomeType;
static PyStructSequence_Field outcome_fields[] = {
    {"reward", "float64 (n,)"},
    {"ruined", "bool (n,)"},
    {"truncated", "bool (n,): the data or the steps of the episode end, and it is not ruined"},
    {"ended", "bool (n,): ruined or truncated"},
    {"change", "float64 (n, 10): contracts bought (+) and sold (-)"},
    {"costs", "float64 (n,): of this step"},
    {"swept", "float64 (n,): gains and losses of the positions, before costs"},
    {"reasons", "uint8 (n, 10): bits of Reason"},
    {"cash", "float64 (n,)"},
    {"equity", "float64 (n,)"},
    {"steps", "int64 (n,): of the episode"},
    {"ts_event", "int64 (n,): of the rows `then`"},
    {"any_ended", "bool"},
    {"broken", "a lane whose account is not finite, -1 without one"},
    {NULL, NULL},
};
enum { OUTCOME_ARRAYS = 12, ANY_ENDED = OUTCOME_ARRAYS, BROKEN };
static PyStructSequence_Desc outcome_description = {"workers.trading_env.account._kernel.Outcome",
                                                    "What one step did to n lanes.", outcome_fields,
                                                    BROKEN + 1};

/* A new Outcome of n lanes, its arrays not yet written; `out` points into them. */
static PyObject *new_outcome(npy_intp lanes, outputs_t *out) {
    struct {
        void **data;
        int type, dimensions;
    } const arrays[OUTCOME_ARRAYS] = {
        {(void **)&out->reward, NPY_DOUBLE, 1},  {(void **)&out->ruined, NPY_BOOL, 1},
        {(void **)&out->truncated, NPY_BOOL, 1}, {(void **)&out->ended, NPY_BOOL, 1},
        {(void **)&out->change, NPY_DOUBLE, 2},  {(void **)&out->costs, NPY_DOUBLE, 1},
        {(void **)&out->swept, NPY_DOUBLE, 1},   {(void **)&out->reasons, NPY_UINT8, 2},
        {(void **)&out->cash, NPY_DOUBLE, 1},    {(void **)&out->equity, NPY_DOUBLE, 1},
        {(void **)&out->steps, NPY_INT64, 1},    {(void **)&out->ts_event, NPY_INT64, 1},
    };
    npy_intp shape[2] = {lanes, SLOTS};
    PyObject *outcome = PyStructSequence_New(OutcomeType);
    for (int i = 0; outcome != NULL && i < OUTCOME_ARRAYS; i++) {
        PyObject *array = PyArray_SimpleNew(arrays[i].dimensions, shape, arrays[i].type);
        if (array == NULL) {
            Py_CLEAR(outcome);
            break;
        }
        PyStructSequence_SetItem(outcome, i, array);
        *arrays[i].data = PyArray_DATA((PyArrayObject *)array);
    }
    return outcome;
}

/* The flags of n lanes, or NULL for None; *fits becomes false when they are no such array. */
static const uint8_t *flags_of(PyObject *array, const char *name, const npy_intp *lanes,
                               bool *fits) {
    const uint8_t *flags =
        array == Py_None ? NULL : py_array_data(array, name, NPY_BOOL, 1, lanes, 0);
    *fits = *fits && (array == Py_None || flags != NULL);
    return flags;
}

static const char step_doc[] =
    "step(block, now, then, actions, fresh | None, hold, newest, data_ends | None, step_limit)\n"
    "-> Outcome. A lane whose action is not finite holds; with hold all do.";
static PyObject *lanes_step(PyObject *object, PyObject *const *a, Py_ssize_t count) {
    lanes_t *self = &((PyLanes *)object)->lanes;
    if (count != STEP_ARGUMENTS || !Py_IS_TYPE(a[0], &BlockType) || !PyArray_Check(a[3])) {
        PyErr_SetString(PyExc_TypeError, step_doc);
        return NULL;
    }
    const block_t *block = &((PyBlock *)a[0])->block;
    wish_t wish = {.is_double = PyArray_TYPE((PyArrayObject *)a[3]) == NPY_DOUBLE};
    const npy_intp flat[1] = {self->lanes}, slots[2] = {self->lanes, SLOTS};
    const int64_t *now = py_array_data(a[1], "now", NPY_INT64, 1, flat, 0);
    const int64_t *then = now ? py_array_data(a[2], "then", NPY_INT64, 1, flat, 0) : NULL;
    if (then != NULL) {
        wish.actions =
            py_array_data(a[3], "actions", wish.is_double ? NPY_DOUBLE : NPY_FLOAT, 2, slots, 0);
    }
    bool fits = wish.actions != NULL;
    wish.fresh = fits ? flags_of(a[4], "fresh", flat, &fits) : NULL;
    wish.data_ends = fits ? flags_of(a[7], "data_ends", flat, &fits) : NULL;
    wish.hold = fits && PyObject_IsTrue(a[5]) != 0;
    Py_ssize_t newest = fits ? PyLong_AsSsize_t(a[6]) : 0;
    wish.step_limit = fits && !PyErr_Occurred() ? PyLong_AsLongLong(a[8]) : 0;
    if (!fits || PyErr_Occurred()) {
        return NULL;
    }
    bool inside = newest >= WINDOW && newest < HISTORY;
    for (ptrdiff_t lane = 0; inside && lane < self->lanes; lane++) {
        inside = now[lane] >= 0 && now[lane] < block->count && then[lane] >= 0 &&
                 then[lane] < block->count;
    }
    if (!inside) {
        PyErr_SetString(PyExc_IndexError, "a row that does not exist");
        return NULL;
    }
    outputs_t out;
    PyObject *outcome = new_outcome(self->lanes, &out);
    if (outcome == NULL) {
        return NULL;
    }
    step_lanes(self, block, now, then, &wish, newest, &out);
    PyObject *broken = PyLong_FromSsize_t(out.broken);
    if (broken == NULL) {
        Py_DECREF(outcome);
        return NULL;
    }
    PyStructSequence_SetItem(outcome, ANY_ENDED, PyBool_FromLong(out.any_ended));
    PyStructSequence_SetItem(outcome, BROKEN, broken);
    return outcome;
}

static PyMethodDef lanes_methods[] = {
    {"start", (PyCFunction)(void (*)(void))lanes_start, METH_FASTCALL, start_doc},
    {"unsound", lanes_unsound, METH_O, unsound_doc},
    {"step", (PyCFunction)(void (*)(void))lanes_step, METH_FASTCALL, step_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject LanesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "workers.trading_env.account._kernel.Lanes",
    .tp_doc = "Accounts and windows of n lanes, stepped in place.",
    .tp_basicsize = sizeof(PyLanes),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = lanes_new,
    .tp_dealloc = lanes_dealloc,
    .tp_methods = lanes_methods,
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "workers.trading_env.account._kernel",
    .m_doc = "The step of the trading environment; the maths is in lane.h.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    import_array();
    OutcomeType = PyStructSequence_NewType(&outcome_description);
    PyObject *module = OutcomeType == NULL ? NULL : PyModule_Create(&module_definition);
    if (module == NULL || PyModule_AddType(module, &BlockType) < 0 ||
        PyModule_AddType(module, &LanesType) < 0 || PyModule_AddType(module, OutcomeType) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
