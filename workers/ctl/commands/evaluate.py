"""`meshctl evaluate` and `meshctl record`: programs of the trading environment, on this mesh.

They run as processes of their own: nothing of the mesh's rooms imports what is above them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from workers.ctl.failure import CommandFailed, Exit

if TYPE_CHECKING:
    import argparse

    from mesh import Mesh


def evaluate(mesh: Mesh, options: argparse.Namespace) -> int:
    """Evaluate the newest policy of a trainer beside the baselines; gives the program's code."""
    arguments = ["--mesh", str(mesh.path), "--trainer", options.trainer]
    if options.data is not None:
        _readable(options.data)
        arguments += ["--data", str(options.data)]
    if options.out is not None:
        arguments += ["--out", str(options.out)]
    return _run("workers.trading_env.evaluation", [*arguments, "--episodes", str(options.episodes)])


def record(mesh: Mesh, options: argparse.Namespace) -> int:
    """Write the market states that the feeder publishes as Parquet; gives the program's code."""
    arguments = ["--mesh", str(mesh.path), "--out", str(options.out)]
    limits = ["--states", str(options.states), "--seconds", str(options.seconds)]
    return _run("workers.trading_env.record", [*arguments, *limits])


def _readable(path: os.PathLike[str]) -> None:
    if not os.access(path, os.R_OK):
        raise CommandFailed(
            f"{path}: nothing is there that may be read; give recorded data, or nothing for a "
            "synthetic market",
            Exit.CONFIGURATION,
        )


def _run(module: str, arguments: list[str]) -> int:
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode  # noqa: S603 - our own module, arguments as typed
