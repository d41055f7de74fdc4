/* The checks of array arguments, for every extension of the project.
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

/* The data of `object` if it is an aligned float32 matrix whose rows or columns are contiguous, with
 * its shape and its strides in elements; else NULL with ValueError set, which calls it `name`. */
static inline float *py_matrix_data(PyObject *object, const char *name, npy_intp shape[2],
                                    npy_intp strides[2]) {
    PyArrayObject *array = (PyArrayObject *)object;
    const npy_intp size = sizeof(float);
    int fits = PyArray_Check(object) && PyArray_TYPE(array) == NPY_FLOAT &&
               PyArray_NDIM(array) == 2 && PyArray_ISALIGNED(array) && PyArray_ISNOTSWAPPED(array);
    for (int i = 0; fits && i < 2; i++) {
        shape[i] = PyArray_DIM(array, i);
        fits = PyArray_STRIDE(array, i) % size == 0;
        /* the stride of a dimension of length 1 is never used and may have any value */
        strides[i] = shape[i] == 1 ? 1 : PyArray_STRIDE(array, i) / size;
    }
    if (!fits || (strides[0] != 1 && strides[1] != 1)) {
        PyErr_Format(PyExc_ValueError, "%s: not a float32 matrix with rows or columns in one piece",
                     name);
        return NULL;
    }
    return PyArray_DATA(array);
}

#endif
