"""`meshctl tail`: what is there, and what comes."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.daemons import ROOT


def test_what_is_there(meshctl):
    """The newest records with their sequences, chosen fields only."""
    code, out, _ = meshctl("tail", "ticks", "-n", "2", "--no-follow", "--fields", "symbol,bid")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["3", "symbol=SYNX", "bid=3"],
        ["4", "symbol=SYNX", "bid=4"],
    ]


def test_no_field_of_that_name(meshctl):
    """An unknown field is refused with the known ones."""
    code, _, err = meshctl("tail", "ticks", "--fields", "price")
    assert (code, "no field 'price'" in err, "bid" in err) == (64, True, True)


def test_what_comes(loop):
    """Each new record is printed, in order, without a gap."""
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "workers.ctl.cli",
            "--mesh",
            str(loop.mesh.path),
            "tail",
            "ticks",
            "-n",
            "1",
            "--format",
            "json",
        ],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        found = [json.loads(child.stdout.readline())["sequence"]]
        for _ in range(3):
            loop.publish(4)
            found += [json.loads(child.stdout.readline())["sequence"] for _ in range(4)]
        child.terminate()
    assert found == list(range(4, 17))
