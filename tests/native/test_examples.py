"""The C examples of the documentation, compiled with layout.h alone and run against Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mesh import LeaseHeld, Mesh, ProcessIdentity

ROOT = Path(__file__).parent.parent.parent
RECORD = np.dtype([("n", "<i8"), ("x", "<f8", (2,))])


@pytest.fixture
def mesh(mesh_directory):
    """A fresh mesh."""
    return Mesh(mesh_directory)


@pytest.fixture(scope="session")
def layout_alone(tmp_path_factory):
    """A directory with layout.h and nothing else: what another project would copy."""
    directory = tmp_path_factory.mktemp("layout")
    shutil.copy(ROOT / "mesh/_core/layout.h", directory)
    return directory


def records(first, count):
    """Records numbered from `first`."""
    array = np.zeros(count, RECORD)
    array["n"] = np.arange(first, first + count)
    array["x"] = array["n"][:, None] / 3
    return array


def test_c_program_follows_a_ring_of_python(mesh, compiled, run, layout_alone):
    """Every record that Python published is read by the C program, byte for byte."""
    ring = mesh.ring("ticks", RECORD, capacity=16, create=True)
    written = records(0, 40)
    for at in range(0, 40, 8):
        ring.publish(written[at : at + 8])
    program = compiled("docs/examples/ring_reader.c", headers=layout_alone)
    ended = run(program, mesh.path / "ticks")
    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert [int(sequence) for sequence, _ in lines] == list(range(24, 40))
    assert b"".join(bytes.fromhex(text) for _, text in lines) == written[24:].tobytes()
    assert '"n"' in ended.stderr


def test_i4_c_program_takes_turns_with_python(mesh, compiled, run, layout_alone):
    """Refused while Python writes, then the writer; Python reads it and takes over again."""
    cell = mesh.cell("risk", RECORD, create=True)
    cell.write(records(1, 1))
    program = compiled("docs/examples/cell_writer.c", headers=layout_alone)
    text = "\n".join(records(n, 1).tobytes().hex() for n in (2, 3)) + "\n"
    refused = run(program, mesh.path / "risk", input=text)
    assert refused.returncode == 75
    assert f"pid {os.getpid()} is its writer" in refused.stderr
    cell.close()
    ended = run(program, mesh.path / "risk", input=text)
    assert (ended.returncode, ended.stdout) == (0, "2\n3\n"), ended.stderr
    reader = mesh.cell("risk", RECORD)
    assert reader.read() == (3, records(3, 1)[0])
    assert not reader.info.owner.is_alive()
    assert mesh.cell("risk", RECORD, create=True).write(records(4, 1)) == 4
    assert reader.info.owner == ProcessIdentity.current()


def test_c_programs_refuse_what_is_no_segment(tmp_path, compiled, run, layout_alone):
    """A foreign file, a short one and a missing one end with the usage and exit code 64."""
    program = compiled("docs/examples/ring_reader.c", headers=layout_alone)
    (tmp_path / "foreign").write_bytes(b"x" * 10000)
    (tmp_path / "short").write_bytes(b"x")
    for name in ("foreign", "short", "missing"):
        ended = run(program, tmp_path / name)
        assert ended.returncode == 64
        assert "usage" in ended.stderr


def test_live_c_writer_is_refused_to_python(mesh, compiled, layout_alone):
    """While the C program lives, Python gets LeaseHeld with its pid."""
    mesh.cell("risk", RECORD, create=True).close()
    program = compiled("docs/examples/cell_writer.c", headers=layout_alone)
    with writing(program, mesh.path / "risk") as process:
        process.stdin.write(records(1, 1).tobytes().hex() + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "1\n"
        with pytest.raises(LeaseHeld, match=f"pid {process.pid} "):
            mesh.cell("risk", RECORD, create=True)
        process.kill()
        process.wait()
    assert mesh.cell("risk", RECORD, create=True).write(records(2, 1)) == 2


def writing(program, path):
    """The C writer as a child whose standard input is ours."""
    return subprocess.Popen(
        [program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
