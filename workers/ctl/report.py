"""The report of a mesh, read from its segments only: the stable JSON form of `status`.

`docs/meshctl.md` describes the keys; keys may be added, but are never removed. The daemon is not
needed: its last status is read, and the processes in it are checked for being alive.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from config.declaration import StatusSummary, declaration_of, kind_of, shipped
from mesh import procfs
from mesh.directory import HEARTBEATS
from mesh.errors import MeshError, NotWritten
from mesh.heartbeats import Heartbeats
from mesh.plain import PlainCell
from mesh.process_identity import ProcessIdentity
from mesh.spinlock import SpinLock
from workers.contract.names import EXPERIENCE, LEADERBOARD, POLICY_PREFIX, STATUS_PREFIX, SUPERVISOR

if TYPE_CHECKING:
    from mesh import HeartbeatRow, Mesh, SegmentInfo


def read_report(mesh: Mesh) -> dict[str, Any]:
    """Return the report of a mesh, with the keys of `docs/meshctl.md`; a missing mesh is `down`."""
    infos = {info.name: info for info in mesh.segments()}
    supervisor = read_cell(mesh, SUPERVISOR) if SUPERVISOR in infos else {}
    rows = {row.worker: row for row in heartbeat_rows(mesh)}
    statuses = {
        name.removeprefix(STATUS_PREFIX): (struct_name(info), read_cell(mesh, name))
        for name, info in infos.items()
        if name.startswith(STATUS_PREFIX)
    }
    daemon = _daemon(supervisor)
    classes = [row["class_path"] for row in supervisor.get("workers", [])]
    summaries = status_summaries(classes)
    texts = {name: _describe(*status, summaries) for name, status in statuses.items()}
    workers = [_worker(row, rows.get(row["name"]), texts) for row in supervisor.get("workers", [])]
    known = {worker["name"] for worker in workers}
    board = read_cell(mesh, LEADERBOARD) if LEADERBOARD in infos else {}
    unmanaged = [
        row for row in rows.values() if row.worker not in known and row.identity.is_alive()
    ]
    workers += [_unmanaged(row, texts) for row in unmanaged]
    return {
        "mesh": str(mesh.path),
        "state": _state(daemon, supervisor),
        "ready": bool(daemon["alive"] and supervisor.get("ready", False)),
        "safe_state": supervisor.get("safe_state", ""),
        "daemon": daemon,
        "workers": workers,
        "incidents": supervisor.get("incidents", []),
        "foreign": supervisor.get("unmanaged", []),
        "rolling": sorted(supervisor.get("rolling", {})),
        "locks": [lock for lock in locks(mesh, infos) if lock["owner"] is not None],
        "flow": _flow(statuses, summaries, infos, board),
    }


def read_cell(mesh: Mesh, name: str) -> dict[str, Any]:
    """Return the Struct in a cell as a dict; empty if missing, unwritten or unreadable."""
    with contextlib.suppress(MeshError):
        segment = mesh.attach_plain(name)
        if isinstance(segment, PlainCell):
            with contextlib.suppress(NotWritten):
                value = segment.read()[1]
                return value if isinstance(value, dict) else {}
    return {}


def heartbeat_rows(mesh: Mesh) -> tuple[HeartbeatRow, ...]:
    """Return the rows of the heartbeat segment; empty if it is missing or unreadable."""
    with contextlib.suppress(MeshError):
        segment = mesh.attach_plain(HEARTBEATS)
        if isinstance(segment, Heartbeats):
            return segment.rows()
    return ()


def struct_name(info: SegmentInfo) -> str:
    """Return the name of the Struct type that a cell holds; empty for other segments."""
    described = json.loads(info.schema).get("struct", {})
    return str(described.get("$ref", "")).rpartition("/")[2]


def locks(mesh: Mesh, infos: Mapping[str, SegmentInfo]) -> Iterator[dict[str, Any]]:
    """Return every lock with its owner.

    Args:
        mesh: The mesh.
        infos: Its segments by name.

    Returns:
        Dicts with `name`, `owner` (None: the lock is free), `pid`, `alive` and `held_s`.
    """
    for info in infos.values():
        if info.kind != "lock":
            continue
        with contextlib.suppress(MeshError):
            lock = mesh.attach_plain(info.name)
            owner = lock.owner() if isinstance(lock, SpinLock) else None
            yield {
                "name": info.name,
                "owner": owner.name if owner else None,
                "pid": owner.identity.pid if owner else 0,
                "alive": owner.identity.is_alive() if owner else False,
                "held_s": owner.held_s if owner else 0.0,
            }


def _daemon(supervisor: Mapping[str, Any]) -> dict[str, Any]:
    pid = int(supervisor.get("pid", 0))
    alive = bool(pid) and ProcessIdentity(pid, supervisor["start_time"]).is_alive()
    return {
        "pid": pid,
        "alive": alive,
        "since": float(supervisor.get("since", 0.0)),
        "state": supervisor.get("state", "down") if alive else "down",
        "version": supervisor.get("version", ""),
        "profile": supervisor.get("profile", ""),
        "control": supervisor.get("control", ""),
        "logs": supervisor.get("logs", ""),
        "configuration": supervisor.get("configuration", ""),
        "reload_error": supervisor.get("reload_error", ""),
    }


def _state(daemon: Mapping[str, Any], supervisor: Mapping[str, Any]) -> str:
    if not daemon["alive"] or daemon["state"] == "down":
        return "down"
    fine = daemon["state"] == "healthy" and not supervisor.get("safe_state")
    return "healthy" if fine else "degraded"


def _worker(
    row: Mapping[str, Any], heartbeat: HeartbeatRow | None, texts: Mapping[str, str]
) -> dict[str, Any]:
    """Combine the daemon's row, the heartbeat and the status text of one worker."""
    mine = heartbeat is not None and heartbeat.pid == row["pid"]
    return {
        "name": row["name"],
        "kind": kind_of(row["class_path"]),
        "pid": row["pid"],
        "state": row["state"],
        **_beat(heartbeat if mine else None),
        "alive": ProcessIdentity(row["pid"], row.get("start_time", 0)).is_alive(),
        "restarts": row["restarts"],
        "reason": row["reason"],
        "since": row["since"],
        "required": row["required"],
        "group": row.get("group", ""),
        "generation": row.get("generation", 0),
        "doing": (heartbeat.detail if mine and heartbeat else "") or texts.get(row["name"], ""),
        "class": row["class_path"],
    }


