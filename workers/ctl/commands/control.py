"""Requests to the daemon: start, stop, restart, reset, break-lock, reload, upgrade, shutdown.

These commands need a live daemon. Each is one request on its socket, so that one function serves
all of them; the daemon decides who may send requests.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from mesh.control import ControlRequest, ControlUnavailable, ask
from mesh.plain import PlainReader, PlainRing
from workers.contract.names import EVENTS, SUPERVISOR
from workers.ctl import render
from workers.ctl.failure import CommandFailed, Exit
from workers.ctl.report import read_cell

if TYPE_CHECKING:
    from mesh import Mesh

POLL_INTERVAL_S = 0.05
UPGRADE_S = 90.0
WANTED = {"start": "running", "restart": "running", "reset": "running", "stop": "stopped"}


def control(mesh: Mesh, options: argparse.Namespace) -> int:
    """Send the command to the daemon, print its answer, and wait for the effect with `--wait`.

    Raises:
        CommandFailed: The daemon cannot be reached (exit code 2), refuses, or the worker does not
            reach its new state in time (exit code 1).
    """
    target = getattr(options, "target", "")
    before = _rows(mesh)
    events = _events(mesh) if options.command == "upgrade" else None
    try:
        reply = ask(mesh.path, ControlRequest(options.command, target))
    except ControlUnavailable as error:
        raise CommandFailed(str(error), Exit.DOWN) from error
    if not reply.ok:
        raise CommandFailed(reply.text, Exit.DEGRADED)
    print(reply.text, flush=True)
    if events is not None:
        return _upgraded(events)
    if getattr(options, "wait", None) is not None:
        _wait(mesh, options, before)
    return Exit.HEALTHY


def _rows(mesh: Mesh) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in read_cell(mesh, SUPERVISOR).get("workers", [])}


def _wait(mesh: Mesh, options: argparse.Namespace, before: dict[str, dict[str, Any]]) -> None:
    """Wait until the workers have reached the state that the command asks for."""
    named = [name for name, row in before.items() if options.target in {name, row.get("group")}]
    wanted = WANTED[options.command]
    began = time.monotonic()
    late: list[str] = []
    while time.monotonic() - began < options.wait:
        rows = _rows(mesh)
        late = [name for name in named if not _is(rows[name], before[name], wanted, options)]
        if not late:
            print(f"{', '.join(named)}: {wanted} after {render.duration(time.monotonic() - began)}")
            return
        if failed := [name for name in late if _has_failed(rows[name], before[name], options)]:
            raise CommandFailed(f"{failed[0]} is quarantined: {rows[failed[0]]['reason']}")
        time.sleep(POLL_INTERVAL_S)
    raise CommandFailed(
        f"{', '.join(late)}: not {wanted} within {options.wait:g} s; see meshctl status {late[0]}"
    )


def _is(
    row: dict[str, Any], before: dict[str, Any], wanted: str, options: argparse.Namespace
) -> bool:
    """Whether a worker is in the wanted state; after a restart, in a new process."""
    same = options.command == "restart" and row["pid"] == before["pid"]
    return bool(row["state"] == wanted) and not same


def _has_failed(row: dict[str, Any], before: dict[str, Any], options: argparse.Namespace) -> bool:
    """Whether a worker is quarantined; after a reset, anew: the status may still be the old one."""
    is_old = options.command == "reset" and row["since"] == before["since"]
    return bool(row["state"] == "quarantined") and not is_old


def _events(mesh: Mesh) -> PlainReader | None:
    """Return a reader of the events that follow; None without the ring."""
    if not any(info.name == EVENTS for info in mesh.segments()):
        return None
    ring = mesh.attach_plain(EVENTS)
    return ring.reader(ring.published) if isinstance(ring, PlainRing) else None


def _upgraded(events: PlainReader) -> int:
    """Wait for the first event of the new program, or for the refusal."""
    deadline = time.monotonic() + UPGRADE_S
    while time.monotonic() < deadline:
        events.wait_published(1.0)
        for record in events.read(max_records=256):
            kind, text = record["kind"], record["text"]
            if kind == "upgrade refused":
                raise CommandFailed(f"refused; the old program keeps running: {text}")
            if kind == "started":
                print(f"upgraded: {text}")
                return Exit.HEALTHY
    raise CommandFailed(f"the new program did not start within {UPGRADE_S:g} s; see meshctl events")
