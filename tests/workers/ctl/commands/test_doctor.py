"""`meshctl doctor`: it finds what is planted, and nothing where all is well."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

from tests.daemons import ROOT
from workers.ctl.commands import doctor


def verdicts(findings):
    """(check, verdict) of each."""
    return [(finding.check, finding.verdict) for finding in findings]


def test_a_sound_mesh_has_nothing_bad(meshctl):
    """Every check gives at least one finding as JSON; none of ours is bad here."""
    code, out, _ = meshctl("doctor", "--format", "json")
    found = json.loads(out)
    named = {each["check"] for each in found if each["verdict"] != "bad"}
    assert {"supervisor", "tmpfs", "permissions", "limits", "clock", "processors"} <= named
    assert code == (1 if any(each["verdict"] == "bad" for each in found) else 0)
    assert all(each["remedy"] for each in found if each["verdict"] in {"warn", "bad"})


def test_a_mesh_open_to_everybody_is_bad(loop):
    """Mode 0707 is reported with the chmod that mends it."""
    loop.mesh.path.chmod(0o707)
    (finding,) = doctor.permissions(loop.mesh)
    assert (finding.verdict, "chmod 0750" in finding.remedy) == ("bad", True)


def test_a_mesh_on_a_disk_is_bad(tmp_path):
    """A directory that is not on a tmpfs is reported."""
    from mesh import Mesh  # noqa: PLC0415 - for this test alone

    kind, _ = doctor._mounted(tmp_path)
    if kind == "tmpfs":
        pytest.skip("the temporary directory of this host is a tmpfs")
    assert ("tmpfs", "bad") in verdicts(doctor.tmpfs(Mesh(tmp_path)))


def test_what_the_dead_left_is_found(loop):
    """An unfinished file of a dead process is a leftover; one of a live process is not."""
    (loop.mesh.path / f".new-{2**22 + 7}-1-x").touch()
    (loop.mesh.path / f".new-{os.getpid()}-1-x").touch()
    (finding,) = doctor.leftovers(loop.mesh)
    assert finding.found.startswith("1 unfinished")


def test_what_is_no_segment_is_found(loop):
    """Files, links to nothing and a damaged segment are named, whatever bytes their names hold."""
    (loop.mesh.path / "gone").symlink_to(loop.mesh.path / "nothing")
    with open(os.fsencode(loop.mesh.path) + b"/esc\x1b[31m\xff", "wb"):  # noqa: PTH123 - bytes
        pass
    assert ("permissions", "good") in verdicts(doctor.permissions(loop.mesh))
    (finding,) = doctor.leftovers(loop.mesh)
    assert "'esc\\x1b[31m\\udcff', gone" in finding.found


def test_another_supervisor_module_is_bad(tmp_path, loop):
    """With a package of that name in front of ours, the daemon would be somebody else's."""
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "__init__.py").touch()
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from workers.ctl.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "--mesh", str(loop.mesh.path), "doctor"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "pip uninstall supervisor" in ended.stdout


def test_few_open_files_are_bad(loop):
    """A low limit is reported with the command that raises it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        found = next(iter(doctor.limits(loop.mesh)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (found.verdict, "ulimit -n" in found.remedy) == ("bad", True)


def test_no_mesh_at_all(meshctl, tmp_path):
    """Without a mesh and a daemon every check still answers."""
    code, out, err = meshctl("doctor", "--mesh", str(tmp_path / "none" / "mesh"))
    assert (code, err) == (1, "")
    assert "start it" in out
