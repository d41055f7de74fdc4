"""`meshctl completion`: the scripts, run by the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.daemons import ROOT
from workers.ctl.cli import COMMANDS


def completed(script, line, loop, tmp_path):
    """What bash offers at the end of `line`."""
    command = tmp_path / "meshctl"
    command.write_text(f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m workers.ctl.cli "$@"\n')
    command.chmod(0o755)
    words = line.split(" ")
    program = (
        f"{script}\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\n"
        f'COMP_CWORD={len(words) - 1}\n_meshctl\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "MESH__MESH__PATH": str(loop.mesh.path),
    }
    ended = subprocess.run(
        ["bash", "-c", program], env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stderr == ""
    return set(ended.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_offers_what_there_is(loop, meshctl, tmp_path):
    """Commands, options, choices, and the names that this mesh holds."""
    script = meshctl("completion", "bash")[1]

    def offered(line):
        return completed(script, line, loop, tmp_path)

    assert offered("meshctl ") >= {c.name for c in COMMANDS if c.help}
    assert offered("meshctl sta") == {"start", "status"}
    assert offered("meshctl restart ") >= {"ingest", "td3-0", "--wait"}
    assert offered("meshctl show policy") == {"policy/td3-0"}
    assert offered("meshctl tail --no") == {"--no-follow"}
    assert offered(f"meshctl --mesh {loop.mesh.path} tail ti") == {"ticks"}
    assert offered("meshctl status --format ") == {"json", "table"}
    assert offered("meshctl completion f") == {"fish"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_valid_and_know_every_command(meshctl, tmp_path, shell):
    """Each script names every command; the shell's own parser takes it."""
    code, script, _ = meshctl("completion", shell)
    assert code == 0
    assert all(command.name in script for command in COMMANDS if command.help)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was not parsed by it")
    path = tmp_path / "script"
    path.write_text(script)
    subprocess.run([shell, "-n", path], check=True, timeout=60)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_what_there_is(loop, meshctl, tmp_path):
    """Names of the mesh with what they are; no files where a choice is meant."""
    command = tmp_path / "meshctl"
    command.write_text(f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m workers.ctl.cli "$@"\n')
    command.chmod(0o755)
    script = tmp_path / "meshctl.fish"
    script.write_text(meshctl("completion", "fish")[1])
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "MESH__MESH__PATH": str(loop.mesh.path),
    }

    def offered(line):
        program = f"source {script}; complete -C '{line}'"
        ended = subprocess.run(
            ["fish", "-c", program],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return {each.split("\t")[0] for each in ended.stdout.splitlines()}

    assert offered("meshctl restart i") == {"ingest"}
    assert offered("meshctl status --format ") == {"json", "table"}
