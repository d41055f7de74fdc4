/* A mapped segment file, shared by everything that works on it.
 *
 * Errors are raised by the segment's Python side (`on_error(code)`), which knows its name, path
 * and schema and so can say what happened, where, and what to do. */
#ifndef MESH_PY_MAPPING_H
#define MESH_PY_MAPPING_H

#include <pthread.h>
#include <sys/mman.h>

#include "futex.h"
#include "layout.h"
#include "lease.h"

#define MESH_GIL_BYTES 65536u /* larger copies let other threads run */
#define MESH_READ_TRIES 1000000
/* A waiting reader polls for this long before it sleeps. Sleeping and waking cost about as much, so
 * the wait costs at most twice what the better choice would have cost. */
#define MESH_SPIN_NS 20000
#define MESH_SPIN_POLLS 32
#define MESH_SLICE_NS 10000000
#define MESH_FILE_CHECK_NS 1000000000 /* how often a sleeping reader checks that its file exists */

enum mesh_problem {
    MESH_NOT_WRITTEN = 1,
    MESH_LEASE_LOST = 2,
    MESH_CORRUPT = 3,
    MESH_RETIRED = 4,
    MESH_CLOSED = 5,
    MESH_FULL = 6,
    MESH_NOT_WRITER = 7,
    MESH_CHECKSUM = 8,
    MESH_UNDECODABLE = 9,
};

static uint64_t py_fork_count; /* how often this process is a fork away from the import */
static void py_count_fork(void) { py_fork_count++; }

typedef struct {
    PyObject_HEAD
    uint8_t *base;
    mesh_readers *readers;
    size_t total_size;
    size_t readers_offset;
    int writable;         /* data mapped for writing */
    int readers_writable; /* the readers' page is */
    int closed;
    int users;            /* threads inside without the GIL */
    int writing;          /* one of them is publishing */
    int exports;          /* buffers handed out */
    uint64_t lease_epoch; /* 0 = not the writer */
    uint64_t lease_fork;
    PyObject *on_error;
    PyObject *on_file_check; /* raises when the segment's path names another file or none */
} mapping_object;

static PyTypeObject mapping_type;

static inline mesh_control *mapping_control(const mapping_object *m) {
    return (mesh_control *)(void *)(m->base + MESH_CONTROL_OFFSET);
}

static PyObject *mapping_raise(mapping_object *m, int code) {
    PyObject *result = PyObject_CallFunction(m->on_error, "i", code);
    if (result != NULL) {
        Py_DECREF(result);
        PyErr_Format(PyExc_SystemError, "mesh problem %d was not raised", code);
    }
    return NULL;
}

static inline int mapping_read_problem(const mapping_object *m) {
    if (m->closed) return MESH_CLOSED;
    return mesh_load(&mapping_control(m)->retired) != 0 ? MESH_RETIRED : 0;
}

/* 0 if this process may publish: asked before anything is written; the commit asks once more. */
static inline int mapping_write_problem(const mapping_object *m) {
    if (m->closed) return MESH_CLOSED;
    if (m->lease_epoch == 0) return MESH_NOT_WRITER;
    if (mesh_epoch(mapping_control(m)) != m->lease_epoch || m->lease_fork != py_fork_count)
        return MESH_LEASE_LOST;
    return mesh_load(&mapping_control(m)->retired) != 0 ? MESH_RETIRED : 0;
}

static inline void mapping_wake_waiting(mapping_object *m) {
    mesh_wake_waiting(&m->readers->waiting, &mapping_control(m)->published);
}

/* The problem code of a refused commit: another writer took the lease during the write. */
static inline int mapping_refusal(const mapping_object *m) {
    int code = mapping_write_problem(m);
    return code != 0 ? code : MESH_LEASE_LOST;
}

/* May this process publish (0, else the problem)? The GIL is let go for `bytes` that take a while.
 * One thread at a time publishes to a segment: the others wait here, without the GIL, for it is
 * the publishing one that needs it next. */
