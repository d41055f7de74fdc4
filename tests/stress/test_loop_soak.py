"""Minutes of random kills of everything, the daemon included: the loop neither ends nor lies."""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import pytest

from tests.daemons import alive, daemon, until
from tests.flow import LOOP, SMALL, TRAINERS, Sequence, reconciles, status

pytestmark = [pytest.mark.stress, pytest.mark.broker]
SECONDS = 100.0
VICTIMS = ("replayer", "ingest", "feeder", *TRAINERS, "daemon")
SETTINGS = "[replayer]\nspeed = 300.0\n[ingest]\nring_capacity = 2097152\n" + SMALL


def hurt(one, rng):
    """Kill or stop one process; return what was done, for the message of a failure."""
    victim = rng.choice(VICTIMS)
    if victim == "daemon":
        one.process.kill()
        one.process.wait()
        one.start()
        return "daemon killed"
    number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
    pid = one.running(victim)
    os.kill(pid, number)
    one.running(victim, other_than=pid)
    return f"{victim} {number.name}"


def test_i5_i7_random_kills_for_minutes(tmp_path):
    """After every kill: all run again, ticks and experience go on without gap or repeat."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    done = []
    with daemon(tmp_path, LOOP, SETTINGS) as one:
        until("a policy acts", lambda: status(one, "feeder")["acting_version"] > 0, 120)
        ticks = Sequence(one.mesh.attach("ticks"))
        experience = Sequence(one.mesh.attach("experience"))
        end = time.monotonic() + SECONDS
        try:
            while time.monotonic() < end:
                done.append(hurt(one, rng))
                before = status(one, "feeder")["experience"], status(one, "ingest")["published"]
                until(
                    "progress",
                    lambda was=before: (
                        status(one, "feeder")["experience"] > was[0]
                        and status(one, "ingest")["published"] > was[1]
                    ),
                )
                ticks.read_ticks()
                rows = experience.read()
                lanes = int(rows["lanes"][0])
                assert (rows["lane"] == [s % lanes for s in range(rows.size)]).all()
                assert reconciles(status(one, "ingest"))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, after {done[-5:]}: {error}") from error
        pids = [worker["pid"] for worker in one.status()["workers"]]
        assert all(alive(pid) for pid in pids)
        assert one.stop() == 0
        assert not any(alive(pid) for pid in pids)
    counted = {what: done.count(what) for what in sorted(set(done))}
    sys.stdout.write(f"{len(done)} faults in {SECONDS:g} s: {counted}\n")
