/* Locks and heartbeat rows: what many processes write. */
#ifndef MESH_PY_LOCK_H
#define MESH_PY_LOCK_H

#include "py_mapping.h"
#include "seqlock.h"
#include "spinlock.h"
#include "table.h"

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
    int code = read_problem(l->mapping);
    if (code != 0) return code;
    return l->mapping->readers_writable ? 0 : MESH_NOT_WRITER;
}

/* The process a lock word names: (word, pid, start_time, since_ns, name); pid 0 = free. */
static PyObject *lock_owner_of(lock_object *l, PyObject *unused) {
    (void)unused;
    int code = read_problem(l->mapping);
    if (code != 0) return problem(l->mapping, code);
    for (;;) {
        uint64_t word = mesh_load_acquire(&l->lock->word);
        uint32_t index = mesh_lock_owner_index(word);
        if (index == 0) return Py_BuildValue("KKKLy", (unsigned long long)word, 0ULL, 0ULL, 0LL, "");
        if (index > MESH_LOCK_OWNERS) return problem(l->mapping, MESH_CORRUPT);
        const mesh_lock_owner *owner = &l->lock->owner[index - 1];
        char name[MESH_KEY_BYTES + 1] = {0};
        uint64_t pid = mesh_load_acquire(&owner->claim);
        uint64_t start = mesh_load(&owner->start_time);
        uint64_t since = mesh_load((const uint64_t *)(const void *)&owner->since_ns);
        mesh_copy_out(name, owner->name, MESH_KEY_BYTES);
        mesh_fence_acquire();
        if (mesh_load(&l->lock->word) != word) continue;
        if (pid == 0) return problem(l->mapping, MESH_CORRUPT); /* owners are known before they own */
        return Py_BuildValue("KKKLy", (unsigned long long)word, (unsigned long long)pid,
                             (unsigned long long)start, (long long)since, name);
    }
}

/* entries() -> [(pid, start_time, name)], so that Python can judge which of them are dead */
static PyObject *lock_entries(lock_object *l, PyObject *unused) {
    (void)unused;
    int code = read_problem(l->mapping);
    if (code != 0) return problem(l->mapping, code);
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
    if (code != 0) return problem(l->mapping, code);
    if (index >= MESH_LOCK_OWNERS) return PyErr_Format(PyExc_ValueError, "entry %u", index);
    uint8_t padded[MESH_KEY_BYTES] = {0};
    memcpy(padded, name, (size_t)(length < (Py_ssize_t)MESH_KEY_BYTES ? length : MESH_KEY_BYTES));
    if (!mesh_lock_claim(l->lock, index, pid, start, padded)) Py_RETURN_FALSE;
    l->index = index;
    l->fork = fork_count;
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
    l->fork = fork_count;
    l->held = 0;
    Py_RETURN_NONE;
}

static PyObject *lock_has_entry(lock_object *l, void *unused) {
    (void)unused;
    return PyBool_FromLong(l->index >= 0 && l->fork == fork_count);
}

/* acquire(timeout_s) -> bool; has_entry must hold */
static PyObject *lock_acquire(lock_object *l, PyObject *arg) {
    double timeout = PyFloat_AsDouble(arg);
    if (PyErr_Occurred()) return NULL;
    int code = lock_problem(l);
    if (code == 0 && (l->index < 0 || l->fork != fork_count)) code = MESH_NOT_WRITER;
    if (code != 0) return problem(l->mapping, code);
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
        Py_BEGIN_ALLOW_THREADS
        got = mesh_lock_acquire(l->lock, index, until, MESH_LOCK_SLICE_NS, &held);
        Py_END_ALLOW_THREADS
        l->mapping->users--;
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
    if (code != 0) return problem(l->mapping, code);
    uint64_t held = l->fork == fork_count ? l->held : 0;
    l->held = 0;
    return PyBool_FromLong(held != 0 && mesh_lock_free(l->lock, held));
}

/* break_word(word) -> bool: free exactly the word that was judged; of two breakers one wins */
static PyObject *lock_break_word(lock_object *l, PyObject *arg) {
    uint64_t word = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) return NULL;
    int code = lock_problem(l);
    if (code != 0) return problem(l->mapping, code);
    if (mesh_lock_owner_index(word) == 0 || !mesh_lock_free(l->lock, word)) Py_RETURN_FALSE;
    mesh_add(&l->lock->breaks, 1);
    Py_RETURN_TRUE;
}

