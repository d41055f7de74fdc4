"""What is known about a death, as one JSON file an operator can open.

Written by a worker about itself (an exception) or by the daemon: before it kills a hung worker,
and after a death that the worker could not report. The newest are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh import MeshError, ProcessIdentity, SpinLock
from workers.runtime.atomic_file import write_whole

if TYPE_CHECKING:
    from mesh import Mesh

TAIL_BYTES = 8192
TAIL_LINES = 40


def write_report(directory: Path, worker: str, pid: int, content: dict[str, Any]) -> Path:
    """Write `content` (JSON values) as a report and return its path; OSError where that fails."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    head = {"worker": worker, "pid": pid, "at": stamp}
    text = json.dumps({**head, **content}, indent=1, default=str)
    path = directory / f"{worker}-{stamp}-{pid}.json"
    return write_whole(path, text.encode(), durable=False)  # a hang is not prolonged by the disk


def keep_newest(directory: Path, count: int) -> None:
    """Remove all reports but the `count` newest."""
    written: dict[Path, int] = {}
    for path in directory.glob("*.json"):
        with contextlib.suppress(
            FileNotFoundError
        ):  # daemon and workers may remove it at the same time
            written[path] = path.stat().st_mtime_ns
    for path in sorted(written, key=lambda p: written[p])[:-count]:
        path.unlink(missing_ok=True)


def stack_file(directory: Path, worker: str, pid: int) -> Path:
    """Return the file into which a worker dumps its stacks on SIGUSR2."""
    return directory / f".stack-{worker}-{pid}"


def take_stacks(directory: Path, worker: str, pid: int) -> str:
    """Return the stacks that a worker dumped, and remove the file."""
    path = stack_file(directory, worker, pid)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    path.unlink(missing_ok=True)
    return text


def own_report(directory: Path, worker: str, pid: int) -> tuple[str, str]:
    """Return path and error of the report that process `pid` wrote about itself, or ("", "")."""
    for path in sorted(directory.glob(f"{worker}-*-{pid}.json"), reverse=True):
        try:
            error = json.loads(path.read_text(encoding="utf-8")).get("error", "")
        except (OSError, ValueError):
            continue
        return str(path), error
    return "", ""


def held_by(mesh: Mesh, process: ProcessIdentity) -> tuple[list[str], list[str]]:
    """Return the names of the locks and of the leases that `process` holds."""
    locks, leases = [], []
    for info in mesh.segments():
        if info.kind != "lock":
            if info.owner == process:
                leases.append(info.name)
            continue
        try:
            lock = mesh.attach(info.name)
        except MeshError:  # it went away in between
            continue
        if isinstance(lock, SpinLock):
            owner = lock.owner()
            if owner is not None and owner.identity == process:
                locks.append(info.name)
        lock.close()
    return locks, leases


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a log file; empty where it cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-TAIL_LINES:]
