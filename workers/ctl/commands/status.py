"""`meshctl status`: print the report of the mesh once."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from workers.contract.names import status_segment
from workers.ctl import render
from workers.ctl.failure import CommandFailed, Exit
from workers.ctl.render import as_json
from workers.ctl.report import read_cell, read_report

if TYPE_CHECKING:
    from mesh import Mesh

CODES = {"healthy": Exit.HEALTHY, "degraded": Exit.DEGRADED, "down": Exit.DOWN}
POLL_INTERVAL_S = 0.05


def status(mesh: Mesh, options: argparse.Namespace) -> int:
    """Print the report of the mesh or of one worker.

    Returns:
        0 healthy, 1 degraded, 2 down; for one worker 0 while it runs, else 1 (2: daemon down).

    Raises:
        CommandFailed: There is no worker of that name.
    """
    report = read_report(mesh)
    if options.wait_ready is not None:
        report = _wait_ready(mesh, report, options.wait_ready)
    if options.worker is not None:
        return _one(mesh, report, options)
    if options.format == "json":
        print(as_json(report))
    else:
        print("\n".join(lines(report)))
    return CODES[report["state"]]


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Return the lines of a report for people."""
    yield headline(report)
    if report["state"] == "down" and not report["workers"]:
        yield f"no daemon runs on the mesh {report['mesh']}; start one: meshd --profile NAME"
        return
    yield ""
    yield from render.table(
        ("WORKER", "STATE", "PID", "PHASE", "BEAT", "PROGRESS", "RESTARTS", "DETAIL"),
        [worker_row(worker) for worker in report["workers"]],
        right=("PID", "BEAT", "PROGRESS", "RESTARTS"),
    )
    yield ""
    yield from flow_lines(report["flow"])
    for lock in report["locks"]:
        alive = (
            ""
            if lock["alive"]
            else "; the owner is dead, free it: meshctl break-lock " + lock["name"]
        )
        yield (
            f"lock        {lock['name']} held by {lock['owner']} (pid {lock['pid']}) for "
            f"{render.duration(lock['held_s'])}{alive}"
        )
    yield from unmanaged_lines(report)
    if report["rolling"]:
        yield f"rolling     restart still pending: {', '.join(report['rolling'])}"
    if report["daemon"]["reload_error"]:
        yield f"refused     reload or upgrade: {report['daemon']['reload_error']}"
    yield from incident_lines(report["incidents"])


def headline(report: dict[str, Any]) -> str:
    """Return one line with the state, the daemon and the mesh."""
    daemon = report["daemon"]
    state = render.state(report["state"])
    if daemon["alive"] and daemon["state"] not in {"healthy", "degraded"}:
        state += f" ({daemon['state']})"
    if report["safe_state"]:
        state += f" (acting stopped: {report['safe_state']})"
    who = "no daemon"
    if daemon["pid"]:
        up = render.since(daemon["since"])
        who = f"meshd {daemon['version']} pid {daemon['pid']}"
        who += f" up {up}" if daemon["alive"] else " is dead; this is its last status"
    return f"tradingmesh {state}, {who}, {report['mesh']}"


def worker_row(worker: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a worker in the table."""
    return (
        worker["name"],
        render.state(worker_state(worker)),
        str(worker["pid"] or "-"),
        worker["phase"],
        render.duration(worker["beat_age_s"]),
        f"{worker['progress']:,}",
        str(worker["restarts"]),
        worker_text(worker),
    )


def worker_state(worker: dict[str, Any]) -> str:
    """Return the state of a worker; `dead` if its process ended unseen by a dead daemon."""
    has_process = worker["state"] in {"running", "starting", "stopping"}
    return "dead" if has_process and not worker["alive"] else str(worker["state"])


def worker_text(worker: dict[str, Any]) -> str:
    """Return what the worker does, or why it does not run.

    The prefix `running: ` is left out, because the state is shown beside the text.
    """
    if worker_state(worker) != "running" and worker["reason"]:
        return str(worker["reason"])
    return str(worker["doing"]).removeprefix("running: ")


def flow_lines(flow: dict[str, Any]) -> Iterator[str]:
    """Return the lines about messages, experience and policies."""
    rest = [f"{flow[k]:,} {k}" for k in ("dropped", "conflated", "skipped") if flow[k]]
    parts = [f"{flow['published']:,} published", f"{flow['dead_lettered']:,} dead-lettered", *rest]
    yield f"messages    {flow['consumed']:,} consumed = {' + '.join(parts)}"
    if flow["gates"]:
        flags = ", ".join(f"{name} {count:,}" for name, count in flow["gates"].items() if count)
        yield f"flags       {flags or '-'}"
    yield f"experience  {flow['experience']:,} records from {flow['market_states']:,} market states"
    for name, policy in flow["policies"].items():
        acting = f", acting with version {policy['acting_version']}" if policy["acting"] else ""
        yield (
            f"policy      {name}: version {policy['version']}, {policy['updates']:,} updates "
            f"({policy['updates_per_s']:.0f}/s){render.score(policy['score'])}{acting}"
        )


def unmanaged_lines(report: dict[str, Any]) -> Iterator[str]:
    """Return a line for each process that uses the mesh and is not a worker of the daemon."""
    listed = {worker["pid"] for worker in report["workers"]}
    for process in report["foreign"]:
        if process["pid"] not in listed:
            holds = f", holds {', '.join(process['holds'])}" if process["holds"] else ""
            yield f"unmanaged   {process['name']} (pid {process['pid']}) {process['state']}{holds}"


def incident_lines(incidents: list[dict[str, Any]], newest: int = 5) -> Iterator[str]:
    """Return a line for each of the newest incidents."""
    for incident in incidents[-newest:]:
        recovery_s = incident["running_s"]
        recovery = "not running yet"
        if recovery_s >= 0:
            recovery = f"running again after {render.duration(recovery_s)}"
        yield (
            f"incident    {render.moment(incident['at'])} {incident['worker']} "
            f"{incident['kind']}, {recovery}: {incident['evidence']}"
        )


def _wait_ready(mesh: Mesh, report: dict[str, Any], seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while not (report["ready"] and report["state"] == "healthy") and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
        report = read_report(mesh)
    return report


def _one(mesh: Mesh, report: dict[str, Any], options: argparse.Namespace) -> int:
    """Print everything about one worker and return the exit code."""
    found = [worker for worker in report["workers"] if worker["name"] == options.worker]
    if not found:
        names = ", ".join(worker["name"] for worker in report["workers"]) or "no workers"
        raise CommandFailed(
            f"no worker {options.worker!r} in {mesh.path}; there are {names}", Exit.USAGE
        )
    worker = found[0]
    worker_status = read_cell(mesh, status_segment(options.worker))
    incidents = [each for each in report["incidents"] if each["worker"] == options.worker]
    if options.format == "json":
        print(as_json({**worker, "status": worker_status, "incidents": incidents}))
    else:
        shown = {k: v for k, v in worker.items() if k not in {"since", "resident_bytes"}}
        shown["memory"] = render.size(worker["resident_bytes"])
        shown["since"] = render.moment(worker["since"]) if worker["since"] else "-"
        print("\n".join(render.pairs({**shown, "status": worker_status})))
        print("\n".join(incident_lines(incidents)), end="\n" if incidents else "")
    if report["state"] == "down":
        return Exit.DOWN
    return Exit.HEALTHY if worker["state"] == "running" else Exit.DEGRADED
