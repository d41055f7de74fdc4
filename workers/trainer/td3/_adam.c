/* One step of Adam over a flat vector, with the look at its gradient before and the target network
 * after it: each array is read and written once, where separate calls would fetch them again from
 * beyond the nearest caches.
 *
 * Adam is Algorithm 1 of Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), with
 * epsilon added to the corrected root as in torch. The loops are plain C for the compiler's vectors.
 */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <Python.h>
#include <math.h>
#include <numpy/arrayobject.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __x86_64__
#include <xmmintrin.h>

#include "py_arrays.h"
#endif

#define INLINE __attribute__((always_inline)) static inline

typedef struct {
    ptrdiff_t size;
    float *values, *first, *second;
    const float *gradient;
    float *target;           /* or none: it does not move */
    float rate;              /* learning rate over the first moment's correction */
    float root;              /* one over the root of the second moment's correction */
    float beta2, new1, new2; /* what a moment keeps, what it takes of the gradient */
    float epsilon, decay, tau;
    bool sound_loss;
} adam_t;

/* NaN and infinity have all bits of the exponent. */
INLINE bool is_finite(const float *values, ptrdiff_t size) {
    uint32_t largest = 0;
    for (ptrdiff_t i = 0; i < size; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        bits &= 0x7FFFFFFFU;
        largest = bits > largest ? bits : largest;
    }
    return largest < 0x7F800000U;
}

INLINE void move(const adam_t *a, const bool follow) {
    float *restrict values = a->values, *restrict first = a->first, *restrict second = a->second;
    float *restrict target = a->target;
    const float *restrict gradient = a->gradient;
    const adam_t c = *a;
    for (ptrdiff_t i = 0; i < c.size; i++) {
        float g = gradient[i] + c.decay * values[i];
        first[i] += c.new1 * (g - first[i]);
        second[i] = c.beta2 * second[i] + c.new2 * g * g;
        values[i] -= c.rate * first[i] / (sqrtf(second[i]) * c.root + c.epsilon);
        if (follow) target[i] += c.tau * (values[i] - target[i]);
    }
}

INLINE void follow_alone(const adam_t *a) {
    for (ptrdiff_t i = 0; i < a->size; i++) a->target[i] += a->tau * (a->values[i] - a->target[i]);
}

INLINE bool step(const adam_t *a) {
    bool sound = a->sound_loss && is_finite(a->gradient, a->size);
    if (sound && a->target != NULL)
        move(a, true);
    else if (sound)
        move(a, false);
    else if (a->target != NULL)
        follow_alone(a);
    return sound;
}

__attribute__((noinline)) static bool step_anywhere(const adam_t *a) { return step(a); }

#ifdef __x86_64__
/* wider ones are no faster: roots and quotients are what the time goes into */
__attribute__((noinline, target("avx2"))) static bool step_avx2(const adam_t *a) { return step(a); }
#endif

/* Moments of units that are silent shrink to numbers below the normal ones and stay there, where
 * each operation may take a hundred times as long: such numbers count as zero, in here.
 */
static bool step_flushing(const adam_t *a) {
#ifdef __x86_64__
    const unsigned flush_results = 0x8000, flush_inputs = 0x0040, before = _mm_getcsr();
    _mm_setcsr(before | flush_results | flush_inputs);
    bool sound = __builtin_cpu_supports("avx2") ? step_avx2(a) : step_anywhere(a);
    _mm_setcsr(before);
    return sound;
#else
    return step_anywhere(a);
#endif
}

/* A vector of floats that may be written to, of the size of the others; NULL with an error set. */
static float *vector_of(PyObject *object, const char *name, ptrdiff_t *size) {
    const npy_intp shape[] = {*size};
    float *data = py_array_data(object, name, NPY_FLOAT, 1, shape, 1);
    if (data != NULL) *size = PyArray_DIM((PyArrayObject *)object, 0);
    return data;
}

static const char step_doc[] =
    "step(values, gradient, first, second, target | None, loss, number, rate, beta1, beta2,\n"
    "     epsilon, weight_decay, tau) -> sound: the step of Adam with this number (from 1).\n\n"
    "Vectors (n,) of float32. Where loss or gradient are not finite, values and moments stay as\n"
    "they are and False comes back. A target then moves by tau of the way to the values, either "
    "way.\n"
    "Raises ValueError for vectors of another kind or size.";
static PyObject *module_step(PyObject *module, PyObject *arguments) {
    (void)module;
    static const char *const names[] = {"values", "gradient", "first", "second", "target"};
    PyObject *arrays[5];
    double loss, number, rate, beta1, beta2, epsilon, decay, tau;
    if (!PyArg_ParseTuple(arguments, "OOOOOdddddddd:step", arrays, arrays + 1, arrays + 2,
                          arrays + 3, arrays + 4, &loss, &number, &rate, &beta1, &beta2, &epsilon,
                          &decay, &tau))
        return NULL;
    float *at[5] = {NULL};
    ptrdiff_t size = -1;
    for (int i = 0; i < 5; i++) {
        if (i == 4 && arrays[i] == Py_None) continue;
        if ((at[i] = vector_of(arrays[i], names[i], &size)) == NULL) return NULL;
    }
    adam_t a = {
        .size = size,
        .values = at[0],
        .gradient = at[1],
        .first = at[2],
        .second = at[3],
        .target = at[4],
        .rate = (float)(rate / (1.0 - pow(beta1, number))),
        .root = (float)(1.0 / sqrt(1.0 - pow(beta2, number))),
        .beta2 = (float)beta2,
        .new1 = (float)(1.0 - beta1),
        .new2 = (float)(1.0 - beta2),
        .epsilon = (float)epsilon,
        .decay = (float)decay,
        .tau = (float)tau,
        .sound_loss = isfinite(loss),
    };
    bool sound;
    Py_BEGIN_ALLOW_THREADS sound = step_flushing(&a);
    Py_END_ALLOW_THREADS return PyBool_FromLong(sound);
}

static PyMethodDef methods[] = {
    {"step", module_step, METH_VARARGS, step_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "workers.trainer.td3._adam",
    .m_doc = "Adam, the guard of its gradient and the target's move in one pass each.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__adam(void) {
    import_array();
#ifdef __x86_64__
    __builtin_cpu_init();
#endif
    return PyModule_Create(&module_definition);
}