static int mapping_begin_writing(mapping_object *m, size_t bytes, PyThreadState **state) {
    *state = NULL;
    while (m->writing) {
        m->users++;
        Py_BEGIN_ALLOW_THREADS struct timespec moment = {0, 20000};
        nanosleep(&moment, NULL);
        Py_END_ALLOW_THREADS m->users--;
    }
    int code = mapping_write_problem(m);
    if (code != 0 || bytes <= MESH_GIL_BYTES) return code;
    m->writing = 1;
    m->users++;
    *state = PyEval_SaveThread();
    return 0;
}

static void mapping_end_writing(mapping_object *m, PyThreadState *state) {
    if (state == NULL) return;
    PyEval_RestoreThread(state);
    m->users--;
    m->writing = 0;
}

/* The same for a copy out of the segment. */
static PyThreadState *mapping_begin_reading(mapping_object *m, size_t bytes) {
    m->users++;
    return bytes > MESH_GIL_BYTES ? PyEval_SaveThread() : NULL;
}

static void mapping_end_reading(mapping_object *m, PyThreadState *state) {
    if (state != NULL) PyEval_RestoreThread(state);
    m->users--;
}

static inline void count_reader(mapping_object *m, uint64_t *counter, uint64_t n) {
    if (m->readers_writable) mesh_add(counter, n);
}

static void unmap(mapping_object *m) {
    if (m->base != NULL) munmap(m->base, m->total_size);
    m->base = NULL;
}

static PyObject *mapping_new(PyTypeObject *type, PyObject *args, PyObject *kw) {
    int fd, writable, readers_writable, prefault = 1;
    Py_ssize_t total, readers;
    PyObject *on_error, *on_file_check;
    static char *names[] = {
        "fd",       "total_size",    "readers_offset", "writable", "readers_writable",
        "on_error", "on_file_check", "prefault",       NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "innppOO|p", names, &fd, &total, &readers, &writable,
                                     &readers_writable, &on_error, &on_file_check, &prefault))
        return NULL;
    if (readers < (Py_ssize_t)MESH_PAGE || readers % MESH_PAGE || total != readers + MESH_PAGE)
        return PyErr_Format(PyExc_ValueError, "bad sizes: total %zd, readers at %zd", total,
                            readers);
    mapping_object *m = (mapping_object *)type->tp_alloc(type, 0);
    if (m == NULL) return NULL;
    /* MAP_POPULATE: the first access must not cost a page fault each 4 KiB; who wants no more than
     * the head of a large segment goes without */
    int flags = MAP_SHARED | (prefault ? MAP_POPULATE : 0);
    int protection = PROT_READ | (writable ? PROT_WRITE : 0);
    uint8_t *base = mmap(NULL, (size_t)total, protection, flags, fd, 0);
    if (base != MAP_FAILED && readers_writable != writable) {
        protection = PROT_READ | (readers_writable ? PROT_WRITE : 0);
        if (mmap(base + readers, MESH_PAGE, protection, flags | MAP_FIXED, fd, readers) ==
            MAP_FAILED) {
            munmap(base, (size_t)total);
            base = MAP_FAILED;
        }
    }
    if (base == MAP_FAILED) {
        Py_DECREF(m);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    m->base = base;
    m->readers = (mesh_readers *)(void *)(base + readers);
    m->total_size = (size_t)total;
    m->readers_offset = (size_t)readers;
    m->writable = writable;
    m->readers_writable = readers_writable;
    m->on_error = Py_NewRef(on_error);
    m->on_file_check = Py_NewRef(on_file_check);
    return (PyObject *)m;
}

static int mapping_traverse(mapping_object *m, visitproc visit, void *arg) {
    Py_VISIT(m->on_error);
    Py_VISIT(m->on_file_check);
    return 0;
}

static int mapping_clear(mapping_object *m) {
    Py_CLEAR(m->on_error);
    Py_CLEAR(m->on_file_check);
    return 0;
}

static void mapping_dealloc(mapping_object *m) {
    PyObject_GC_UnTrack(m);
    unmap(m);
    mapping_clear(m);
    Py_TYPE(m)->tp_free((PyObject *)m);
}

