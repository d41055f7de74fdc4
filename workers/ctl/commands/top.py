"""`meshctl top`: the report on the whole screen, again and again, with keys.

The only command that loads rich. Styles are bold, reverse and the terminal's own green, red and
magenta, which a light ground and a dark one both show.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mesh.control import ControlRequest, ControlUnavailable, ask
from mesh.plain import PlainRing
from workers.ctl import render
from workers.ctl.commands.logs import last_lines
from workers.ctl.commands.logs import line as log_line
from workers.ctl.commands.status import worker_says, worker_state
from workers.ctl.failure import CommandFailed, Exit
from workers.ctl.report import read_report
from workers.ctl.terminal import keys

if TYPE_CHECKING:
    from mesh import Mesh

STYLES = {
    "healthy": "green",
    "running": "green",
    "degraded": "reverse",
    "starting": "reverse",
    "backoff": "reverse",
    "stopping": "reverse",
    "down": "bold red",
    "dead": "bold red",
    "quarantined": "bold red",
}
SEVERITIES = {"warning": "bold", "error": "bold red"}
SORTS = ("order", "cpu", "memory", "rate", "restarts")
HELP = "q quit  s sort  up/down choose  r restart  l log  h help"
MESSAGE_S = 8.0
RATE_S = 5.0  # span over which rates are taken


class Screen:
    """What is shown, what is chosen, and the looks of the last seconds for the rates."""

    def __init__(self, mesh: Mesh, title: str = "") -> None:
        """Look at `mesh`; `title` stands at the foot."""
        self.mesh = mesh
        self.title = title
        self._said: tuple[float, str] = (0.0, "")
        self.sort = SORTS[0]
        self.chosen = 0
        self.view = "workers"  # workers, log, help
        self.asked: str | None = None  # worker whose restart is to be confirmed
        self.looks: deque[tuple[float, dict[str, Any]]] = deque(maxlen=64)
        self.report: dict[str, Any] = {}
        self.refresh()

    def say(self, message: str) -> None:
        """Show a message at the foot for a while."""
        self._said = time.monotonic(), message

    @property
    def message(self) -> str:
        """What was said a moment ago."""
        at, message = self._said
        return message if time.monotonic() - at < MESSAGE_S else ""

    def refresh(self) -> None:
        """Read the mesh."""
        self.report = read_report(self.mesh)
        now = time.monotonic()
        self.looks.append((now, self.report))
        while len(self.looks) > 2 and now - self.looks[0][0] > RATE_S:
            self.looks.popleft()

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers, each with its rates, in the chosen order."""
        before, span = self._before()
        old = {worker["name"]: worker for worker in before["workers"]}
        rows = []
        for worker in self.report["workers"]:
            was = old.get(worker["name"], worker)
            same = was["pid"] == worker["pid"] and span > 0
            rows.append(
                {
                    **worker,
                    "cpu": (worker["processor_s"] - was["processor_s"]) / span if same else 0.0,
                    "rate": (worker["progress"] - was["progress"]) / span if same else 0.0,
                }
            )
        key = {"memory": "resident_bytes"}.get(self.sort, self.sort)
        return rows if key == "order" else sorted(rows, key=lambda w: -float(w[key]))

    def rate(self, key: str) -> float:
        """Return how fast a counter of the flow grows, per second."""
        before, span = self._before()
        grown = self.report["flow"][key] - before["flow"][key]
        return max(0.0, grown / span) if span > 0 else 0.0

    def _before(self) -> tuple[dict[str, Any], float]:
        then, report = self.looks[0]
        return report, self.looks[-1][0] - then

    def press(self, key: str) -> bool:
        """Act on a key; False: leave."""
        workers = self.workers()
        if self.asked is not None:
            if key in {"y", "enter"}:
                self.say(self._restart(self.asked))
            self.asked = None
        elif self.view != "workers":
            self.view = "workers"
        elif key == "q":
            return False
        elif key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
            self.say(f"sorted by {self.sort}")
        elif key in {"up", "k", "down", "j"}:
            step = 1 if key in {"down", "j"} else -1
            self.chosen = max(0, min(len(workers) - 1, self.chosen + step))
        elif key == "r" and workers:
            self.asked = workers[min(self.chosen, len(workers) - 1)]["name"]
        elif key == "l" and workers:
            self.view = "log"
        elif key in {"h", "?"}:
            self.view = "help"
        return True

    def _restart(self, worker: str) -> str:
        try:
            return ask(self.mesh.path, ControlRequest("restart", worker)).text
        except ControlUnavailable as error:
            return str(error)