def _unmanaged(row: HeartbeatRow, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the row of a process that the daemon did not start, as of a notebook."""
    return {
        "name": row.worker,
        "kind": "foreign",
        "pid": row.pid,
        "state": "running" if row.ready else "starting",
        **_beat(row),
        "restarts": 0,
        "reason": "",
        "since": 0.0,
        "required": False,
        "group": "",
        "generation": 0,
        "doing": row.detail or texts.get(row.worker, "") or "unmanaged",
        "class": "",
    }


def _beat(heartbeat: HeartbeatRow | None) -> dict[str, Any]:
    if heartbeat is None:
        return {
            "alive": False,
            "phase": "gone",
            "progress": 0,
            "beat_age_s": None,
            "processor_s": 0.0,
            "resident_bytes": 0,
        }
    stat = procfs.read_stat(heartbeat.pid)
    return {
        "alive": heartbeat.identity.is_alive(),
        "phase": heartbeat.phase.name.lower(),
        "progress": heartbeat.progress,
        "beat_age_s": max(0.0, (time.monotonic_ns() - heartbeat.beat_ns) / 1e9),
        "processor_s": stat.processor_s if stat else 0.0,
        "resident_bytes": stat.resident_bytes if stat else 0,
    }


def status_summaries(class_paths: Iterable[str]) -> dict[str, StatusSummary]:
    """Return how each type of status is summed up, by the name of its Struct.

    Args:
        class_paths: Workers (`package.module:Class`) beside the shipped ones. A package that cannot
            be imported here is left out, so its workers do not count in the sums.
    """
    declared = list(shipped().values())
    for class_path in class_paths:
        with contextlib.suppress(Exception):
            declared.append(declaration_of(class_path))
    found: dict[str, StatusSummary] = {}
    for summary in (each.status for each in declared):
        if summary is not None:
            found.setdefault(summary.struct, summary)
    return found


def _describe(
    struct: str, status: Mapping[str, Any], summaries: Mapping[str, StatusSummary]
) -> str:
    """Return one line that describes a worker by its status."""
    summary = summaries.get(struct)
    if status and summary is not None and summary.describe is not None:
        return summary.describe(status)
    return str(status.get("state", ""))


def _flow(
    statuses: Mapping[str, tuple[str, Any]],
    summaries: Mapping[str, StatusSummary],
    infos: Mapping[str, SegmentInfo],
    board: Mapping[str, Any],
) -> dict[str, Any]:
    """Sum the counters that the workers' packages declare, and list the published policies."""
    flow: dict[str, Any] = {}
    for struct, summary in summaries.items():
        found = [status for name, status in statuses.values() if name == struct and status]
        for key, field in summary.totals.items():
            flow[key] = flow.get(key, 0) + sum(int(status.get(field, 0)) for status in found)
        for key, field in summary.tables.items():
            table = flow.setdefault(key, {})
            for name, count in (item for status in found for item in status[field].items()):
                table[name] = table.get(name, 0) + count
        for key, field in summary.maxima.items():
            flow[key] = max((status[field] for status in found), default=None)
    experience = infos.get(EXPERIENCE)
    return {
        **flow,
        "gated": sum(flow["gates"].values()),
        "experience": experience.published if experience else 0,
        "policies": _policies(statuses, summaries, infos, board),
    }


def _policies(
    statuses: Mapping[str, tuple[str, Any]],
    summaries: Mapping[str, StatusSummary],
    infos: Mapping[str, SegmentInfo],
    board: Mapping[str, Any],
) -> dict[str, Any]:
    """Return every policy: of managed trainers from their status, of others from the mesh."""
    publishing = {name for name, summary in summaries.items() if summary.publishes_policy}
    acting = {
        status["acting_trainer"]: status["acting_version"]
        for _, status in statuses.values()
        if "acting_trainer" in status
    }
    found = {name: status for name, (struct, status) in statuses.items() if struct in publishing}
    ranked = {row["trainer"]: row for row in board.get("rows", ())}
    for segment, info in infos.items():
        name = segment.removeprefix(POLICY_PREFIX)
        if segment.startswith(POLICY_PREFIX) and name not in found and info.published:
            found[name] = {**ranked.get(name, {}), "version": info.published, "state": "foreign"}
    return {
        name: {
            "version": int(policy.get("version", 0)),
            "updates": int(policy.get("updates", 0)),
            "acting": bool(acting.get(name)),
            "acting_version": int(acting.get(name, 0)),
            "updates_per_s": float(policy.get("updates_per_s", 0.0)),
            "score": policy.get("score"),
            "state": policy.get("state", ""),
        }
        for name, policy in found.items()
    }
