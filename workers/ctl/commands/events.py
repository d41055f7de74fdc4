"""`meshctl events`: the events in the daemon's ring, and its incidents in full."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mesh.plain import PlainRing
from workers.contract.names import EVENTS, SUPERVISOR
from workers.ctl import render
from workers.ctl.commands.show import attach
from workers.ctl.failure import CommandFailed, Exit
from workers.ctl.report import read_cell

if TYPE_CHECKING:
    from mesh import Mesh

WAIT_S = 1.0
STYLES = {"warning": render.STRONG, "error": render.BAD}


def events(mesh: Mesh, options: argparse.Namespace) -> int:
    """Print the newest events, and with --follow each new one; or the incidents.

    Raises:
        CommandFailed: There is no ring of events in this mesh.
    """
    if options.incidents:
        return _incidents(mesh, options)
    ring = attach(mesh, EVENTS)
    if not isinstance(ring, PlainRing):
        raise CommandFailed(f"the segment events in {mesh.path} is a {ring.info.kind}, not a ring")
    reader = ring.reader(ring.oldest)
    chosen = [each for each in reader.read(ring.capacity) if _matches(each, options)]
    for event in chosen[-options.records :] if options.records > 0 else []:
        _print(event, options)
    while options.follow:
        sys.stdout.flush()
        reader.wait_published(WAIT_S)
        for event in reader.read(ring.capacity):
            if _matches(event, options):
                _print(event, options)
    return Exit.HEALTHY


def _matches(event: dict[str, Any], options: argparse.Namespace) -> bool:
    return options.worker is None or event["worker"] == options.worker


def _print(event: dict[str, Any], options: argparse.Namespace) -> None:
    if options.format == "json":
        print(render.as_json(event, indent=None))
        return
    print(line(event))


def line(event: dict[str, Any]) -> str:
    """Return an event as one line for people."""
    style = STYLES.get(event["severity"])
    number = f" #{event['incident']}" if event.get("incident") else ""
    kind = render.styled(f"{event['kind']:<12}", style)
    where = event["worker"] or "meshd"
    return f"{render.moment(event['ts'] / 1e9)}  {where:<12} {kind}{number} {text(event)}".rstrip()


def text(event: dict[str, Any]) -> str:
    """Return the text of an event; empty if it only repeats the kind."""
    return "" if event["text"] == event["kind"] else str(event["text"])


def _incidents(mesh: Mesh, options: argparse.Namespace) -> int:
    """Print each incident in full: evidence, times, locks and leases freed."""
    known = read_cell(mesh, SUPERVISOR).get("incidents", [])
    chosen = [i for i in known if options.worker in {None, i["worker"]}][-options.records :]
    if options.format == "json":
        print(render.as_json(chosen))
        return Exit.HEALTHY
    for incident in chosen:
        recovery_s = incident["running_s"]
        freed = incident["locks_broken"] + incident["leases_broken"]
        shown = {
            "detected after": render.duration(incident["detected_s"]),
            "running after": render.duration(recovery_s) if recovery_s >= 0 else "not yet",
            "evidence": incident["evidence"],
            "freed": ", ".join(freed) or "nothing",
            "report": incident["report"] or "-",
        }
        head = f"{render.moment(incident['at'])}  {incident['worker']}  {incident['kind']}"
        print(render.styled(head, render.STRONG))
        print("\n".join(render.pairs(shown, "  ")))
    if not chosen:
        print("no incidents")
    return Exit.HEALTHY