def picture(screen: Screen, width: int, height: int) -> RenderableType:
    """Draw the screen for a terminal of this size."""
    head = [_headline(screen, width), *_flow(screen)]
    if screen.view == "log":
        body = _log(screen, height - len(head) - 2)
        return Group(*head, Text(), *body)
    if screen.view == "help":
        return Group(*head, Text(), *_help())
    workers = screen.workers()
    room = height - len(head) - len(workers) - 4
    events = _events(screen, max(0, room))
    parts: list[RenderableType] = [*head, Text(), _workers(screen, workers, width), Text(), *events]
    filled = len(head) + len(workers) + 3 + len(events)
    parts += [Text()] * max(0, height - filled - 1)
    return Group(*parts, _foot(screen))


def _headline(screen: Screen, width: int) -> Text:
    report, daemon = screen.report, screen.report["daemon"]
    line = Text("tradingmesh ", style="bold", no_wrap=True, overflow="ellipsis")
    line.append(f" {report['state']} ", style=STYLES[report["state"]])
    if daemon["alive"]:
        up = render.since(daemon["since"])
        line.append(f"  meshd pid {daemon['pid']} up {up}", style="not bold")
    elif daemon["pid"]:
        line.append("  the daemon is dead; the workers run on", style="bold red")
    if report["safe_state"]:
        line.append(f"  acting stopped: {report['safe_state']}", style="bold red")
    clock = time.strftime("%H:%M:%S")
    path = str(screen.mesh.path)
    gap = width - line.cell_len - len(clock) - len(path) - 2
    if gap > 0:
        line.append(" " * gap + path + "  " + clock, style="not bold")
    return line


