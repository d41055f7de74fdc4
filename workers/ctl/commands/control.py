"""What is asked of the daemon: start, stop, restart, reset, break-lock, reload, upgrade, shutdown.

The only commands that need it alive. Each is one request on its socket, so one function is all
of them; the daemon decides who may ask.
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
    """Send the command to the daemon, print its answer, and wait where that is asked for."""
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
    """Wait until what was asked for has happened. Raises CommandFailed when it does not."""
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
        if hopeless := [name for name in late if rows[name]["state"] == "quarantined"]:
            raise CommandFailed(f"{hopeless[0]} is quarantined: {rows[hopeless[0]]['reason']}")
        time.sleep(POLL_INTERVAL_S)
    raise CommandFailed(
        f"{', '.join(late)}: not {wanted} within {options.wait:g} s; see meshctl status {late[0]}"
    )


def _is(
    row: dict[str, Any], before: dict[str, Any], wanted: str, options: argparse.Namespace
) -> bool:
    """Whether a worker is as wanted; after a restart, in another process."""
    same = options.command == "restart" and row["pid"] == before["pid"]
    return bool(row["state"] == wanted) and not same


def _events(mesh: Mesh) -> PlainReader | None:
    """Follow the daemon's events from now on."""
    if not any(info.name == EVENTS for info in mesh.segments()):
        return None
    ring = mesh.attach_plain(EVENTS)
    return ring.reader(ring.published) if isinstance(ring, PlainRing) else None


def _upgraded(events: PlainReader) -> int:
    """Wait for the new program's first word, or for the refusal."""
    deadline = time.monotonic() + UPGRADE_S
    while time.monotonic() < deadline:
        events.wait_published(1.0)
        for record in events.read(max_records=256):
            kind, text = record["kind"], record["text"]
            if kind == "upgrade refused":
                raise CommandFailed(f"refused, the old program goes on: {text}")
            if kind == "started":
                print(f"upgraded: {text}")
                return Exit.HEALTHY
    raise CommandFailed(f"no word of the new program within {UPGRADE_S:g} s; see meshctl events")