/* counters() -> (acquisitions, breaks) */
static PyObject *lock_counters(lock_object *l, PyObject *unused) {
    (void)unused;
    int code = read_problem(l->mapping);
    if (code != 0) return problem(l->mapping, code);
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

/* --- heartbeats: a row a worker, each a value in two slots --------------------------------- */

typedef struct {
    PyObject_HEAD
    mapping_object *mapping;
    mesh_table table; /* without an index */
    int64_t row;      /* ours, -1 = a reader */
    uint64_t fork;
    uint64_t lease; /* of our claim; the next one shuts us out */
    mesh_heartbeat now;
} heart_object;

static PyObject *heart_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    PyObject *mapping;
    Py_ssize_t data, stride, rows;
    static char *names[] = {"mapping", "data_offset", "slot_stride", "rows", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!nnn", names, &mapping_type, &mapping, &data,
                                     &stride, &rows))
        return NULL;
    mapping_object *m = (mapping_object *)mapping;
    size_t row_stride = sizeof(mesh_row) + 2 * (size_t)stride;
    size_t end = m->readers_offset;
    if (m->closed || data < 0 || (size_t)data > end || data % 16 || (size_t)stride > end ||
        stride < (Py_ssize_t)(sizeof(mesh_slot) + sizeof(mesh_heartbeat)) || stride % 8 ||
        rows < 1 || (size_t)rows > end ||
        (size_t)rows > (m->readers_offset - (size_t)data) / row_stride)
        return PyErr_Format(PyExc_ValueError, "the rows lie outside the segment");
    heart_object *h = (heart_object *)type->tp_alloc(type, 0);
    if (h == NULL) return NULL;
    h->mapping = (mapping_object *)Py_NewRef(mapping);
    h->table = (mesh_table){control_of(m), NULL, 0, m->base + data, row_stride, (uint64_t)stride,
                            (uint64_t)rows, 0};
    h->row = -1;
    return (PyObject *)h;
}

static void heart_dealloc(heart_object *h) {
    Py_XDECREF(h->mapping);
    Py_TYPE(h)->tp_free((PyObject *)h);
}

/* One attempt at a row: its version, MESH_BUSY, or another negative one (corrupt). A row without a
 * process has no name: it may be in the middle of getting another one. */
static int64_t heart_read(const mesh_table *t, uint64_t row, mesh_heartbeat *b, char *key) {
    mesh_slots slots = mesh_row_slots(t, row);
    mesh_row *head = mesh_row_of(t, row);
    size_t bytes = 0;
    int64_t version = mesh_slots_read(&slots, b, sizeof *b, &bytes);
    if (version == MESH_NEVER_WRITTEN) memset(b, 0, sizeof *b);
    else if (version < 0) return version;
    else if (bytes != sizeof *b || b->phase > 3) return MESH_TOO_LONG;
    mesh_copy_out(key, head->key, MESH_KEY_BYTES);
    mesh_fence_acquire(); /* pairs with the full fence of the commit in heart_rename */
    if (mesh_load(&head->version) != (uint64_t)version) return MESH_BUSY;
    if (b->pid == 0) memset(key, 0, MESH_KEY_BYTES);
    return version;
}

/* rows() -> [(key, pid, phase, start_time, phase_since_ns, expect_ns, beats, progress, beat_ns, ready,
 * detail)] */
