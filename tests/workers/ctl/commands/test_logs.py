"""`meshctl logs`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.daemons import ROOT, until
from workers.ctl.commands.logs import last_lines, line


@pytest.fixture
def log(loop):
    """A worker's log with numbered lines, larger than one read."""
    loop.logs.mkdir()
    path = loop.logs / "td3-0.log"
    path.write_text("".join(f"line {i} {'x' * 100}\n" for i in range(2000)))
    return path


def test_the_last_lines(log):
    """Exactly as many as asked for, read from the end."""
    lines, end = last_lines(log, 900)
    assert [text.split()[1] for text in lines] == [str(i) for i in range(1100, 2000)]
    assert end == log.stat().st_size
    assert last_lines(log, 0)[0] == []
    assert len(last_lines(log, 5000)[0]) == 2000


def test_a_line_that_is_being_written_waits(log):
    """Half a line is not shown; the place to go on from is its start."""
    end = log.stat().st_size
    with log.open("a") as file:
        file.write("half")
    lines, place = last_lines(log, 1)
    assert (lines[0].split()[1], place) == ("1999", end)


def test_an_unknown_log_names_the_known(log, meshctl):
    """A name with a path in it reaches no other file."""
    for name in ("nope", "../td3-0", str(log)):
        code, out, err = meshctl("logs", name)
        assert (code, out, "there are td3-0" in err) == (64, "", True)


def test_json_lines_are_made_readable():
    """Time, level, event and the fields; other lines stay as they are."""
    entry = {
        "worker": "a",
        "event": "ready",
        "level": "info",
        "n": 3,
        "timestamp": "2026-01-05T14:30:00.123456Z",
    }
    assert line(json.dumps(entry)) == "14:30:00.123  info     ready n=3"
    assert line("Traceback (most recent call last):") == "Traceback (most recent call last):"
    assert line("[1, 2]") == "[1, 2]"


def test_following_goes_through_a_rotation(log, loop):
    """What is added to the file that took the name is printed too."""
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "workers.ctl.cli",
            "--mesh",
            str(loop.mesh.path),
            "logs",
            "td3-0",
            "-n",
            "1",
            "-f",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("line 1999")
        with log.open("a") as old:
            old.write("added\n")
        assert child.stdout.readline() == "added\n"
        log.rename(log.with_suffix(".log.1"))
        log.write_text("after\n")
        assert child.stdout.readline() == "after\n"
        child.terminate()
    until("gone", lambda: child.returncode is not None)
