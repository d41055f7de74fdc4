"""The JSON of `meshctl status` against the page that promises it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from workers.ctl.cli import COMMANDS

PAGE = Path(__file__).parents[3] / "docs" / "meshctl.md"
ROW = re.compile(r"^\| `(?P<key>[a-z][\w.\[\]]*|[a-z][\w.\[\]A-Z]*)` \| (?P<type>[^|]+) \|")
TYPES = {
    "text": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "list of text": list,
    "number or null": (int, float, type(None)),
}
NAMED = {"flow.policies", "flow.gates"}  # tables by name


def test_the_page_describes_every_command():
    """Each command of the table has its row, and no row is without a command."""
    text = PAGE.read_text().partition("| command | does |")[2].partition("## Exit codes")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    described = {word for row in rows for word in re.findall(r"`?([a-z][a-z-]+)", row)}
    commands = {command.name for command in COMMANDS if command.help}
    assert described - {"check", "bash", "zsh", "fish", "out"} == commands


def promised():
    """Key and type of every row of the page's table."""
    text = PAGE.read_text().partition("## The JSON of")[2]
    return {m["key"]: m["type"].strip() for line in text.splitlines() if (m := ROW.match(line))}


def flat(value, path=""):
    """(key as the page writes it, value) of everything in a report."""
    if isinstance(value, dict):
        for name, below in value.items():
            key = "NAME" if path in NAMED else name
            yield from flat(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for below in value:
            yield from flat(below, f"{path}[]")
    else:
        yield path, value


def test_status_prints_what_the_page_promises(loop, meshctl):
    """Every promised key is there with its type, and no key is there without a promise."""
    with loop.lock:
        code, out, _ = meshctl("status", "--format", "json")
    assert code == 0
    found = list(flat(json.loads(out)))
    assert {key for key, _ in found} == set(promised())
    wrong = [(key, value) for key, value in found if not isinstance(value, TYPES[promised()[key]])]
    assert not wrong


def test_a_mesh_that_is_not_there_keeps_the_contract(meshctl, tmp_path):
    """Without a mesh the same top-level keys are printed, and the state is down."""
    code, out, _ = meshctl("status", "--mesh", str(tmp_path / "none"), "--format", "json")
    report = json.loads(out)
    assert (code, report["state"]) == (2, "down")
    assert set(report) == {key.partition(".")[0].partition("[")[0] for key in promised()}
    assert not (tmp_path / "none").exists()
