"""Write docs/lifecycle.md from the table: `python -m workers.supervision.state_machine_page`."""

from __future__ import annotations

import sys

from workers.supervision.state_machine import IGNORED, TRANSITIONS, Event, State

HEAD = """# The life of a worker

Made by `make docs` from `TRANSITIONS` in `workers/supervision/state_machine.py`. Everything that
happens to a worker (exits, signals, timers, heartbeats, requests) is an event of this table; the
daemon's loop performs the action. Pairs not shown are ignored on purpose.

"""


def page() -> str:
    """Return the page: a drawing, the table, and what is ignored."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.WAITING}"]
    lines += [
        f"    {before} --> {after}: {event} / {action}"
        for (before, event), (after, action) in TRANSITIONS.items()
    ]
    lines += ["```", "", "| state | event | next state | action |", "|---|---|---|---|"]
    lines += [
        f"| {before} | {event} | {after} | {action} |"
        for (before, event), (after, action) in TRANSITIONS.items()
    ]
    lines += ["", "## Ignored", ""]
    for event in Event:
        states = [str(state) for state in State if (state, event) in IGNORED]
        lines.append(f"- `{event}` in {', '.join(states)}")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
