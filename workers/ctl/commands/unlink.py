"""`meshctl unlink`: remove a segment, so that its writer creates it again."""

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
    """Remove a segment that no live process uses, after a confirmation or with --yes.

    Raises:
        CommandFailed: There is no such segment, it is in use, or the user did not confirm.
    """
    name = options.segment
    found = {info.name: info for info in mesh.segments()}
    if name not in found:
        try:
            mesh.info(name)
        except Corrupt as error:
            raise CommandFailed(str(error)) from error
        except (SegmentMissing, InvalidName):
            pass
        there = ", ".join(found) or "no segments"
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
        raise CommandFailed(f"{name} was already removed") from None
    print(f"removed {name} ({what})")
    return Exit.HEALTHY


def _confirm(question: str) -> None:
    """Ask for confirmation on the terminal."""
    if not sys.stdin.isatty():
        raise CommandFailed(
            "the content would be lost; use --yes where there is no terminal to ask on", Exit.USAGE
        )
    print(question, end="", flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandFailed("not removed")


def _worker(mesh: Mesh, owner: ProcessIdentity | None) -> str:
    """Return the name of the worker that runs in a process; empty for other processes."""
    rows = heartbeat_rows(mesh) if owner is not None else ()
    return next((row.worker for row in rows if row.identity == owner), "")