static int mapping_buffer(mapping_object *m, Py_buffer *view, int flags) {
    if (m->closed) {
        PyErr_SetString(PyExc_BufferError, "the segment is closed");
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)m, m->base, (Py_ssize_t)m->total_size, !m->writable,
                          flags) < 0)
        return -1;
    m->exports++;
    return 0;
}

static void mapping_release_buffer(mapping_object *m, Py_buffer *view) {
    (void)view;
    m->exports--;
    if (m->closed && m->exports == 0 && m->users == 0) unmap(m);
}

static PyObject *mapping_close(mapping_object *m, PyObject *unused) {
    (void)unused;
    m->closed = 1;
    m->lease_epoch = 0;
    if (m->exports == 0 && m->users == 0) unmap(m);
    Py_RETURN_NONE;
}

/* lease_take(pid, start_time): become the owner; the caller holds the directory's lock. */
static PyObject *mapping_lease_take(mapping_object *m, PyObject *args) {
    unsigned int pid;
    unsigned long long start_time;
    if (!PyArg_ParseTuple(args, "IK", &pid, &start_time)) return NULL;
    if (m->closed || !m->writable)
        return mapping_raise(m, m->closed ? MESH_CLOSED : MESH_NOT_WRITER);
    m->lease_epoch = mesh_lease_set(mapping_control(m), pid, start_time, mesh_monotonic_ns());
    m->lease_fork = py_fork_count;
    Py_RETURN_NONE;
}

/* lease_drop(): nobody is the owner. Also what breaks a dead owner's lease (`broken`). */
static PyObject *mapping_lease_drop(mapping_object *m, PyObject *args) {
    int broken;
    if (!PyArg_ParseTuple(args, "p", &broken)) return NULL;
    if (m->closed || !m->writable)
        return mapping_raise(m, m->closed ? MESH_CLOSED : MESH_NOT_WRITER);
    (void)mesh_lease_set(mapping_control(m), 0, 0, mesh_monotonic_ns());
    if (broken) mesh_add(&mapping_control(m)->breaks, 1);
    m->lease_epoch = 0;
    Py_RETURN_NONE;
}

static PyObject *mapping_lease(mapping_object *m, PyObject *unused) {
    (void)unused;
    if (m->closed) return mapping_raise(m, MESH_CLOSED);
    mesh_owner owner;
    uint64_t epoch = mesh_lease_get(mapping_control(m), &owner);
    return Py_BuildValue("KIKL", (unsigned long long)epoch, owner.pid,
                         (unsigned long long)owner.start_time, (long long)owner.since_ns);
}

/* retire(): tell everybody attached that this is not the segment any more. */
static PyObject *mapping_retire(mapping_object *m, PyObject *unused) {
    (void)unused;
    if (m->closed || !m->writable)
        return mapping_raise(m, m->closed ? MESH_CLOSED : MESH_NOT_WRITER);
    mesh_store_release(&mapping_control(m)->retired, 1);
    mesh_futex_wake_all((const uint32_t *)(const void *)&mapping_control(m)->published);
    Py_RETURN_NONE;
}

/* What counters() returns: a tuple with these names, made with the module. */
static PyTypeObject *counters_type;
static PyStructSequence_Field counters_fields[] = {
    {"published", NULL}, {"intent", NULL}, {"rows", NULL}, {"retired", NULL}, {"breaks", NULL},
    {"retries", NULL},   {"laps", NULL},   {"lost", NULL}, {NULL, NULL},
};
static PyStructSequence_Desc counters_description = {
    "mesh._core._native.Counters", "Counters of a segment since its creation.", counters_fields,
    sizeof counters_fields / sizeof *counters_fields - 1};

/* counters() -> Counters */
static PyObject *mapping_counters(mapping_object *m, PyObject *unused) {
    (void)unused;
    if (m->closed) return mapping_raise(m, MESH_CLOSED);
    const mesh_control *c = mapping_control(m);
    uint64_t values[] = {mesh_load_acquire(&c->published),
                         mesh_load(&c->intent),
                         mesh_load(&c->rows),
                         mesh_load(&c->retired),
                         mesh_load(&c->breaks),
                         mesh_load(&m->readers->retries),
                         mesh_load(&m->readers->laps),
                         mesh_load(&m->readers->lost)};
    PyObject *found = PyStructSequence_New(counters_type);
    for (Py_ssize_t i = 0; found != NULL && i < counters_description.n_in_sequence; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i]);
        if (value == NULL)
            Py_CLEAR(found);
        else
            PyStructSequence_SetItem(found, i, value);
    }
    return found;
}