static PyObject *heart_rows(heart_object *h, PyObject *unused) {
    (void)unused;
    int code = read_problem(h->mapping);
    if (code != 0) return problem(h->mapping, code);
    PyObject *list = PyList_New(0);
    uint64_t rows = mesh_table_rows(&h->table);
    for (uint64_t row = 0; list != NULL && row < rows; row++) {
        mesh_heartbeat b;
        char key[MESH_KEY_BYTES + 1] = {0}, detail[MESH_DETAIL_BYTES + 1] = {0};
        int64_t version = MESH_BUSY;
        for (int tries = 0; version == MESH_BUSY && tries < MESH_READ_TRIES; tries++)
            version = heart_read(&h->table, row, &b, key);
        if (version < 0) {
            Py_DECREF(list);
            return problem(h->mapping, MESH_CORRUPT);
        }
        memcpy(detail, b.detail, MESH_DETAIL_BYTES);
        PyObject *item = Py_BuildValue(
            "yIIKLLKKLKy", key, b.pid, b.phase, (unsigned long long)b.start_time,
            (long long)b.phase_since_ns, (long long)b.expect_ns, (unsigned long long)b.beats,
            (unsigned long long)b.progress, (long long)b.beat_ns, (unsigned long long)b.ready,
            detail);
        if (item == NULL || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* 0 = somebody else claimed the row */
static int heart_publish(heart_object *h) {
    mesh_slots slots = mesh_row_slots(&h->table, (uint64_t)h->row);
    return mesh_slots_publish(&slots, h->lease, &h->now, sizeof h->now) != 0;
}

/* Give the row of a dead process, which is fenced, another name: first it is nobody's, and only then
 * its key changes. A reader that saw a part of the new key finds another version. */
static int heart_rename(heart_object *h, mesh_row *head, const uint8_t key[MESH_KEY_BYTES]) {
    memset(&h->now, 0, sizeof h->now);
    if (!heart_publish(h)) return 0;
    mesh_copy_in(head->key, key, MESH_KEY_BYTES);
    mesh_store(&head->key_hash, mesh_key_hash(key));
    return 1;
}

/* claim(row, key, pid, start_time): take a row (rows() long = a new one) under the directory's
 * lock, its former process being dead. False when no row is left. */
static PyObject *heart_claim(heart_object *h, PyObject *args) {
    unsigned long long row, start;
    const char *name;
    Py_ssize_t length;
    unsigned int pid;
    if (!PyArg_ParseTuple(args, "Ky#IK", &row, &name, &length, &pid, &start)) return NULL;
    int code = read_problem(h->mapping);
    if (code == 0 && !h->mapping->writable) code = MESH_NOT_WRITER;
    if (code != 0) return problem(h->mapping, code);
    uint64_t rows = mesh_table_rows(&h->table);
    if (row > rows || length < 1 || length > (Py_ssize_t)MESH_KEY_BYTES)
        return PyErr_Format(PyExc_ValueError, "row %llu of %llu, name of %zd bytes", row,
                            (unsigned long long)rows, length);
    uint8_t key[MESH_KEY_BYTES] = {0};
    memcpy(key, name, (size_t)length);
    if (row == rows && mesh_table_add(&h->table, key, 0) < 0) Py_RETURN_FALSE;
    mesh_row *head = mesh_row_of(&h->table, row);
    h->lease = mesh_load(&head->lease) + 2;
    mesh_row_fence(head, h->lease);
    int64_t now = mesh_monotonic_ns();
    h->row = (int64_t)row;
    h->fork = fork_count;
    if (!mesh_row_has_key(&h->table, row, key, mesh_key_hash(key)) && !heart_rename(h, head, key))
        return problem(h->mapping, MESH_LEASE_LOST);
    h->now = (mesh_heartbeat){pid, 1, start, now, 0, 0, 0, now, 0, {0}};
    if (!heart_publish(h)) return problem(h->mapping, MESH_LEASE_LOST);
    Py_RETURN_TRUE;
}

/* beat(phase, progress, expect_ns, ready): from the worker's own loop; one write, no system call */
static PyObject *heart_beat(heart_object *h, PyObject *const *args, Py_ssize_t n) {
    if (n != 4) return PyErr_Format(PyExc_TypeError, "beat takes 4 arguments, got %zd", n);
    unsigned long phase = PyLong_AsUnsignedLong(args[0]);
    uint64_t progress = PyLong_AsUnsignedLongLong(args[1]);
    int64_t expect = PyLong_AsLongLong(args[2]);
    int ready = PyObject_IsTrue(args[3]);
    if (PyErr_Occurred()) return NULL;
    int code = read_problem(h->mapping);
    if (code == 0 && (h->row < 0 || h->fork != fork_count)) code = MESH_LEASE_LOST;
    if (code != 0) return problem(h->mapping, code);
    int64_t now = mesh_monotonic_ns();
    if (phase != h->now.phase || expect != h->now.expect_ns) h->now.phase_since_ns = now;
    h->now.phase = (uint32_t)phase;
    h->now.expect_ns = expect;
    h->now.progress = progress;
    h->now.ready = (uint64_t)(ready != 0);
    h->now.beats++;
    h->now.beat_ns = now;
    if (!heart_publish(h)) return problem(h->mapping, MESH_LEASE_LOST);
    Py_RETURN_NONE;
}

/* describe(detail): what goes out with the next beat; at most MESH_DETAIL_BYTES are kept */
static PyObject *heart_describe(heart_object *h, PyObject *detail) {
    char *text;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(detail, &text, &length) < 0) return NULL;
    if (length > (Py_ssize_t)MESH_DETAIL_BYTES) length = MESH_DETAIL_BYTES;
    memset(h->now.detail, 0, sizeof h->now.detail);
    memcpy(h->now.detail, text, (size_t)length);
    Py_RETURN_NONE;
}

static PyMethodDef heart_methods[] = {
    {"rows", (PyCFunction)heart_rows, METH_NOARGS, NULL},
    {"claim", (PyCFunction)heart_claim, METH_VARARGS, NULL},
    {"beat", (PyCFunction)(void (*)(void))heart_beat, METH_FASTCALL, NULL},
    {"describe", (PyCFunction)heart_describe, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyTypeObject heart_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "mesh._core._native.Hearts",
    .tp_basicsize = sizeof(heart_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = heart_new,
    .tp_dealloc = (destructor)heart_dealloc,
    .tp_methods = heart_methods,
};

#endif