def _flow(screen: Screen) -> list[Text]:
    flow = screen.report["flow"]
    rest = sum(flow[key] for key in ("dropped", "conflated", "skipped"))
    lines = [
        Text.assemble(
            ("messages   ", "bold"),
            f"{flow['consumed']:,} in ({screen.rate('consumed'):,.0f}/s) = "
            f"{flow['published']:,} published + {flow['dead_lettered']:,} dead-lettered"
            + (f" + {rest:,} dropped" if rest else ""),
        ),
        Text.assemble(
            ("experience ", "bold"),
            f"{flow['experience']:,} records ({screen.rate('experience'):,.0f}/s) of "
            f"{flow['market_states']:,} market states",
        ),
    ]
    policies = Text.assemble(("policies   ", "bold"))
    for name, policy in flow["policies"].items():
        if policies.cell_len > 11:
            policies.append("   ")
        policies.append(f"{name} v{policy['version']}", style="magenta" if policy["acting"] else "")
        policies.append(f" {policy['updates']:,} updates ({policy['updates_per_s']:.0f}/s)")
        policies.append(render.score(policy["score"]).replace(",", ""))
        policies.append(" acting" if policy["acting"] else "", style="magenta")
    lines.append(policies)
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def _workers(screen: Screen, workers: list[dict[str, Any]], width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", width=width)
    right = {"PID", "CPU", "MEM", "BEAT", "PROGRESS", "RATE", "RESTARTS", "#"}
    titles = ["WORKER", "STATE", "PID", "CPU", "MEM", "BEAT", "RATE", "#", ""]
    if width < 66:  # a name and a state that can be read are worth more than numbers
        titles = ["WORKER", "STATE", "BEAT", "RATE", ""]
    elif width >= 110:
        titles[5:8] = ["PHASE", "BEAT", "PROGRESS", "RATE", "RESTARTS"]
    for title in titles:
        table.add_column(
            title,
            justify="right" if title in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if title == "" else None,
        )
    for index, worker in enumerate(workers):
        state = worker_state(worker)
        cells = {
            "WORKER": worker["name"],
            "STATE": Text(state, style=STYLES.get(state, "")),
            "PID": str(worker["pid"] or "-"),
            "CPU": f"{worker['cpu'] * 100:.0f}%",
            "MEM": render.size(worker["resident_bytes"]),
            "PHASE": worker["phase"],
            "BEAT": render.duration(worker["beat_age_s"]),
            "PROGRESS": f"{worker['progress']:,}",
            "RATE": f"{worker['rate']:,.0f}/s",
            "RESTARTS": str(worker["restarts"]),
            "#": str(worker["restarts"]),
            "": worker_says(worker),
        }
        style = "reverse" if index == screen.chosen else ""
        table.add_row(*(cells[title] for title in titles), style=style)
    return table


def _events(screen: Screen, count: int) -> list[Text]:
    """Return the newest events, the newest last."""
    ring = None
    if any(info.name == "events" for info in screen.mesh.segments()):
        found = screen.mesh.attach_plain("events")
        ring = found if isinstance(found, PlainRing) else None
    if ring is None or count < 2:
        return []
    first = max(ring.oldest, ring.published - (count - 1))
    lines = [Text("EVENTS", style="bold")]
    for event in ring.reader(first).read(max_records=count):
        line = Text(f"{render.moment(event['ts'] / 1e9)}  ", no_wrap=True, overflow="ellipsis")
        line.append(f"{event['worker'] or 'meshd':<12} ")
        line.append(f"{event['kind']:<12} ", style=SEVERITIES.get(event["severity"], ""))
        line.append(event["text"])
        lines.append(line)
    return lines


def _log(screen: Screen, count: int) -> list[Text]:
    """Return the end of the chosen worker's log."""
    workers = screen.workers()
    name = workers[min(screen.chosen, len(workers) - 1)]["name"]
    path = Path(screen.report["daemon"]["logs"]) / f"{name}.log"
    try:
        found = last_lines(path, count)[0]
    except OSError as error:
        found = [str(error)]
    lines = [Text(f"{path} (any key: back)", style="bold", no_wrap=True, overflow="ellipsis")]
    for text in found:
        line = Text.from_ansi(log_line(text))
        line.no_wrap, line.overflow = True, "ellipsis"
        lines.append(line)
    return lines


def _help() -> list[Text]:
    rows = (
        ("q", "leave"),
        ("s", f"sort by {', '.join(SORTS)}"),
        ("up, down, k, j", "choose a worker"),
        ("r", "restart it (asks first)"),
        ("l", "the end of its log"),
        ("any key", "back"),
    )
    return [Text.assemble((f"{key:<16}", "bold"), what) for key, what in rows]


def _foot(screen: Screen) -> Text:
    if screen.asked is not None:
        return Text(f"restart {screen.asked}? y/n", style="bold reverse")
    if screen.message:
        return Text(screen.message, style="bold", no_wrap=True, overflow="ellipsis")
    left = screen.title
    return Text.assemble(
        (HELP, "bold"), f"   {left}" if left else "", no_wrap=True, overflow="ellipsis"
    )


def run_screen(
    mesh: Mesh, interval: float, *, title: str = "", tend: Callable[[], str] = str
) -> None:
    """Show the mesh until `q`; `tend` is called at every look and may give a message."""
    console = Console(highlight=False)
    screen = Screen(mesh, title)
    with keys(sys.stdin.fileno()) as keyboard, whole_screen(console):
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + interval
                if message := tend():
                    screen.say(message)
                screen.refresh()
            size = console.size = _terminal_size()
            paint(console, picture(screen, size.width, size.height))
            key = keyboard.wait(due - time.monotonic())
            if key and not screen.press(key):
                return


def _terminal_size() -> ConsoleDimensions:
    """Ask the terminal itself: COLUMNS, where it is exported, does not follow a resize."""
    try:
        columns, lines = os.get_terminal_size(sys.stdin.fileno())
    except OSError:  # it is gone; the next key says so
        columns = lines = 0
    return ConsoleDimensions(columns or 80, lines or 24)


@contextmanager
def whole_screen(console: Console) -> Iterator[None]:
    """Use the terminal's second screen without a cursor; the first comes back unchanged."""
    console.set_alt_screen()
    console.show_cursor(False)
    try:
        yield
    finally:
        console.show_cursor()
        console.set_alt_screen(False)


def paint(console: Console, what: RenderableType) -> None:
    """Write a picture over the last one: each line to its end, and nothing below the last."""
    with console.capture() as captured:
        console.print(what, end="")
    lines = captured.get().splitlines()
    if len(lines) > console.size.height:  # the foot is worth more than the last events
        lines = [*lines[: console.size.height - 1], lines[-1]]
    sys.stdout.write("\x1b[H" + "\x1b[K\n".join(lines) + "\x1b[J")
    sys.stdout.flush()


def top(mesh: Mesh, options: argparse.Namespace) -> int:
    """Show the mesh on the terminal until `q`."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandFailed("needs a terminal; without one: meshctl status", Exit.USAGE)
    run_screen(mesh, max(0.1, options.interval))
    return Exit.HEALTHY
