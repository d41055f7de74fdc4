/* Locks: words that many processes write. */
#ifndef MESH_PY_LOCK_H
#define MESH_PY_LOCK_H

#include "py_mapping.h"
#include "spinlock.h"

#define MESH_LOCK_SLICE_NS 50000000

typedef struct {
    PyObject_HEAD
    mapping_object *mapping;
    mesh_lock *lock;
    int64_t index; /* of our owner entry, -1 = none yet */
    uint64_t fork;
    uint64_t held; /* the word while we hold it, else 0 */
} lock_object;

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *mapping;
    static char *names[] = {"mapping", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!", names, &mapping_type, &mapping)) return NULL;
    lock_object *l = (lock_object *)type->tp_alloc(type, 0);
    if (l == NULL) return NULL;
    l->mapping = (mapping_object *)Py_NewRef(mapping);
    l->lock = (mesh_lock *)(void *)((uint8_t *)l->mapping->readers + MESH_LOCK_OFFSET);
    l->index = -1;
    return (PyObject *)l;
}

static void lock_dealloc(lock_object *l) {
    Py_XDECREF(l->mapping);
    Py_TYPE(l)->tp_free((PyObject *)l);
}

static int lock_problem(const lock_object *l) {
    int code = mapping_read_problem(l->mapping);
    if (code != 0) return code;
    return l->mapping->readers_writable ? 0 : MESH_NOT_WRITER;
}

/* The process a lock word names: (word, pid, start_time, since_ns, name); pid 0 = free. */
static PyObject *lock_owner_of(lock_object *l, PyObject *unused) {
    (void)unused;
    int code = mapping_read_problem(l->mapping);
    if (code != 0) return mapping_raise(l->mapping, code);
    for (;;) {
        uint64_t word = mesh_load_acquire(&l->lock->word);
        uint32_t index = mesh_lock_owner_index(word);
        if (index == 0)
            return Py_BuildValue("KKKLy", (unsigned long long)word, 0ULL, 0ULL, 0LL, "");
        if (index > MESH_LOCK_OWNERS) return mapping_raise(l->mapping, MESH_CORRUPT);
        const mesh_lock_owner *owner = &l->lock->owner[index - 1];
        char name[MESH_KEY_BYTES + 1] = {0};
        uint64_t pid = mesh_load_acquire(&owner->claim);
        uint64_t start = mesh_load(&owner->start_time);
        uint64_t since = mesh_load((const uint64_t *)(const void *)&owner->since_ns);
        mesh_copy_out(name, owner->name, MESH_KEY_BYTES);
        mesh_fence_acquire();
        if (mesh_load(&l->lock->word) != word) continue;
        if (pid == 0)
            return mapping_raise(l->mapping, MESH_CORRUPT); /* owners are known before they own */
        return Py_BuildValue("KKKLy", (unsigned long long)word, (unsigned long long)pid,
                             (unsigned long long)start, (long long)since, name);
    }
}

/* entries() -> [(pid, start_time, name)], so that Python can judge which of them are dead */
static PyObject *lock_entries(lock_object *l, PyObject *unused) {
    (void)unused;
    int code = mapping_read_problem(l->mapping);
    if (code != 0) return mapping_raise(l->mapping, code);
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < (int)MESH_LOCK_OWNERS; i++) {
        const mesh_lock_owner *owner = &l->lock->owner[i];
        uint64_t pid = mesh_load_acquire(&owner->claim);
        char name[MESH_KEY_BYTES + 1] = {0};
        mesh_copy_out(name, owner->name, MESH_KEY_BYTES);
        PyObject *item = Py_BuildValue("KKy", (unsigned long long)pid,
                                       (unsigned long long)mesh_load(&owner->start_time), name);
        if (item == NULL || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* claim(index, pid, start_time, name): take an owner entry; the caller holds the directory's lock
 * and has seen that the entry is free, or that its process is dead and does not own the word. */
static PyObject *lock_claim(lock_object *l, PyObject *args) {
    unsigned int index;
    unsigned long long pid, start;
    const char *name;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "IKKy#", &index, &pid, &start, &name, &length)) return NULL;
    int code = lock_problem(l);
    if (code != 0) return mapping_raise(l->mapping, code);
    if (index >= MESH_LOCK_OWNERS) return PyErr_Format(PyExc_ValueError, "entry %u", index);
    uint8_t padded[MESH_KEY_BYTES] = {0};
    memcpy(padded, name, (size_t)(length < (Py_ssize_t)MESH_KEY_BYTES ? length : MESH_KEY_BYTES));
    if (!mesh_lock_claim(l->lock, index, pid, start, padded)) Py_RETURN_FALSE;
    l->index = index;
    l->fork = py_fork_count;
    l->held = 0;
    Py_RETURN_TRUE;
}