/* Poll the word until it is above `above` or the clock passes `until`. The clock is read between
 * bursts of polls, because reading it takes longer than a poll. */
static int64_t py_spin_until_above(const uint64_t *word, uint64_t above, int64_t until) {
    for (;;) {
        for (int polls = 0; polls < MESH_SPIN_POLLS; polls++) {
            if (mesh_load_acquire(word) > above) return 0;
            mesh_relax();
        }
        int64_t now = mesh_monotonic_ns();
        if (now >= until) return now;
    }
}

/* One sleep on the published word; the slices bound what a writer killed before its wake costs. */
static void mapping_sleep_slice(mapping_object *m, uint64_t above, int64_t left_ns) {
    const uint64_t *word = &mapping_control(m)->published;
    int64_t slice = m->readers_writable ? 250000000 : 1000000; /* cannot announce: poll often */
    if (m->readers_writable) mesh_announce_wait(&m->readers->waiting);
    uint64_t now = mesh_load_acquire(word);
    if (now > above || mesh_load(&mapping_control(m)->retired) != 0) return;
    (void)mesh_futex_wait((const uint32_t *)(const void *)word, (uint32_t)now,
                          left_ns < slice ? left_ns : slice);
}

typedef struct {
    int64_t timeout_ns, spin_ns;
} py_wait_limits;

static int64_t py_saturated_ns(double seconds) {
    return seconds > 9e9 ? INT64_MAX / 2 : (int64_t)(seconds * 1e9);
}

/* timeout and spin (NULL = MESH_SPIN_NS) in seconds, >= 0; -1 with the error raised. */
static int py_wait_limits_set(py_wait_limits *w, PyObject *timeout, PyObject *spin) {
    double seconds = PyFloat_AsDouble(timeout);
    double spinning = spin == NULL ? 0.0 : PyFloat_AsDouble(spin);
    if (PyErr_Occurred()) return -1;
    if (!(seconds >= 0) || !(spinning >= 0)) {
        PyErr_Format(PyExc_ValueError, "%s must be >= 0 seconds, got %R",
                     seconds >= 0 ? "spin" : "timeout", seconds >= 0 ? spin : timeout);
        return -1;
    }
    w->timeout_ns = py_saturated_ns(seconds);
    w->spin_ns = spin == NULL ? MESH_SPIN_NS : py_saturated_ns(spinning);
    return 0;
}

/* One turn without the GIL: poll or sleep for one slice. */
static void mapping_wait_slice(mapping_object *m, uint64_t above, int64_t spin_until,
                               int64_t deadline) {
    const uint64_t *word = &mapping_control(m)->published;
    m->users++;
    Py_BEGIN_ALLOW_THREADS int64_t now = mesh_monotonic_ns();
    int64_t slice = now + MESH_SLICE_NS; /* signals and the file are checked between slices */
    if (now < spin_until)
        (void)py_spin_until_above(word, above, spin_until < slice ? spin_until : slice);
    else if (now < deadline)
        mapping_sleep_slice(m, above, deadline - now);
    Py_END_ALLOW_THREADS m->users--;
}

/* Run Python's part of a wait: signal handlers and, where asked, the check that the file was not
 * removed by other means than retire(). The mapping stays mapped if a handler calls close(). */
static int mapping_run_python(mapping_object *m, int check_file) {
    m->users++;
    int code = PyErr_CheckSignals();
    if (code == 0 && check_file) {
        PyObject *checked = PyObject_CallNoArgs(m->on_file_check);
        code = checked == NULL ? -1 : 0;
        Py_XDECREF(checked);
    }
    m->users--;
    return code;
}

/* Wait until published > above: 1, 0 at the end of the time, -1 with the problem raised. The first
 * MESH_SPIN_NS are spun with the GIL held: taking it back would cost as much as the way of the value
 * from the writer. Then comes what was asked for beyond it, and then sleep. */
