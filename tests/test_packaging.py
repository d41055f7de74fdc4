"""What a user installs: the right modules, scripts and files, and clear words when it cannot be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import supervisor

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTENSIONS = ["mesh/_core/_native", "workers/ingest/_plan", "workers/trading_env/_kernel"]


def run(*command, **kwargs):
    """Run `command` in the project and return the finished process with its output as text."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **kwargs)


def loaded_by(statement):
    """Top-level names that a fresh interpreter has imported after `statement`."""
    code = f"{statement}; import sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    finished = run(sys.executable, "-c", code)
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.split())


def test_supervisor_is_ours():
    """The package of that name on PyPI (supervisord) does not shadow the daemon."""
    assert Path(supervisor.__file__).resolve() == ROOT / "supervisor.py"


def test_command_line_tool_loads_nothing_heavy():
    """meshctl answers at once: no torch, no pydantic, no Kafka on its path."""
    assert not loaded_by("import mesh.ctl.cli") & {
        "config",
        "pydantic",
        "torch",
        "mlflow",
        "stable_baselines3",
        "confluent_kafka",
        "gymnasium",
        "scipy",
    }


def test_daemon_loads_no_learner_and_no_kafka():
    """A Kafka client or a thread pool made before a fork is dead or deadly in the child."""
    assert not loaded_by("import supervisor") & {
        "torch",
        "mlflow",
        "stable_baselines3",
        "confluent_kafka",
        "gymnasium",
        "scipy",
    }


@pytest.mark.parametrize("script", ["meshd", "meshctl"])
def test_console_script_resolves(script):
    """Each command names a function that is there."""
    target = PROJECT["project"]["scripts"][script]
    entry = metadata.EntryPoint(script, target, "console_scripts")
    assert callable(entry.load())


def test_torch_is_pinned():
    """Learner state is bit-exact only for one version."""
    assert "torch==2.13.0" in PROJECT["project"]["dependencies"]


def test_wheel_holds_everything_that_runs(tmp_path):
    """Modules, compiled cores, headers for other languages, profiles; no tests."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "build", "__pycache__", "*.so", "*.egg-info", "results")
    shutil.copytree(ROOT, source, ignore=ignore)
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for extension in EXTENSIONS:
        assert any(name.startswith(extension) and name.endswith(".so") for name in names)
    for needed in ["supervisor.py", "mesh/_core/layout.h", "config/demo.toml", "mesh/py.typed"]:
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]
    for path in [*(ROOT / "workers").rglob("*.py"), *(ROOT / "mesh").rglob("*.py")]:
        assert path.relative_to(ROOT).as_posix() in names


def test_missing_compiler_is_named_with_its_package():
    """No traceback of a build tool, but what to install."""
    finished = run(
        sys.executable, "setup.py", "--version", env={**os.environ, "CC": "no-such-cc", "PATH": ""}
    )
    assert finished.returncode != 0
    assert "no C compiler" in finished.stderr
    assert "apt-get install" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_preflight_names_everything_that_is_missing_at_once(tmp_path):
    """An empty host is told in one go which Debian packages to install."""
    shell = shutil.which("sh")
    finished = run(shell, ".ci/preflight", "python3", env={"PATH": str(tmp_path), "HOME": ""})
    assert finished.returncode == 1
    line = finished.stderr.splitlines()[-1]
    for package in ["python3-venv", "python3-dev", "gcc", "libc6-dev", "make"]:
        assert package in line


def test_preflight_names_a_missing_venv_module(tmp_path):
    """Debian splits venv from Python: the package that brings it is named."""
    python = tmp_path / "python3"
    python.write_text(
        f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    finished = run(shutil.which("sh"), ".ci/preflight", str(python))
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == "on Debian: apt-get install python3-venv"


def test_preflight_is_silent_on_a_complete_host():
    """Nothing to say, nothing said."""
    finished = run(".ci/preflight", sys.executable)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_make_lists_its_targets():
    """`make` alone explains itself."""
    finished = run("make")
    assert finished.returncode == 0
    for target in ["setup", "check", "test", "demo", "bench", "clean"]:
        assert re.search(rf"^  {target} ", finished.stdout, re.MULTILINE)
