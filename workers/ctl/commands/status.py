"""`meshctl status`: the report, once."""

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
    """Print the report of the mesh or of one worker; the exit code is its state."""
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
    """Return the report for people."""
    yield headline(report)
    if report["state"] == "down" and not report["workers"]:
        yield f"no daemon has a mesh at {report['mesh']}; start one: meshd --profile NAME"
        return
    yield ""
    yield from render.table(
        ("WORKER", "STATE", "PID", "PHASE", "BEAT", "PROGRESS", "RESTARTS", ""),
        [worker_row(worker) for worker in report["workers"]],
        right=("PID", "BEAT", "PROGRESS", "RESTARTS"),
    )
    yield ""
    yield from flow_lines(report["flow"])
    for lock in report["locks"]:
        alive = "" if lock["alive"] else ", which is dead: meshctl break-lock " + lock["name"]
        yield (
            f"lock        {lock['name']} held by {lock['owner']} (pid {lock['pid']}) for "
            f"{render.duration(lock['held_s'])}{alive}"
        )
    yield from unmanaged_lines(report)
    if report["rolling"]:
        yield f"rolling     restart of {', '.join(report['rolling'])} is still to come"
    if report["daemon"]["reload_error"]:
        yield f"refused     {report['daemon']['reload_error']}"
    yield from incident_lines(report["incidents"])


def headline(report: dict[str, Any]) -> str:
    """One line: state, daemon, mesh."""
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
    """Return a worker as cells of the table."""
    return (
        worker["name"],
        render.state(worker_state(worker)),
        str(worker["pid"] or "-"),
        worker["phase"],
        render.duration(worker["beat_age_s"]),
        f"{worker['progress']:,}",
        str(worker["restarts"]),
        worker_says(worker),
    )


def worker_state(worker: dict[str, Any]) -> str:
    """Return the state; `dead` where the daemon, dead itself, did not see the process end."""
    living = worker["state"] in {"running", "starting", "stopping"}
    return "dead" if living and not worker["alive"] else str(worker["state"])


def worker_says(worker: dict[str, Any]) -> str:
    """Return what the worker does, or why it does not run."""
    runs = worker_state(worker) == "running"
    return str(worker["doing"] if runs else worker["reason"] or worker["doing"])


def flow_lines(flow: dict[str, Any]) -> Iterator[str]:
    """Return the flow: what came in, where it went, who acts."""
    rest = [f"{flow[k]:,} {k}" for k in ("dropped", "conflated", "skipped") if flow[k]]
    parts = [f"{flow['published']:,} published", f"{flow['dead_lettered']:,} dead-lettered", *rest]
    yield f"messages    {flow['consumed']:,} consumed = {' + '.join(parts)}"
    if flow["gates"]:
        gates = ", ".join(f"{name} {count:,}" for name, count in flow["gates"].items() if count)
        yield f"gates       {gates or 'nothing'}"
    yield f"experience  {flow['experience']:,} records of {flow['market_states']:,} market states"
    for name, policy in flow["policies"].items():
        acting = f", acting with version {policy['acting_version']}" if policy["acting"] else ""
        yield (
            f"policy      {name}: version {policy['version']}, {policy['updates']:,} updates "
            f"({policy['updates_per_s']:.0f}/s){render.score(policy['score'])}{acting}"
        )


def unmanaged_lines(report: dict[str, Any]) -> Iterator[str]:
    """Return the processes that use the mesh without being workers."""
    listed = {worker["pid"] for worker in report["workers"]}
    for process in report["foreign"]:
        if process["pid"] not in listed:
            holds = f", holds {', '.join(process['holds'])}" if process["holds"] else ""
            yield f"unmanaged   {process['name']} (pid {process['pid']}) {process['state']}{holds}"


def incident_lines(incidents: list[dict[str, Any]], newest: int = 5) -> Iterator[str]:
    """Return the newest incidents."""
    for incident in incidents[-newest:]:
        again = incident["running_s"]
        healed = (
            f"running again after {render.duration(again)}" if again >= 0 else "not running yet"
        )
        yield (
            f"incident    {render.moment(incident['at'])} {incident['worker']} "
            f"{incident['kind']}, {healed}: {incident['evidence']}"
        )


def _wait_ready(mesh: Mesh, report: dict[str, Any], seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while not (report["ready"] and report["state"] == "healthy") and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
        report = read_report(mesh)
    return report


def _one(mesh: Mesh, report: dict[str, Any], options: argparse.Namespace) -> int:
    """Print everything about one worker; the exit code is 0 while it runs."""
    found = [worker for worker in report["workers"] if worker["name"] == options.worker]
    if not found:
        names = ", ".join(worker["name"] for worker in report["workers"]) or "none"
        raise CommandFailed(
            f"no worker {options.worker!r} in {mesh.path}; there are {names}", Exit.USAGE
        )
    worker = found[0]
    said = read_cell(mesh, status_segment(options.worker))
    incidents = [each for each in report["incidents"] if each["worker"] == options.worker]
    if options.format == "json":
        print(as_json({**worker, "status": said, "incidents": incidents}))
    else:
        shown = {k: v for k, v in worker.items() if k not in {"since", "resident_bytes"}}
        shown["memory"] = render.size(worker["resident_bytes"])
        shown["since"] = render.moment(worker["since"]) if worker["since"] else "-"
        print("\n".join(render.pairs({**shown, "status": said})))
        print("\n".join(incident_lines(incidents)), end="\n" if incidents else "")
    if report["state"] == "down":
        return Exit.DOWN
    return Exit.HEALTHY if worker["state"] == "running" else Exit.DEGRADED
