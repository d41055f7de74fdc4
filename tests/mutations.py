"""Each invariant with the lines that protect it: removed one at a time, a named test must fail.

`python -m tests.mutations` tries all of them; `tests/stress/test_mutations.py` is the same as
tests. A mutation is applied to a copy of the project, never to the project itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE = "mesh/_core/"
POINTS = "tests/native/test_crash_points.py::"
KILLED = POINTS + "test_i2_writer_killed_at_every_instruction_costs_nothing"
FENCED = POINTS + "test_i3_writer_fenced_at_every_instruction_publishes_nothing"
THREADS = "tests/native/test_threads.py::test_i1_no_torn_read_at_full_speed"
ORDERS = "tests/models/test_memory_model.py::test_i1_aarch64_code_has_the_fences"


@dataclass(frozen=True)
class Mutation:
    """`before` becomes `after` in `file`; `test` must notice. `compiled`: the extension, too."""

    invariant: str
    what: str
    file: str
    before: str
    after: str
    test: str
    compiled: bool = False


MUTATIONS = [
    Mutation(
        "I1",
        "a reader does not look whether its slot was left alone",
        CORE + "seqlock.h",
        "return mesh_load(&slot->seq) == 2 * version;",
        "return slot != NULL && version != 0;",
        THREADS,
    ),
    Mutation(
        "I1",
        "no fence between the odd mark and the payload",
        CORE + "seqlock.h",
        "    mesh_fence_release(); /* pairs with the acquire fence in mesh_slots_valid",
        "    /* pairs with the acquire fence in mesh_slots_valid",
        ORDERS,
    ),
    Mutation(
        "I1",
        "no fence between the payload and the second look",
        CORE + "seqlock.h",
        "    mesh_fence_acquire(); /* pairs with the release fence in mesh_slots_begin",
        "    /* pairs with the release fence in mesh_slots_begin",
        ORDERS,
    ),
    Mutation(
        "I1",
        "a heartbeat and the name of its row are taken of two versions",
        CORE + "heartbeat.h",
        "    if (mesh_load(&head->version) != (uint64_t)version) return MESH_BUSY;\n",
        "",
        FENCED,
    ),
    Mutation(
        "I1",
        "a row gets another name before it is nobody's",
        CORE + "heartbeat.h",
        "        if (!mesh_heartbeat_publish(t, row, *lease, &nobody)) return MESH_HEARTBEAT_LOST;",
        "        (void)nobody;",
        KILLED,
    ),
    Mutation(
        "I2",
        "one slot instead of two",
        CORE + "seqlock.h",
        "(version % s->count) * s->stride",
        "(version & 0) * s->stride",
        KILLED,
    ),
    Mutation(
        "I2",
        "records are published before they are written",
        CORE + "ring.h",
        "    (void)mesh_ring_copy(r, tail, count, (uint8_t *)(uintptr_t)records, 1);",
        "    mesh_store(&r->control->published, next);\n"
        "    (void)mesh_ring_copy(r, tail, count, (uint8_t *)(uintptr_t)records, 1);",
        KILLED,
    ),
    Mutation(
        "I2",
        "the next writer does not index what a dead one added",
        CORE + "table.h",
        "if (mesh_table_find(t, key) < 0 && !mesh_table_insert(t, key, row)) return 0;",
        "(void)key;",
        KILLED,
    ),
    Mutation(
        "I3",
        "the lease is checked, then the version stored",
        CORE + "seqlock.h",
        "    return mesh_cas_pair(s->version, version - 1, lease, version, lease); /* the same */",
        "    if (mesh_load(s->version + 1) != lease) return 0;\n"
        "    mesh_store_release(s->version, version);\n    return 1;",
        FENCED,
    ),
    Mutation(
        "I3",
        "rows are not given to the next writer",
        CORE + "table.h",
        "        mesh_row_fence(mesh_row_of(t, row), lease);\n        if",
        "        (void)lease;\n        if",
        FENCED,
    ),
    Mutation(
        "I3",
        "the start time is not compared: a pid used again counts as its first owner",
        "mesh/process_identity.py",
        "found.start_time == self.start_time and ",
        "",
        "tests/mesh/test_process_identity.py::"
        "test_i3_same_pid_with_another_start_is_another_process",
    ),
    Mutation(
        "I3",
        "a process that /proc hides counts as dead",
        "mesh/process_identity.py",
        "            return _is_hidden(self.pid)",
        "            return False",
        "tests/mesh/test_process_identity.py::test_i3_hidden_process_is_not_taken_for_dead",
    ),
    Mutation(
        "I3",
        "a lock is broken without asking whether its owner lives",
        "mesh/spinlock.py",
        "owner.identity.is_alive() or not self._lock.break_word(word)",
        "not self._lock.break_word(word)",
        "tests/mesh/test_spinlock.py::test_i3_live_owner_is_never_broken",
    ),
    Mutation(
        "I3",
        "a lock word is freed by a store: who judged late frees the next owner's lock",
        CORE + "spinlock.h",
        "    if (!mesh_cas(&lock->word, word, next)) return 0;",
        "    mesh_store(&lock->word, next);",
        KILLED,
    ),
    Mutation(
        "I4",
        "the lease is taken without asking whether its owner lives",
        "mesh/segment_file.py",
        "if owner is not None and owner != me and owner.is_alive():",
        "if owner is None:",
        "tests/mesh/test_cell.py::test_i4_second_live_writer_is_refused",
    ),
    Mutation(
        "I4",
        "a fork passes for its parent",
        CORE + "py_mapping.h",
        " || m->lease_fork != py_fork_count)",
        ")",
        "tests/mesh/test_cell.py::test_i4_second_live_writer_is_refused",
        compiled=True,
    ),
    Mutation(
        "I4",
        "heartbeat rows are given away while their worker lives",
        "mesh/heartbeats.py",
        "rows[at].identity != me and rows[at].identity.is_alive()",
        "rows[at].identity == me",
        "tests/mesh/test_heartbeats.py::test_i4_row_of_a_live_worker_is_refused",
    ),
    Mutation(
        "I5",
        "the state comes into force apart from its records",
        CORE + "ring.h",
        "lease ^ turn);",
        "lease ^ (turn & 0));",
        "tests/mesh/test_ring.py::test_i5_state_and_records_agree_after_kill",
        compiled=True,
    ),
    Mutation(
        "I5",
        "intent is not raised before records are overwritten",
        CORE + "ring.h",
        "    if (next > mesh_load(&r->control->intent)) mesh_store(&r->control->intent, next);",
        "    if (next > tail + r->capacity) mesh_store(&r->control->intent, next);",
        THREADS,
    ),
    Mutation(
        "I5",
        "one lost record is not counted",
        CORE + "py_ring.h",
        "    self->lost += lost;",
        "    self->lost += lost - 1;",
        "tests/mesh/test_ring.py::test_i5_sequences_and_slots_wrap_where_they_should",
        compiled=True,
    ),
    Mutation(
        "I6",
        "readers map for writing",
        CORE + "py_mapping.h",
        "    int protection = PROT_READ | (writable ? PROT_WRITE : 0);",
        "    int protection = PROT_READ | PROT_WRITE;",
        "tests/mesh/test_segment.py::test_i6_reader_that_writes_dies_and_harms_nobody",
        compiled=True,
    ),
    Mutation(
        "I7",
        "the boot is not compared",
        "mesh/segment_file.py",
        "if i.boot_id != boot_id():",
        "if not i.boot_id:",
        "tests/mesh/test_directory.py::test_i7_stale_mesh_of_another_boot_is_swept",
    ),
    Mutation(
        "I7",
        "the head's check is not compared",
        "mesh/header.py",
        "        if check != found:",
        "        if check is None:",
        "tests/mesh/test_segment_file.py::test_i7_every_flipped_byte_of_the_head_is_noticed",
    ),
    Mutation(
        "I7",
        "a writer that comes back makes its segment anew",
        "mesh/directory.py",
        "            if path.exists() and not exclusive:\n                return",
        "            if path.exists() and not exclusive:\n                path.unlink()",
        "tests/mesh/test_segment.py::test_i7_process_started_again_finds_its_state",
    ),
]


@contextmanager
def copied():
    """A copy of the project to break, with what was built of it."""
    with tempfile.TemporaryDirectory(prefix="mesh-mutant-") as directory:
        copy = Path(directory) / "project"
        skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".hypothesis", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=skipped)
        yield copy


def passes(copy: Path, test: str) -> bool:
    """Whether a test passes in the copy; one that is skipped or does not compile says nothing."""
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
            "--timeout=120",
            test,
        ],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    does_not_compile = re.search(r"\.[ch]:\d+:\d+: error", ended.stdout)
    if ended.returncode not in {0, 1} or "skipped" in ended.stdout or does_not_compile:
        raise RuntimeError(f"{test} says nothing:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.returncode == 0


def build(copy: Path) -> None:
    """Compile the mesh's extension of the copy in place."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)


def survives(copy: Path, mutation: Mutation) -> bool:
    """Apply a mutation, run its test, take it back: whether the test still passed."""
    path = copy / mutation.file
    whole = path.read_text()
    if whole.count(mutation.before) != 1:
        raise RuntimeError(f"{mutation.file} has {mutation.before!r} not once: mend the mutation")
    path.write_text(whole.replace(mutation.before, mutation.after))
    try:
        if mutation.compiled:
            build(copy)
        return passes(copy, mutation.test)
    finally:
        path.write_text(whole)
        if mutation.compiled:
            build(copy)


def main() -> int:
    """Try all; print a line each."""
    surviving = 0
    with copied() as copy:
        for mutation in MUTATIONS:
            lives = survives(copy, mutation)
            surviving += lives
            verdict = "SURVIVES" if lives else "caught"
            line = f"{mutation.invariant} {verdict}: {mutation.what} ({mutation.test})"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return 1 if surviving else 0


if __name__ == "__main__":
    sys.exit(main())
