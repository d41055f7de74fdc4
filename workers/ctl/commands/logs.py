"""`meshctl logs`: print the end of a worker's log, and follow it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from workers.contract.names import SUPERVISOR
from workers.ctl import render
from workers.ctl.failure import CommandFailed, Exit
from workers.ctl.report import read_cell

if TYPE_CHECKING:
    from mesh import Mesh

BLOCK = 1 << 16
POLL_INTERVAL_S = 0.2
FIXED = ("timestamp", "level", "event", "worker", "pid", "generation", "incident")
STYLES = {"warning": render.STRONG, "error": render.BAD, "critical": render.BAD}


def logs(mesh: Mesh, options: argparse.Namespace) -> int:
    """Print the last lines of a log; with --follow also new lines, also after a rotation."""
    path = log_file(mesh, options.worker)
    lines, end = last_lines(path, options.records)
    for text in lines:
        _print(text, options)
    if options.follow:
        for text in followed(path, end):
            _print(text, options)
    return Exit.HEALTHY


def log_file(mesh: Mesh, worker: str) -> Path:
    """Return the path of a worker's log.

    Raises:
        CommandFailed: There is no log of that name; the error lists the names.
    """
    directory = Path(read_cell(mesh, SUPERVISOR).get("logs", ""))
    found = sorted(path.stem for path in directory.glob("*.log")) if directory.name else []
    if worker not in found:
        names = ", ".join(found) or "no logs"
        raise CommandFailed(
            f"no log of {worker!r} in {directory}; there are {names} (the daemon logs to its "
            "standard error: under systemd, the journal)",
            Exit.USAGE,
        )
    return directory / f"{worker}.log"


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """Return the last lines of a file, read backwards from its end.

    Returns:
        At most `count` complete lines, and the offset in bytes behind the last one.
    """
    with path.open("rb") as file:
        position = end = file.seek(0, 2)
        data = b""
        while position > 0 and data.count(b"\n") <= count:
            step = min(BLOCK, position)
            position -= step
            file.seek(position)
            data = file.read(step) + data
    whole = data[: data.rfind(b"\n") + 1]  # without a line that is still being written
    lines = whole.decode("utf-8", "replace").splitlines()
    return (lines[-count:] if count > 0 else []), end - (len(data) - len(whole))


def followed(path: Path, position: int) -> Iterator[str]:
    """Return each new line behind offset `position`, and those of the files that replace it."""
    file = path.open("rb")
    file.seek(position)
    rest = b""
    while True:
        rest += file.read(BLOCK)
        *whole, rest = rest.split(b"\n")
        yield from (each.decode("utf-8", "replace") for each in whole)
        if whole:
            continue
        sys.stdout.flush()
        time.sleep(POLL_INTERVAL_S)
        if _was_replaced(file, path):
            file.close()
            file = path.open("rb")


def _was_replaced(file: IO[bytes], path: Path) -> bool:
    """Whether the path names another file now; False while it names none, during a rotation."""
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _print(text: str, options: argparse.Namespace) -> None:
    print(text if options.format == "json" else line(text))


def line(text: str) -> str:
    """Return a JSON log entry as text for people; other lines, as of a traceback, unchanged."""
    try:
        entry: dict[str, Any] = json.loads(text)
        stamp, event = str(entry["timestamp"]), str(entry["event"])
    except (ValueError, KeyError, TypeError):
        return text
    level = str(entry.get("level", ""))
    rest = " ".join(f"{k}={v}" for k, v in entry.items() if k not in FIXED and v != "")
    named = render.styled(f"{level:<8}", STYLES.get(level))
    return f"{stamp[11:23]}  {named} {event} {rest}".rstrip()
