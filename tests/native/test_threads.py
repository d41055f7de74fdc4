"""The core under threads: at full speed, and under the sanitizers of gcc and clang."""

from __future__ import annotations

import pytest

SOURCE = "tests/native/threads.c"
#: clang finds undefined behaviour that gcc does not, and the other way round
COMPILERS = ["gcc", "clang"]


def test_i1_no_torn_read_at_full_speed(compiled, run):
    """A writer, readers, sleepers and lock owners: nothing torn, lost, repeated or doubled."""
    ended = run(compiled(SOURCE, "-O3"), 100000)
    assert ended.returncode == 0, ended.stderr
    assert "0 failures" in ended.stdout


@pytest.mark.tsan
@pytest.mark.parametrize("cc", COMPILERS)
def test_i1_thread_sanitizer_is_silent(compiled, run, cc):
    """Everything shared is reached through atomics, and the lock orders what it protects."""
    ended = run(compiled(SOURCE, "-O1", "-fsanitize=thread", cc=cc), 8000)
    assert ended.returncode == 0, ended.stderr[:4000]
    assert "WARNING" not in ended.stderr


@pytest.mark.tsan
@pytest.mark.parametrize("cc", COMPILERS)
def test_address_and_undefined_behaviour_sanitizers_are_silent(compiled, run, cc):
    """No access outside, none unaligned, no overflow."""
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-error"]
    ended = run(compiled(SOURCE, *flags, cc=cc), 8000)
    assert ended.returncode == 0, ended.stderr[:4000]


@pytest.mark.tsan
@pytest.mark.parametrize(("seed", "what"), [(1, "write_cell"), (2, "locker")])
def test_thread_sanitizer_finds_a_seeded_race(compiled, run, seed, what):
    """A payload copied without atomics and a lock freed without a release are both reported."""
    program = compiled(SOURCE, "-O1", "-fsanitize=thread", f"-DSEED={seed}", cc="gcc")
    ended = run(program, 3000)
    assert "WARNING: ThreadSanitizer: data race" in ended.stderr
    assert what in ended.stderr
