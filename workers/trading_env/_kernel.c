/* Binding of `lane.h`: arrays are checked once, when a `Block` or `Lanes` is made, and kept alive
 * by it; a step checks its rows and the arrays it writes. The GIL is held: a step is microseconds.
 */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>

#include "lane.h"

enum { LANE_ARRAYS = 4, STEP_ARGUMENTS = 13 };

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

/* The data of `array` if it is C-contiguous with this type and shape (-1: any), else an error. */
static void *data_of(PyObject *array, const char *name, int type, int dimensions,
                     const npy_intp *shape)
{
    PyArrayObject *a = (PyArrayObject *)array;
    bool fits = PyArray_Check(array) && PyArray_TYPE(a) == type && PyArray_NDIM(a) == dimensions &&
                PyArray_IS_C_CONTIGUOUS(a) && PyArray_ISALIGNED(a);
    for (int i = 0; fits && i < dimensions; i++) {
        fits = shape[i] < 0 || PyArray_DIM(a, i) == shape[i];
    }
    if (!fits) {
        PyErr_Format(PyExc_ValueError, "%s: not a C-contiguous array of the type and shape needed",
                     name);
        return NULL;
    }
    return PyArray_DATA(a);
}

static PyObject *block_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
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

static void block_dealloc(PyObject *object)
{
    Py_XDECREF(((PyBlock *)object)->arrays);
    Py_TYPE(object)->tp_free(object);
}

static PyTypeObject BlockType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "workers.trading_env._kernel.Block",
    .tp_doc = "Columns of market states, checked once.",
    .tp_basicsize = sizeof(PyBlock),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = block_new,
    .tp_dealloc = block_dealloc,
};

static PyObject *lanes_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
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
    const npy_intp windows[3] = {lanes, -1, FEATURES}, flat[1] = {lanes}, count[1] = {RULES};
    double *memory = data_of(a[0], "memory", NPY_DOUBLE, 2, accounts);
    double *pending = memory ? data_of(a[1], "pending", NPY_DOUBLE, 3, orders) : NULL;
    float *frames = pending ? data_of(a[2], "frames", NPY_FLOAT, 3, windows) : NULL;
    int64_t *steps = frames ? data_of(a[3], "steps", NPY_INT64, 1, flat) : NULL;
    const double *values = steps ? data_of(rules, "rules", NPY_DOUBLE, 1, count) : NULL;
    if (values == NULL) {
        return NULL;
    }
    PyLanes *self = (PyLanes *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    Py_INCREF(arguments);
    self->arrays = arguments;
    self->lanes = (lanes_t){.memory = memory, .pending = pending, .frames = frames,
                            .steps = steps, .lanes = lanes,
                            .latency = PyArray_DIM((PyArrayObject *)a[1], 1),
                            .history = PyArray_DIM((PyArrayObject *)a[2], 1)};
    memcpy(&self->lanes.rules, values, sizeof(rules_t));
    return (PyObject *)self;
}

static void lanes_dealloc(PyObject *object)
{
    Py_XDECREF(((PyLanes *)object)->arrays);
    Py_TYPE(object)->tp_free(object);
}


static const char start_doc[] =
    "start(block, rows, lanes, newest): episodes of these lanes begin at these rows.";
static PyObject *lanes_start(PyObject *object, PyObject *const *a, Py_ssize_t count)
{
    lanes_t *self = &((PyLanes *)object)->lanes;
    if (count != 4 || !Py_IS_TYPE(a[0], &BlockType)) {
        PyErr_SetString(PyExc_TypeError, "start(block, rows, lanes, newest)");
        return NULL;
    }
    const block_t *block = &((PyBlock *)a[0])->block;
    const npy_intp any[1] = {-1};
    const int64_t *rows = data_of(a[1], "rows", NPY_INT64, 1, any);
    const int64_t *which = rows ? data_of(a[2], "lanes", NPY_INT64, 1, any) : NULL;
    Py_ssize_t newest = which ? PyLong_AsSsize_t(a[3]) : -1;
    if (which == NULL || (newest == -1 && PyErr_Occurred())) {
        return NULL;
    }
    npy_intp n = PyArray_DIM((PyArrayObject *)a[1], 0);
    bool inside = n == PyArray_DIM((PyArrayObject *)a[2], 0) && newest >= WINDOW - 1 &&
                  newest < self->history;
    for (npy_intp i = 0; inside && i < n; i++) {
        inside = rows[i] >= 0 && rows[i] < block->count && which[i] >= 0 && which[i] < self->lanes;
    }
    if (!inside) {
        PyErr_SetString(PyExc_IndexError, "a row or a lane that does not exist");
        return NULL;
    }
    for (npy_intp i = 0; i < n; i++) {
        start_lane(self, which[i], block->rows[rows[i]].features, newest);
    }
    Py_RETURN_NONE;
}

/* Shares of the limit (float or double) of a lane as contracts; false when one is not finite. */
static bool targets_of(const lanes_t *self, const void *actions, bool is_double, ptrdiff_t lane,
                       double *targets)
{
    bool finite = true;
    for (int j = 0; j < SLOTS; j++) {
        ptrdiff_t at = lane * SLOTS + j;
        double share = is_double ? ((const double *)actions)[at] : ((const float *)actions)[at];
        finite = finite && isfinite(share);
        targets[j] = clip(share, 1.0) * self->rules.contract_limit;
    }
    return finite;
}