/* use(index): an entry that this process claimed through another object */
static PyObject *lock_use(lock_object *l, PyObject *arg) {
    long index = PyLong_AsLong(arg);
    if (PyErr_Occurred()) return NULL;
    if (index < 0 || index >= (long)MESH_LOCK_OWNERS)
        return PyErr_Format(PyExc_ValueError, "entry %ld", index);
    l->index = index;
    l->fork = py_fork_count;
    l->held = 0;
    Py_RETURN_NONE;
}

static PyObject *lock_has_entry(lock_object *l, void *unused) {
    (void)unused;
    return PyBool_FromLong(l->index >= 0 && l->fork == py_fork_count);
}

/* acquire(timeout_s) -> bool; has_entry must hold */
static PyObject *lock_acquire(lock_object *l, PyObject *arg) {
    double timeout = PyFloat_AsDouble(arg);
    if (PyErr_Occurred()) return NULL;
    int code = lock_problem(l);
    if (code == 0 && (l->index < 0 || l->fork != py_fork_count)) code = MESH_NOT_WRITER;
    if (code != 0) return mapping_raise(l->mapping, code);
    uint32_t index = (uint32_t)l->index;
    uint64_t held = 0;
    if (mesh_lock_try(l->lock, index, mesh_monotonic_ns(), &held)) {
        l->held = held;
        mesh_add(&l->lock->acquisitions, 1);
        Py_RETURN_TRUE;
    }
    int64_t now = mesh_monotonic_ns(), deadline = now + (int64_t)(timeout * 1e9);
    int got = 0;
    while (!got && now < deadline) {
        int64_t until = deadline - now < MESH_LOCK_SLICE_NS ? deadline : now + MESH_LOCK_SLICE_NS;
        l->mapping->users++;
        Py_BEGIN_ALLOW_THREADS got =
            mesh_lock_acquire(l->lock, index, until, MESH_LOCK_SLICE_NS, &held);
        Py_END_ALLOW_THREADS l->mapping->users--;
        if (!got && PyErr_CheckSignals() < 0) return NULL;
        now = mesh_monotonic_ns();
    }
    if (!got) Py_RETURN_FALSE;
    l->held = held;
    mesh_add(&l->lock->acquisitions, 1);
    Py_RETURN_TRUE;
}

/* release() -> bool: False if the lock was not ours (any more) */
static PyObject *lock_release(lock_object *l, PyObject *unused) {
    (void)unused;
    int code = lock_problem(l);
    if (code != 0) return mapping_raise(l->mapping, code);
    uint64_t held = l->fork == py_fork_count ? l->held : 0;
    l->held = 0;
    return PyBool_FromLong(held != 0 && mesh_lock_free(l->lock, held));
}

/* break_word(word) -> bool: free exactly the word that was judged; of two breakers one wins */
static PyObject *lock_break_word(lock_object *l, PyObject *arg) {
    uint64_t word = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) return NULL;
    int code = lock_problem(l);
    if (code != 0) return mapping_raise(l->mapping, code);
    if (mesh_lock_owner_index(word) == 0 || !mesh_lock_free(l->lock, word)) Py_RETURN_FALSE;
    mesh_add(&l->lock->breaks, 1);
    Py_RETURN_TRUE;
}

/* counters() -> (acquisitions, breaks) */
static PyObject *lock_counters(lock_object *l, PyObject *unused) {
    (void)unused;
    int code = mapping_read_problem(l->mapping);
    if (code != 0) return mapping_raise(l->mapping, code);
    return Py_BuildValue("KK", (unsigned long long)mesh_load(&l->lock->acquisitions),
                         (unsigned long long)mesh_load(&l->lock->breaks));
}

static PyMethodDef lock_methods[] = {
    {"owner", (PyCFunction)lock_owner_of, METH_NOARGS, NULL},
    {"entries", (PyCFunction)lock_entries, METH_NOARGS, NULL},
    {"claim", (PyCFunction)lock_claim, METH_VARARGS, NULL},
    {"use", (PyCFunction)lock_use, METH_O, NULL},
    {"acquire", (PyCFunction)lock_acquire, METH_O, NULL},
    {"release", (PyCFunction)lock_release, METH_NOARGS, NULL},
    {"break_word", (PyCFunction)lock_break_word, METH_O, NULL},
    {"counters", (PyCFunction)lock_counters, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef lock_getset[] = {
    {"has_entry", (getter)lock_has_entry, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject lock_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "mesh._core._native.Lock",
    .tp_basicsize = sizeof(lock_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = lock_new,
    .tp_dealloc = (destructor)lock_dealloc,
    .tp_methods = lock_methods,
    .tp_getset = lock_getset,
};

#endif
