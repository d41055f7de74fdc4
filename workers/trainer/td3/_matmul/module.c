/* Binding of `product.h`: arrays are checked at each call; what overlaps is the caller's. The GIL is
 * held: a product is milliseconds at most, and the blocks it is made of lie in static memory.
 */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>
#include <stdbool.h>

enum { ADD = 1, RELU = 2, HALF = 4 };

/* Whether this processor can multiply in floats, and in pairs of bfloat16. */
static void units(bool *floats, bool *pairs) {
    *floats = *pairs = false;
#ifdef __x86_64__
    __builtin_cpu_init();
    *floats = __builtin_cpu_supports("avx512f") != 0;
    *pairs = *floats && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512bf16");
#endif
}

static const char units_doc[] =
    "units() -> (floats, pairs): whether products are computed here in float32, in bfloat16.";
static PyObject *module_units(PyObject *module, PyObject *none) {
    (void)module, (void)none;
    bool floats, pairs;
    units(&floats, &pairs);
    return Py_BuildValue("(NN)", PyBool_FromLong(floats), PyBool_FromLong(pairs));
}

#ifdef __x86_64__

#include "narrow.h"
#include "py_arrays.h"

/* A float matrix (rows, columns) as `product_t` has it; false with an error set. */
static bool matrix_of(PyObject *object, const char *name, matrix_t *matrix, ptrdiff_t *rows,
                      ptrdiff_t *columns) {
    npy_intp shape[2], strides[2];
    const float *data = py_matrix_data(object, name, shape, strides);
    if (data == NULL) return false;
    *rows = shape[0];
    *columns = shape[1];
    *matrix = (matrix_t){data, strides[0], strides[1]};
    return true;
}

/* A vector (columns,) of floats that lie beside each other; NULL with an error set. */
static const float *vector_of(PyObject *object, ptrdiff_t columns) {
    const npy_intp shape[] = {columns};
    return py_array_data(object, "bias", NPY_FLOAT, 1, shape, 0);
}

static bool product_of(PyObject *const *a, product_t *p) {
    matrix_t out, mask;
    ptrdiff_t inner, rows, columns;
    if (!matrix_of(a[0], "out", &out, &p->rows, &p->columns) ||
        !matrix_of(a[1], "left", &p->left, &rows, &p->inner) ||
        !matrix_of(a[2], "right", &p->right, &inner, &columns))
        return false;
    if (rows != p->rows || columns != p->columns || inner != p->inner || out.column != 1 ||
        (PyArray_FLAGS((PyArrayObject *)a[0]) & NPY_ARRAY_WRITEABLE) == 0) {
        PyErr_Format(PyExc_ValueError, "(%zd, %zd) @ (%zd, %zd) does not fit into (%zd, %zd)", rows,
                     p->inner, inner, columns, p->rows, p->columns);
        return false;
    }
    p->out = (float *)(uintptr_t)out.at;
    p->out_row = out.row;
    if (a[3] != Py_None && (p->bias = vector_of(a[3], columns)) == NULL) return false;
    if (a[4] != Py_None) {
        if (!matrix_of(a[4], "mask", &mask, &rows, &columns)) return false;
        if (rows != p->rows || columns != p->columns || mask.column != 1) {
            PyErr_SetString(PyExc_ValueError, "mask: not of the shape of out");
            return false;
        }
        p->mask = mask.at;
        p->mask_row = mask.row;
    }
    return true;
}

static const char product_doc[] =
    "product(out, left, right, bias | None, mask | None, flags): out = left @ right.\n\n"
    "float32 matrices, rows or columns in one piece. Flags: ADD to what is in out, RELU of the\n"
    "sum, HALF: factors rounded to bfloat16. A bias (columns,) is added; where the mask (of the\n"
    "shape of out) is not above zero, out becomes 0. Raises ValueError for what does not fit,\n"
    "RuntimeError where the processor has no such units.";
static PyObject *module_product(PyObject *module, PyObject *const *a, Py_ssize_t count) {
    (void)module;
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "product(out, left, right, bias, mask, flags)");
        return NULL;
    }
    long flags = PyLong_AsLong(a[5]);
    product_t p = {.add = flags & ADD, .relu = flags & RELU};
    if (PyErr_Occurred() || !product_of(a, &p)) return NULL;
    bool floats, pairs;
    units(&floats, &pairs);
    if (!((flags & HALF) ? pairs : floats)) {
        PyErr_SetString(PyExc_RuntimeError, "this processor has no AVX-512 for such a product");
        return NULL;
    }
    if (p.inner == 0) {
        PyErr_SetString(PyExc_ValueError, "a product over nothing");
        return NULL;
    }
    if (flags & HALF)
        product_pairs(&p);
    else if (!product_narrow(&p))
        product_float(&p);
    Py_RETURN_NONE;
}

#else

static const char product_doc[] = "product(...): not on this architecture.";
static PyObject *module_product(PyObject *module, PyObject *const *a, Py_ssize_t count) {
    (void)module, (void)a, (void)count;
    PyErr_SetString(PyExc_RuntimeError, "products are computed here on x86-64 alone");
    return NULL;
}

#endif

static PyMethodDef methods[] = {
    {"units", module_units, METH_NOARGS, units_doc},
    {"product", (PyCFunction)(void (*)(void))module_product, METH_FASTCALL, product_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "workers.trainer.td3._matmul._native",
    .m_doc = "Products of float matrices; the maths is in product.h.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void) {
    import_array();
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL || PyModule_AddIntConstant(module, "ADD", ADD) < 0 ||
        PyModule_AddIntConstant(module, "RELU", RELU) < 0 ||
        PyModule_AddIntConstant(module, "HALF", HALF) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