static void hold(double *targets)
{
    for (int j = 0; j < SLOTS; j++) {
        targets[j] = NAN;
    }
}

static const char unsound_doc[] =
    "unsound(actions) -> the first lane whose action is not finite, -1 when all are.";
static PyObject *lanes_unsound(PyObject *object, PyObject *array)
{
    const lanes_t *self = &((PyLanes *)object)->lanes;
    bool is_double = PyArray_Check(array) && PyArray_TYPE((PyArrayObject *)array) == NPY_DOUBLE;
    const npy_intp slots[2] = {self->lanes, SLOTS};
    const void *actions = data_of(array, "actions", is_double ? NPY_DOUBLE : NPY_FLOAT, 2, slots);
    if (actions == NULL) {
        return NULL;
    }
    double targets[SLOTS];
    for (ptrdiff_t lane = 0; lane < self->lanes; lane++) {
        if (!targets_of(self, actions, is_double, lane, targets)) {
            return PyLong_FromSsize_t(lane);
        }
    }
    return PyLong_FromLong(-1);
}

static const char step_doc[] =
    "step(block, now, then, actions, fresh | None, hold, newest, reward, ruined, change, costs,\n"
    "swept, reasons) -> -1, or a lane whose account is not finite. A lane whose action is not\n"
    "finite holds; with hold all do.";
static PyObject *lanes_step(PyObject *object, PyObject *const *a, Py_ssize_t count)
{
    lanes_t *self = &((PyLanes *)object)->lanes;
    if (count != STEP_ARGUMENTS || !Py_IS_TYPE(a[0], &BlockType) || !PyArray_Check(a[3])) {
        PyErr_SetString(PyExc_TypeError, step_doc);
        return NULL;
    }
    const block_t *block = &((PyBlock *)a[0])->block;
    bool is_double = PyArray_TYPE((PyArrayObject *)a[3]) == NPY_DOUBLE;
    const npy_intp flat[1] = {self->lanes}, slots[2] = {self->lanes, SLOTS};
    const int64_t *now = data_of(a[1], "now", NPY_INT64, 1, flat);
    const int64_t *then = now ? data_of(a[2], "then", NPY_INT64, 1, flat) : NULL;
    const void *actions =
        then ? data_of(a[3], "actions", is_double ? NPY_DOUBLE : NPY_FLOAT, 2, slots) : NULL;
    const uint8_t *fresh = NULL;
    if (actions != NULL && a[4] != Py_None) {
        fresh = data_of(a[4], "fresh", NPY_BOOL, 1, flat);
        actions = fresh ? actions : NULL;
    }
    int holding = actions ? PyObject_IsTrue(a[5]) : 0;
    Py_ssize_t newest = actions ? PyLong_AsSsize_t(a[6]) : 0;
    if (actions == NULL || PyErr_Occurred()) {
        return NULL;
    }
    outputs_t out;
    if ((out.reward = data_of(a[7], "reward", NPY_DOUBLE, 1, flat)) == NULL ||
        (out.ruined = data_of(a[8], "ruined", NPY_BOOL, 1, flat)) == NULL ||
        (out.change = data_of(a[9], "change", NPY_DOUBLE, 2, slots)) == NULL ||
        (out.costs = data_of(a[10], "costs", NPY_DOUBLE, 1, flat)) == NULL ||
        (out.swept = data_of(a[11], "swept", NPY_DOUBLE, 1, flat)) == NULL ||
        (out.reasons = data_of(a[12], "reasons", NPY_UINT8, 2, slots)) == NULL) {
        return NULL;
    }
    bool inside = newest >= WINDOW - 1 && newest < self->history;
    for (ptrdiff_t lane = 0; inside && lane < self->lanes; lane++) {
        inside = now[lane] >= 0 && now[lane] < block->count && then[lane] >= 0 &&
                 then[lane] < block->count;
    }
    if (!inside) {
        PyErr_SetString(PyExc_IndexError, "a row that does not exist");
        return NULL;
    }
    ptrdiff_t broken = -1;
    for (ptrdiff_t lane = 0; lane < self->lanes; lane++) {
        double targets[SLOTS];
        if (fresh != NULL && fresh[lane]) {
            restart_lane(self, block, lane, then[lane], newest, &out);
            continue;
        }
        if (!targets_of(self, actions, is_double, lane, targets) || holding) {
            hold(targets);
        }
        if (!step_lane(self, block, lane, now[lane], then[lane], targets, newest, &out)) {
            broken = lane;
        }
    }
    return PyLong_FromSsize_t(broken);
}

static PyMethodDef lanes_methods[] = {
    {"start", (PyCFunction)(void (*)(void))lanes_start, METH_FASTCALL, start_doc},
    {"unsound", lanes_unsound, METH_O, unsound_doc},
    {"step", (PyCFunction)(void (*)(void))lanes_step, METH_FASTCALL, step_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject LanesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "workers.trading_env._kernel.Lanes",
    .tp_doc = "Accounts and windows of n lanes, stepped in place.",
    .tp_basicsize = sizeof(PyLanes),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = lanes_new,
    .tp_dealloc = lanes_dealloc,
    .tp_methods = lanes_methods,
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "workers.trading_env._kernel",
    .m_doc = "The step of the trading environment; the maths is in lane.h.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__kernel(void)
{
    import_array();
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL || PyModule_AddType(module, &BlockType) < 0 ||
        PyModule_AddType(module, &LanesType) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
