"""`meshctl locks`: owners of locks and of write leases."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workers.contract.names import SUPERVISOR
from workers.ctl import render
from workers.ctl.failure import Exit
from workers.ctl.report import heartbeat_rows, read_cell
from workers.ctl.report import locks as read_locks

if TYPE_CHECKING:
    from mesh import Mesh


def locks(mesh: Mesh, options: argparse.Namespace) -> int:
    """List every lock and every write lease with its owner."""
    infos = {info.name: info for info in mesh.segments()}
    names = {row.pid: row.worker for row in heartbeat_rows(mesh)}
    if daemon := read_cell(mesh, SUPERVISOR):
        names.setdefault(daemon["pid"], "meshd")
    rows = [{"kind": "lock", **lock} for lock in read_locks(mesh, infos)]
    rows += [
        {
            "kind": "lease",
            "name": info.name,
            "owner": names.get(info.owner.pid),
            "pid": info.owner.pid,
            "alive": info.owner.is_alive(),
            "held_s": None,
        }
        for info in infos.values()
        if info.owner is not None
    ]
    if options.format == "json":
        print(render.as_json(rows))
        return Exit.HEALTHY
    texts = [
        (
            row["kind"],
            row["name"],
            row["owner"] or ("free" if row["kind"] == "lock" else "-"),
            str(row["pid"] or "-"),
            render.duration(row["held_s"]),
            _process(row),
        )
        for row in rows
    ]
    titles = ("KIND", "NAME", "OWNER", "PID", "HELD", "PROCESS")
    print("\n".join(render.table(titles, texts, right=("PID", "HELD"))))
    return Exit.HEALTHY


def _process(row: dict[str, object]) -> str:
    if not row["pid"]:
        return ""
    if row["alive"]:
        return "alive"
    remedy = f"; free it: meshctl break-lock {row['name']}" if row["kind"] == "lock" else ""
    return render.state("dead") + remedy
