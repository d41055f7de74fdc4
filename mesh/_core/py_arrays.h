/* The check of an array argument, for every extension of the project.
 *
 * Include after numpy/arrayobject.h. Setup puts this directory on the include path. */
#ifndef MESH_PY_ARRAYS_H
#define MESH_PY_ARRAYS_H

/* The data of `object` if it is an aligned, C-contiguous array of this NumPy type and shape (-1 in
 * `shape`: any length), writable where asked; else NULL with ValueError set, which calls it `name`. */
static inline void *py_array_data(PyObject *object, const char *name, int type, int dimensions,
                                  const npy_intp *shape, int writable) {
    PyArrayObject *array = (PyArrayObject *)object;
    int needed = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | (writable ? NPY_ARRAY_WRITEABLE : 0);
    int fits = PyArray_Check(object) && PyArray_TYPE(array) == type &&
               PyArray_NDIM(array) == dimensions && (PyArray_FLAGS(array) & needed) == needed &&
               PyArray_ISNOTSWAPPED(array);
    for (int i = 0; fits && i < dimensions; i++)
        fits = shape[i] < 0 || PyArray_DIM(array, i) == shape[i];
    if (!fits) {
        PyErr_Format(PyExc_ValueError,
                     "%s: not a %sC-contiguous array of the type and shape needed", name,
                     writable ? "writable " : "");
        return NULL;
    }
    return PyArray_DATA(array);
}

#endif
