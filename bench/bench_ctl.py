"""Time to the first output of `meshctl` commands, from the start of the process.

The peer is the least a Python program pays that reads numpy records: `import numpy`, then a line;
the limit is Python's own start. Commands and peers run in turn, so that a busy host is fair to
all; the mesh has the segments of a loop with two trainers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from mesh import Mesh, ProcessIdentity
from workers.records import (
    EVENT_DTYPE,
    EVENTS,
    EXPERIENCE,
    EXPERIENCE_DTYPE,
    QUOTES,
    SUPERVISOR,
    TICK_DTYPE,
    TICKS,
    FeederStatus,
    IngestStatus,
    SupervisorStatus,
    TrainerStatus,
    WorkerStatus,
    policy_segment,
    status_segment,
)

ROUNDS = 15
PROMISE_MS = 150.0
ROOT = Path(__file__).parent.parent
COMMANDS = ("--help", "status", "status --format json", "segments", "show ticks", "show quotes",
            "show policy/td3-0", "tail ticks --no-follow", "locks", "events", "doctor",
            "completion bash", "words workers")  # fmt: skip


def loop(mesh: Mesh) -> list[object]:
    """Fill a mesh with the segments of a loop, this process being every writer."""
    me = ProcessIdentity.current()
    names = ("ingest", "feeder", "td3-0", "td3-1")
    kinds = (IngestStatus, FeederStatus, TrainerStatus, TrainerStatus)
    rows = [WorkerStatus(n, f"workers.{n}:X", me.pid, "running", 0, start_time=me.start_time)
            for n in names]  # fmt: skip
    said = SupervisorStatus(me.pid, me.start_time, 0.0, "0", "bench", "healthy", workers=rows)
    cell = mesh.cell(SUPERVISOR, SupervisorStatus, create=True, max_bytes=1 << 17)
    cell.write(said)
    kept: list[object] = [cell]
    for name, kind in zip(names, kinds, strict=True):
        status = mesh.cell(status_segment(name), kind, create=True, max_bytes=1 << 14)
        status.write(kind())
        kept.append(status)
    hearts = mesh.heartbeats(create=True)
    for name in names:
        heart = hearts.claim(name)
        heart.ready()
    for name, dtype, capacity in ((TICKS, TICK_DTYPE, 1 << 17), (EVENTS, EVENT_DTYPE, 4096),
                                  (EXPERIENCE, EXPERIENCE_DTYPE, 1 << 16)):  # fmt: skip
        ring = mesh.ring(name, dtype, capacity=capacity, create=True)
        ring.publish(np.zeros(1000, dtype))
        kept.append(ring)
    quotes = mesh.table(QUOTES, TICK_DTYPE, rows=8192, create=True)
    for key in range(300):
        quotes.write(f"K{key}", np.zeros(1, TICK_DTYPE)[0])
    like = {"w0": np.zeros((256, 1600), "<f4"), "w1": np.zeros((256, 256), "<f4")}
    for trainer in ("td3-0", "td3-1"):
        policy = mesh.tensors(policy_segment(trainer), like=like, create=True)
        policy.publish(like)
        kept.append(policy)
    return [*kept, quotes, hearts]


def first_output_ms(command: list[str]) -> float:
    """Milliseconds from the start of a process to its first byte of output."""
    began = time.perf_counter_ns()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as child:  # fmt: skip
        assert child.stdout is not None
        os.read(child.stdout.fileno(), 1)
        elapsed = time.perf_counter_ns() - began
        child.stdout.read()
    return elapsed / 1e6


def main() -> None:
    """Print one JSON line a command."""
    path = Path(tempfile.mkdtemp(prefix="ctl-bench-", dir="/dev/shm"))
    kept = loop(Mesh(path))
    peers = {
        "python": [sys.executable, "-c", "print(1)"],
        "numpy": [sys.executable, "-c", "import numpy; print(1)"],
    }
    ctl = [sys.executable, "-m", "mesh.ctl.cli", "--mesh", str(path)]
    runs = {**peers, **{name: [*ctl, *name.split()] for name in COMMANDS}}
    times: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for _ in range(ROUNDS):
            for name, command in runs.items():
                times[name].append(first_output_ms(command))
    finally:
        shutil.rmtree(path)
    del kept
    limit, peer = median(times["python"]), median(times["numpy"])
    for name in COMMANDS:
        value = median(times[name])
        print(json.dumps({
            "bench": f"ctl.first_output {name}", "value": round(value, 1), "unit": "ms",
            "p90": round(quantiles(times[name], n=10)[8], 1), "limit": round(limit, 1),
            "peer": round(peer, 1), "ratio": round(value / peer, 2), "promise": PROMISE_MS,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
