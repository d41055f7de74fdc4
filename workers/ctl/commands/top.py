"""`meshctl top`: the report as a live screen with keys.

The only command that loads rich. It uses bold, reverse video and the terminal's own green, red and
magenta, which are readable on light and dark backgrounds.
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
from workers.ctl.commands.events import text as event_text
from workers.ctl.commands.logs import last_lines
from workers.ctl.commands.logs import line as log_line
from workers.ctl.commands.status import worker_state, worker_text
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
HELP = "q quit  s sort  up/down select  r restart  l log  h help"
MESSAGE_S = 8.0
RATE_S = 5.0  # span over which rates are taken


class Screen:
    """State of the screen: the report, the selection, and recent reports to compute rates from."""

    def __init__(self, mesh: Mesh, title: str = "") -> None:
        """Read `mesh` for the first time; `title` is shown in the last line."""
        self.mesh = mesh
        self.title = title
        self._notice: tuple[float, str] = (0.0, "")
        self.sort = SORTS[0]
        self.chosen = 0
        self.view = "workers"  # workers, log, help
        self.asked: str | None = None  # worker whose restart is to be confirmed
        self.samples: deque[tuple[float, dict[str, Any]]] = deque(maxlen=64)
        self.report: dict[str, Any] = {}
        self.refresh()

    def notify(self, message: str) -> None:
        """Show a message in the last line for `MESSAGE_S` seconds."""
        self._notice = time.monotonic(), message

    @property
    def message(self) -> str:
        """The message to show; empty when it has expired."""
        at, message = self._notice
        return message if time.monotonic() - at < MESSAGE_S else ""

    def refresh(self) -> None:
        """Read the mesh again."""
        self.report = read_report(self.mesh)
        now = time.monotonic()
        self.samples.append((now, self.report))
        while len(self.samples) > 2 and now - self.samples[0][0] > RATE_S:
            self.samples.popleft()

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers in the chosen order, with `cpu` (1.0: one core) and `rate` (per s)."""
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
        """Return how fast a counter of the flow grows, per second.

        Args:
            key: One of the counters in `flow` of the report.
        """
        before, span = self._before()
        grown = self.report["flow"][key] - before["flow"][key]
        return max(0.0, grown / span) if span > 0 else 0.0

    def _before(self) -> tuple[dict[str, Any], float]:
        then, report = self.samples[0]
        return report, self.samples[-1][0] - then

    def press(self, key: str) -> bool:
        """Handle a key.

        Returns:
            False if `top` is to end.
        """
        workers = self.workers()
        if self.asked is not None:
            if key in {"y", "enter"}:
                self.notify(self._restart(self.asked))
            self.asked = None
        elif self.view != "workers":
            self.view = "workers"
        elif key == "q":
            return False
        elif key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
            self.notify(f"sorted by {self.sort}")
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
    """Draw the screen for a terminal of `width` columns and `height` lines."""
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
        line.append("  the daemon is dead; the workers keep running", style="bold red")
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
            f"{flow['experience']:,} records ({screen.rate('experience'):,.0f}/s) from "
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
    gap = 2 if width >= 110 else 1  # 80 columns leave little room for the last column
    table = Table(
        box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", width=width
    )
    right = {"PID", "CPU", "MEM", "BEAT", "PROGRESS", "RATE", "RESTARTS", "RST"}
    titles = ["WORKER", "STATE", "PID", "CPU", "MEM", "BEAT", "RATE", "RST", "DETAIL"]
    if width < 66:  # leaves out numbers, so that names and states are not cut
        titles = ["WORKER", "STATE", "BEAT", "RATE", "DETAIL"]
    elif width >= 110:
        titles[5:8] = ["PHASE", "BEAT", "PROGRESS", "RATE", "RESTARTS"]
    for title in titles:
        table.add_column(
            title,
            justify="right" if title in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if title == "DETAIL" else None,
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
            "RST": str(worker["restarts"]),
            "DETAIL": worker_text(worker),
        }
        style = "reverse" if index == screen.chosen else ""
        table.add_row(*(cells[title] for title in titles), style=style)
    return table


def _events(screen: Screen, count: int) -> list[Text]:
    """Return lines with the newest events, oldest first."""
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
        line.append(event_text(event))
        lines.append(line)
    return lines


def _log(screen: Screen, count: int) -> list[Text]:
    """Return the last lines of the selected worker's log."""
    workers = screen.workers()
    name = workers[min(screen.chosen, len(workers) - 1)]["name"]
    path = Path(screen.report["daemon"]["logs"]) / f"{name}.log"
    try:
        found = last_lines(path, count)[0]
    except OSError as error:
        found = [str(error)]
    lines = [Text(f"{path} (any key returns)", style="bold", no_wrap=True, overflow="ellipsis")]
    for text in found:
        line = Text.from_ansi(log_line(text))
        line.no_wrap, line.overflow = True, "ellipsis"
        lines.append(line)
    return lines


def _help() -> list[Text]:
    rows = (
        ("q", "quit"),
        ("s", f"sort by {', '.join(SORTS)}"),
        ("up, down, k, j", "select a worker"),
        ("r", "restart the selected worker (asks first)"),
        ("l", "show the end of its log"),
        ("any key", "return to the workers"),
        ("", ""),
        ("BEAT", "time since the last heartbeat"),
        ("RATE", "progress per second, in the worker's own units"),
        ("RST", "restarts after failures"),
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
    mesh: Mesh, interval: float, *, title: str = "", before_refresh: Callable[[], str] = str
) -> None:
    """Show the mesh until `q` is pressed.

    Args:
        mesh: The mesh to show.
        interval: Seconds between updates.
        title: Text for the last line.
        before_refresh: Called before every update; the message it returns is shown, if any.
    """
    console = Console(highlight=False)
    screen = Screen(mesh, title)
    with keys(sys.stdin.fileno()) as keyboard, whole_screen(console):
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + interval
                if message := before_refresh():
                    screen.notify(message)
                screen.refresh()
            size = console.size = _terminal_size()
            paint(console, picture(screen, size.width, size.height))
            key = keyboard.wait(due - time.monotonic())
            if key and not screen.press(key):
                return


def _terminal_size() -> ConsoleDimensions:
    """Return the size from the terminal itself: an exported COLUMNS does not follow a resize."""
    try:
        columns, lines = os.get_terminal_size(sys.stdin.fileno())
    except OSError:  # the terminal was closed; reading a key will notice it
        columns = lines = 0
    return ConsoleDimensions(columns or 80, lines or 24)


@contextmanager
def whole_screen(console: Console) -> Iterator[None]:
    """Use the terminal's alternate screen without a cursor; restore the normal one afterwards."""
    console.set_alt_screen()
    console.show_cursor(False)
    try:
        yield
    finally:
        console.show_cursor()
        console.set_alt_screen(False)


def paint(console: Console, what: RenderableType) -> None:
    """Draw over the last frame and clear the rest of each line and of the screen."""
    with console.capture() as captured:
        console.print(what, end="")
    lines = captured.get().splitlines()
    if len(lines) > console.size.height:  # keep the last line, drop the last events
        lines = [*lines[: console.size.height - 1], lines[-1]]
    sys.stdout.write("\x1b[H" + "\x1b[K\n".join(lines) + "\x1b[J")
    sys.stdout.flush()


def top(mesh: Mesh, options: argparse.Namespace) -> int:
    """Show the mesh on the terminal until `q` is pressed.

    Raises:
        CommandFailed: Input or output is not a terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandFailed("needs a terminal; use meshctl status instead", Exit.USAGE)
    run_screen(mesh, max(0.1, options.interval))
    return Exit.HEALTHY
