"""What is known about a mesh, read from its segments alone: the stable form of `status`.

`docs/meshctl.md` describes the keys; new ones may be added, none is taken away. Nothing here
needs the daemon: its last status is read and checked against the processes that live.
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
    """Return the report of a mesh; one that is not there is `down`."""
    infos = {info.name: info for info in mesh.segments()}
    said = read_cell(mesh, SUPERVISOR) if SUPERVISOR in infos else {}
    rows = {row.worker: row for row in heartbeat_rows(mesh)}
    doing = {
        name.removeprefix(STATUS_PREFIX): (struct_name(info), read_cell(mesh, name))
        for name, info in infos.items()
        if name.startswith(STATUS_PREFIX)
    }
    daemon = _daemon(said)
    classes = [row["class_path"] for row in said.get("workers", [])]
    summaries = status_summaries(classes)
    texts = {name: _describe(*status, summaries) for name, status in doing.items()}
    workers = [_worker(row, rows.get(row["name"]), texts) for row in said.get("workers", [])]
    known = {worker["name"] for worker in workers}
    board = read_cell(mesh, LEADERBOARD) if LEADERBOARD in infos else {}
    unmanaged = [
        row for row in rows.values() if row.worker not in known and row.identity.is_alive()
    ]
    workers += [_unmanaged(row, texts) for row in unmanaged]
    return {
        "mesh": str(mesh.path),
        "state": _state(daemon, said),
        "ready": bool(daemon["alive"] and said.get("ready", False)),
        "safe_state": said.get("safe_state", ""),
        "daemon": daemon,
        "workers": workers,
        "incidents": said.get("incidents", []),
        "foreign": said.get("unmanaged", []),
        "rolling": sorted(said.get("rolling", {})),
        "locks": [lock for lock in locks(mesh, infos) if lock["owner"] is not None],
        "flow": _flow(doing, summaries, infos, board),
    }


def read_cell(mesh: Mesh, name: str) -> dict[str, Any]:
    """Return the value of a cell of a Struct; empty while nothing is there or it is unreadable."""
    with contextlib.suppress(MeshError):
        segment = mesh.attach_plain(name)
        if isinstance(segment, PlainCell):
            with contextlib.suppress(NotWritten):
                value = segment.read()[1]
                return value if isinstance(value, dict) else {}
    return {}


def heartbeat_rows(mesh: Mesh) -> tuple[HeartbeatRow, ...]:
    """Return the heartbeats; none where there are none."""
    with contextlib.suppress(MeshError):
        segment = mesh.attach_plain(HEARTBEATS)
        if isinstance(segment, Heartbeats):
            return segment.rows()
    return ()


def struct_name(info: SegmentInfo) -> str:
    """Return the name of the Struct that a cell holds; empty for other segments."""
    described = json.loads(info.schema).get("struct", {})
    return str(described.get("$ref", "")).rpartition("/")[2]


def locks(mesh: Mesh, infos: Mapping[str, SegmentInfo]) -> Iterator[dict[str, Any]]:
    """Return every lock with its owner (None: free)."""
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


def _daemon(said: Mapping[str, Any]) -> dict[str, Any]:
    pid = int(said.get("pid", 0))
    alive = bool(pid) and ProcessIdentity(pid, said["start_time"]).is_alive()
    return {
        "pid": pid,
        "alive": alive,
        "since": float(said.get("since", 0.0)),
        "state": said.get("state", "down") if alive else "down",
        "version": said.get("version", ""),
        "profile": said.get("profile", ""),
        "control": said.get("control", ""),
        "logs": said.get("logs", ""),
        "configuration": said.get("configuration", ""),
        "reload_error": said.get("reload_error", ""),
    }


def _state(daemon: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    if not daemon["alive"] or daemon["state"] == "down":
        return "down"
    fine = daemon["state"] == "healthy" and not said.get("safe_state")
    return "healthy" if fine else "degraded"


def _worker(
    row: Mapping[str, Any], heart: HeartbeatRow | None, texts: Mapping[str, str]
) -> dict[str, Any]:
    """Join what the daemon, the heartbeat and the worker itself say."""
    mine = heart is not None and heart.pid == row["pid"]
    return {
        "name": row["name"],
        "kind": kind_of(row["class_path"]),
        "pid": row["pid"],
        "state": row["state"],
        **_beat(heart if mine else None),
        "alive": ProcessIdentity(row["pid"], row.get("start_time", 0)).is_alive(),
        "restarts": row["restarts"],
        "reason": row["reason"],
        "since": row["since"],
        "required": row["required"],
        "group": row.get("group", ""),
        "generation": row.get("generation", 0),
        "doing": (heart.detail if mine and heart else "") or texts.get(row["name"], ""),
        "class": row["class_path"],
    }


def _unmanaged(row: HeartbeatRow, texts: Mapping[str, str]) -> dict[str, Any]:
    """A process that attached without being the daemon's: a notebook's trainer, say."""
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


def _beat(heart: HeartbeatRow | None) -> dict[str, Any]:
    if heart is None:
        return {
            "alive": False,
            "phase": "gone",
            "progress": 0,
            "beat_age_s": None,
            "processor_s": 0.0,
            "resident_bytes": 0,
        }
    stat = procfs.read_stat(heart.pid)
    return {
        "alive": heart.identity.is_alive(),
        "phase": heart.phase.name.lower(),
        "progress": heart.progress,
        "beat_age_s": max(0.0, (time.monotonic_ns() - heart.beat_ns) / 1e9),
        "processor_s": stat.processor_s if stat else 0.0,
        "resident_bytes": stat.resident_bytes if stat else 0,
    }


def status_summaries(class_paths: Iterable[str]) -> dict[str, StatusSummary]:
    """How each type of status is summed up: by the shipped workers and those of `class_paths`.

    A package of a user's own that cannot be imported here is left out: its workers have no sums.
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
    """What the worker says of itself, in a line."""
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
    """Add up what flowed: what the packages declare of their statuses, and published versions."""
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
    """Every policy: of our trainers by their status, of others by leaderboard and segment."""
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
            "version": int(said.get("version", 0)),
            "updates": int(said.get("updates", 0)),
            "acting": bool(acting.get(name)),
            "acting_version": int(acting.get(name, 0)),
            "updates_per_s": float(said.get("updates_per_s", 0.0)),
            "score": said.get("score"),
            "state": said.get("state", ""),
        }
        for name, said in found.items()
    }
