"""Time to the first output of `meshctl` commands, from the start of the process.

Of `top` it is the time to its first whole frame on a terminal. The peer is the least a Python
program pays that reads numpy records: `import numpy`, then a line; the limit is Python's own start.
Commands and peers run in turn, so that a busy host is fair to all; the mesh has the segments of a
loop with two trainers. Commands that ask the daemon are measured on a daemon of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from mesh import Mesh
from tests.daemons import Daemon, until
from tests.workers.ctl.conftest import Loop
from workers.contract.dtypes import TICK_DTYPE
from workers.contract.names import policy_segment

ROUNDS = 15
PROMISE_MS = 150.0
ROOT = Path(__file__).parent.parent
COMMANDS = (
    "--help",
    "status",
    "status --format json",
    "segments",
    "show ticks",
    "show quotes",
    "show policy/td3-1",
    "tail ticks --no-follow",
    "locks",
    "events",
    "doctor",
    "completion bash",
    "words workers",
)
ASKING = (
    "status --wait-ready 60",
    "top",
    "stop second",
    "start second",
    "restart first",
    "reset first",
    "break-lock free",
    "reload",
)
WORKERS = """
[workers.first]
worker = "tests.sample_workers:Counting"
[workers.second]
worker = "tests.sample_workers:Counting"
required = false
"""


def loop(path: Path) -> list[object]:
    """Fill a mesh with the segments of a loop at the sizes of a running one.

    The segments are those of the tests of meshctl; this process is every writer.
    """
    made = Loop(path, records=1 << 16, rows=8192)
    for key in range(300):
        made.quotes.write(f"K{key}", np.zeros(1, TICK_DTYPE)[0])
    like = {"w0": np.zeros((256, 1600), "<f4"), "w1": np.zeros((256, 256), "<f4")}
    policy = made.mesh.tensors(policy_segment("td3-1"), like=like, create=True)
    policy.publish(like)
    return [made, policy]


def busy(path: Path) -> None:
    """Publish as fast as it goes into a ring and a table, until killed."""
    mesh = Mesh(path)
    ring = mesh.ring("busy/ticks", TICK_DTYPE, capacity=1 << 14, create=True)
    table = mesh.table("busy/quotes", TICK_DTYPE, rows=1024, create=True)
    rows = np.zeros(256, TICK_DTYPE)
    while True:
        ring.publish(rows)
        table.write("K", rows[0])


def first_output_ms(command: list[str]) -> float:
    """Milliseconds from the start of a process to its first byte of output."""
    began = time.perf_counter_ns()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as child:
        assert child.stdout is not None
        os.read(child.stdout.fileno(), 1)
        elapsed = time.perf_counter_ns() - began
        child.stdout.read()
    return elapsed / 1e6


def first_frame_ms(command: list[str]) -> float:
    """Milliseconds from the start of a process to the end of what it first draws on a terminal."""
    began = time.perf_counter_ns()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, {**os.environ, "TERM": "xterm-256color"})
    drawn = b""
    while b"\x1b[J" not in drawn:  # what follows the last line of a frame
        drawn += os.read(terminal, 1 << 16)
    elapsed = time.perf_counter_ns() - began
    os.write(terminal, b"q")
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        with contextlib.suppress(OSError):  # its end was closed
            os.read(terminal, 1 << 16)
    os.close(terminal)
    return elapsed / 1e6


def measure(ctl: list[str], load: str, commands: tuple[str, ...] = COMMANDS) -> None:
    """Print one JSON line a command; commands and peers run in turn."""
    peers = {
        "python": [sys.executable, "-c", "print(1)"],
        "numpy": [sys.executable, "-c", "import numpy; print(1)"],
    }
    runs = {**peers, **{name: [*ctl, *name.split()] for name in commands}}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, command in runs.items():
            timed = first_frame_ms if name == "top" else first_output_ms
            times[name].append(timed(command))
    limit, peer = median(times["python"]), median(times["numpy"])
    for name in commands:
        value = median(times[name])
        print(
            json.dumps(
                {
                    "bench": f"ctl.first_output{load} {name}",
                    "value": round(value, 1),
                    "unit": "ms",
                    "p90": round(quantiles(times[name], n=10)[8], 1),
                    "limit": round(limit, 1),
                    "peer": round(peer, 1),
                    "ratio": round(value / peer, 2),
                    "promise": PROMISE_MS,
                }
            )
        )


def ask_a_daemon(script: str) -> None:
    """Measure the commands that ask a daemon, on one that has nothing else to do."""
    with tempfile.TemporaryDirectory() as directory:
        one = Daemon(directory, WORKERS)
        try:
            one.start()
            until("ready", lambda: one.status()["ready"])
            free = one.mesh.lock("free", create=True)
            free.acquire(1.0)
            free.release()
            measure([script, "--mesh", str(one.mesh_path)], ".daemon", ASKING)
        finally:
            one.clean()


def main() -> None:
    """Measure on a quiet mesh, then beside a writer that publishes into it at full speed."""
    if sys.argv[1:2] == ["--busy"]:
        busy(Path(sys.argv[2]))
    path = Path(tempfile.mkdtemp(prefix="ctl-bench-", dir="/dev/shm"))
    kept = loop(path)
    script = Path(sysconfig.get_path("scripts"), "meshctl")  # what users run, as pip writes it
    ctl = [str(script), "--mesh", str(path)]
    writer = None
    try:
        measure(ctl, "")
        writer = subprocess.Popen([sys.executable, __file__, "--busy", str(path)])
        measure(ctl, ".busy")
    finally:
        if writer is not None:
            writer.kill()
            writer.wait()
        shutil.rmtree(path)
    del kept
    ask_a_daemon(str(script))


if __name__ == "__main__":
    main()
