"""`meshctl unlink`: take away a segment, so that its writer makes it anew."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mesh.errors import Corrupt, InvalidName, LeaseHeld, SegmentMissing
from workers.ctl import render
from workers.ctl.failure import CommandFailed, Exit
from workers.ctl.report import heartbeat_rows

if TYPE_CHECKING:
    from mesh import Mesh, ProcessIdentity


def unlink(mesh: Mesh, options: argparse.Namespace) -> int:
    """Remove a segment that no live process uses, after a question or with --yes."""
    name = options.segment
    found = {info.name: info for info in mesh.segments()}
    if name not in found:
        try:
            mesh.info(name)
        except Corrupt as error:
            raise CommandFailed(str(error)) from error
        except (SegmentMissing, InvalidName):
            pass
        there = ", ".join(found) or "none"
        raise CommandFailed(f"no segment {name!r} in {mesh.path}; there are {there}", Exit.USAGE)
    info = found[name]
    what = f"{info.kind} of {render.size(info.size_bytes)}, {info.published:,} published"
    if not options.yes:
        _confirm(f"remove {name} ({what}) from {mesh.path}? y/N ")
    try:
        mesh.unlink(name)
    except LeaseHeld as error:
        worker = _worker(mesh, info.owner)
        stop = f"meshctl stop {worker}" if worker else "stop that process"
        raise CommandFailed(f"{str(error).partition(';')[0]}; first: {stop}") from error
    except SegmentMissing:
        raise CommandFailed(f"{name} is gone already") from None
    print(f"removed {name} ({what})")
    return Exit.HEALTHY


def _confirm(question: str) -> None:
    """Ask on the terminal. Raises CommandFailed where the answer is no or nobody can be asked."""
    if not sys.stdin.isatty():
        raise CommandFailed(
            "what it holds is lost; give --yes where nobody can be asked", Exit.USAGE
        )
    print(question, end="", flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandFailed("not removed")


def _worker(mesh: Mesh, owner: ProcessIdentity | None) -> str:
    """Return the worker that a process is, by its heartbeat; empty for other processes."""
    rows = heartbeat_rows(mesh) if owner is not None else ()
    return next((row.worker for row in rows if row.identity == owner), "")
