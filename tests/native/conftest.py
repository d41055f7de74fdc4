"""C programs of the tests: compiled once a session against the core's headers."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WIDE = ["-mcx16"] if platform.machine() == "x86_64" else []
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", *WIDE, "-pthread"]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Return the program made of a C file: compiled(source, *flags, cc=..., headers=...)."""
    directory = tmp_path_factory.mktemp("native")

    def compile_it(source, *flags, cc="cc", headers=ROOT / "mesh/_core"):
        if shutil.which(cc) is None:
            pytest.skip(f"{cc} is not installed: apt-get install {'gcc' if cc == 'cc' else cc}")
        program = directory / f"program-{len(list(directory.iterdir()))}"
        command = [cc, "-O2", *FLAGS, *flags, "-I", headers, ROOT / source, "-o", program]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return program

    return compile_it


@pytest.fixture
def run():
    """Run a program to its end and give what came of it."""

    def run_it(*command, **options):
        return subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            **options,
        )

    return run_it