static int mapping_wait_above(mapping_object *m, uint64_t above, py_wait_limits w) {
    const uint64_t *word = &mapping_control(m)->published;
    int code = mapping_read_problem(m);
    if (code == 0 && mesh_load_acquire(word) > above) return 1;
    if (code == 0 && w.timeout_ns == 0) return 0;
    int64_t start = mesh_monotonic_ns(), check_at = start + MESH_FILE_CHECK_NS, now = start;
    int64_t deadline = start + w.timeout_ns;
    int64_t spin_until = start + (w.spin_ns < w.timeout_ns ? w.spin_ns : w.timeout_ns);
    int64_t held = spin_until < start + MESH_SPIN_NS ? spin_until : start + MESH_SPIN_NS;
    if (code == 0 && held > start) now = py_spin_until_above(word, above, held);
    for (; code == 0; code = mapping_read_problem(m)) {
        if (mesh_load_acquire(word) > above) return 1;
        if (now >= check_at || now >= deadline) {
            if (mapping_run_python(m, 1) < 0) return -1;
            if (now >= deadline) return 0;
            check_at = now + MESH_FILE_CHECK_NS;
        }
        mapping_wait_slice(m, above, spin_until, deadline);
        if (mesh_load_acquire(word) > above) continue;
        if (mapping_run_python(m, 0) < 0) return -1;
        now = mesh_monotonic_ns();
    }
    mapping_raise(m, code);
    return -1;
}

/* wait(above, timeout, spin) -> bool: until published > above. */
static PyObject *mapping_wait(mapping_object *m, PyObject *const *args, Py_ssize_t n) {
    if (n != 3) return PyErr_Format(PyExc_TypeError, "wait takes 3 arguments, got %zd", n);
    uint64_t above = PyLong_AsUnsignedLongLong(args[0]);
    py_wait_limits w;
    if (PyErr_Occurred() || py_wait_limits_set(&w, args[1], args[2]) < 0) return NULL;
    int newer = mapping_wait_above(m, above, w);
    return newer < 0 ? NULL : PyBool_FromLong(newer);
}

static PyObject *mapping_published(mapping_object *m, void *unused) {
    (void)unused;
    int code = mapping_read_problem(m);
    if (code != 0) return mapping_raise(m, code);
    return PyLong_FromUnsignedLongLong(mesh_load_acquire(&mapping_control(m)->published));
}

static PyObject *mapping_is_writer(mapping_object *m, void *unused) {
    (void)unused;
    return PyBool_FromLong(mapping_write_problem(m) == 0);
}

static PyMethodDef mapping_methods[] = {
    {"close", (PyCFunction)mapping_close, METH_NOARGS, NULL},
    {"lease_take", (PyCFunction)mapping_lease_take, METH_VARARGS, NULL},
    {"lease_drop", (PyCFunction)mapping_lease_drop, METH_VARARGS, NULL},
    {"lease", (PyCFunction)mapping_lease, METH_NOARGS, NULL},
    {"retire", (PyCFunction)mapping_retire, METH_NOARGS, NULL},
    {"counters", (PyCFunction)mapping_counters, METH_NOARGS, NULL},
    {"wait", (PyCFunction)(void (*)(void))mapping_wait, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef mapping_getset[] = {
    {"published", (getter)mapping_published, NULL, NULL, NULL},
    {"is_writer", (getter)mapping_is_writer, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyBufferProcs mapping_buffer_procs = {(getbufferproc)mapping_buffer,
                                             (releasebufferproc)mapping_release_buffer};
static PyTypeObject mapping_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "mesh._core._native.Mapping",
    .tp_basicsize = sizeof(mapping_object),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = mapping_new,
    .tp_dealloc = (destructor)mapping_dealloc,
    .tp_traverse = (traverseproc)mapping_traverse,
    .tp_clear = (inquiry)mapping_clear,
    .tp_methods = mapping_methods,
    .tp_getset = mapping_getset,
    .tp_as_buffer = &mapping_buffer_procs,
};

#endif
