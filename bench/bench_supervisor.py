"""What supervision costs and how fast it heals, beside what others reach on the same machine.

One JSON line a figure. Ours, the limit (a bare fork) and the peers run in turn in one call; peers
(supervisord, circus, gunicorn) come from a virtualenv of their own, made on first use, and are
skipped with a line where pip cannot bring them. A child is a Python process that writes its pid
and the time as its first line of user code.

    bench_supervisor.py [light] [heavy] [trainer] [hang] [daemon] [idle] [peers] [exposure]
    bench_supervisor.py starved     ten minutes (STARVED_S seconds); by its name alone
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from supervised import BORN

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mesh import Mesh, MeshError
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE

PEERS = ROOT / "build" / "bench-peers"
PEER_PACKAGES = ("supervisor==4.3.0", "circus==0.19.0", "gunicorn==26.2.0")
WATCHDOG_S = 120.0
#: As under a service manager: a daemon whose modules pip has compiled does not do so again.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def show(
    bench: str, value: float, unit: str, peer: float | None = None, ratio: float | None = None
) -> None:
    """Print one figure; `ratio` is ours over the peer's where it is not given."""
    line: dict[str, Any] = {"bench": f"supervisor.{bench}", "value": round(value, 3), "unit": unit}
    if peer is not None:
        line["peer"] = round(peer, 3)
        line["ratio"] = round(value / peer, 3) if peer and ratio is None else ratio
    print(json.dumps(line), flush=True)


def wait_for(what: str, condition: Callable[[], Any], nap_s: float = 0.0005) -> Any:
    """Return the first true value of `condition()`."""
    deadline = time.monotonic() + WATCHDOG_S
    while time.monotonic() < deadline:
        with contextlib.suppress(MeshError, KeyError, OSError, ValueError):
            if value := condition():
                return value
        select.select([], [], [], nap_s)
    raise TimeoutError(f"never: {what}")


def percentile(values: list[float], share: float) -> float:
    """The smallest value that is not exceeded by `share` of them."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class Daemon:
    """Our daemon with some workers of one class."""

    def __init__(self, kind: str, count: int = 1, more: str = "", extra: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-supervisor-"))
        self.path = Path(tempfile.mkdtemp(prefix="bench-supervisor-", dir="/dev/shm"))
        self.names = [f"w{n}" for n in range(count)]
        workers = "".join(
            f'[workers.{name}]\nworker = "supervised:{kind}"\n'
            f"restart = {{ intensity = 1000, healthy_s = 0.001 }}\n{more}\n"
            for name in self.names
        )
        self.profile = self.directory / "profile.toml"
        self.profile.write_text(
            f'run_directory = "{self.directory}"\n[mesh]\npath = "{self.path}"\n{workers}{extra}'
        )
        self.mesh = Mesh(self.path)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or the next one, and wait for nothing."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", "--profile", str(self.profile)],
            cwd=ROOT,
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT / "bench")},
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "meshd.log").open("ab"),
            start_new_session=True,
        )

    def status(self) -> dict[str, Any]:
        """SupervisorStatus as a dict."""
        status: dict[str, Any] = self.mesh.attach("supervisor").read()[1]  # type: ignore[union-attr] # a cell
        return status

    def running(self) -> dict[str, int] | None:
        """Pids by worker once all run."""
        rows = self.status()["workers"]
        up = all(row["state"] == "running" for row in rows)
        return {row["name"]: row["pid"] for row in rows} if up else None

    def worker_pid(self, name: str) -> int:
        """Pid of a worker, whatever it does."""
        pid: int = next(row["pid"] for row in self.status()["workers"] if row["name"] == name)
        return pid

    def beats(self) -> dict[str, int]:
        """Beats by worker, of its present process."""
        return {row.worker: row.beats for row in self.mesh.heartbeats().rows()}

    def silence(self) -> float:
        """Seconds since the last beat of the worker that is silent for longest."""
        rows, now = self.mesh.heartbeats().rows(), time.monotonic_ns()
        return max((now - row.beat_ns) / 1e9 for row in rows)

    def born(self, name: str) -> tuple[int, int]:
        """Pid and first moment (ns) of the newest process of a worker."""
        record = self.mesh.cell(f"born/{name}", BORN).read()[1]
        return int(record["pid"].item()), int(record["at_ns"].item())

    def settled(self, name: str) -> int:
        """Pid of a worker that runs and has said its first word; 0: not yet."""
        pid = (self.running() or {}).get(name, 0)
        return pid if self.born(name)[0] == pid else 0

    def heal(self, rounds: int, rest_s: float = 0.0) -> list[float]:
        """Kill the first worker again and again; seconds to the first line of user code.

        `rest_s` passes before each kill: a fork server forks its next child in that time.
        """
        name, times = self.names[0], []
        for _ in range(rounds):
            pid = wait_for("running", lambda: self.settled(name))
            select.select([], [], [], rest_s)
            killed = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            wait_for("replacement", lambda pid=pid: self.born(name)[0] != pid, 0.0002)
            times.append((self.born(name)[1] - killed) / 1e9)
        return times

    def close(self) -> None:
        """End it and what it started."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def daemon(kind: str, count: int = 1, more: str = "", extra: str = "") -> Iterator[Daemon]:
    """A running daemon whose workers are ready."""
    one = Daemon(kind, count, more, extra)
    try:
        one.start()
        wait_for("workers running", one.running)
        yield one
    finally:
        one.close()


def fork_limit(rounds: int) -> float:
    """Seconds from SIGKILL of a child to the first line of the next one, by a bare fork."""
    ours, its = os.pipe()

    def child() -> int:
        pid = os.fork()
        if pid == 0:
            os.write(its, time.monotonic_ns().to_bytes(8, "little"))
            while True:
                signal.pause()
        return pid

    times = []
    pid = child()
    os.read(ours, 8)
    for _ in range(rounds):
        killed = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pid = child()
        times.append((int.from_bytes(os.read(ours, 8), "little") - killed) / 1e9)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return median(times)


def bench_light() -> None:
    """Kill to first line of user code, of a light worker."""
    limit = fork_limit(50) * 1e3
    with daemon("LightWorker") as one:
        times = [t * 1e3 for t in one.heal(100)]
    show("light.restart.p50", median(times), "ms", limit)
    show("light.restart.p99", percentile(times, 0.99), "ms", limit)
    with daemon("LightWorker", more='nursery = "plain"') as one:
        times = [t * 1e3 for t in one.heal(60, 0.1)]
    show("light.restart.fork_server.p50", median(times), "ms", limit)
    show("light.restart.fork_server.p99", percentile(times, 0.99), "ms", limit)


def bench_heavy() -> None:
    """Kill to first line of user code, with torch and stable-baselines3 imported."""
    calm = "start_deadline_s = 300.0\nheartbeat_deadline_s = 10.0"
    with daemon("HeavyWorker", more=calm) as one:
        plain = median(t * 1e3 for t in one.heal(3))
    with daemon("HeavyWorker", more=f'nursery = "learner"\n{calm}') as one:
        times = [t * 1e3 for t in one.heal(15, 1.0)]
        pid = wait_for("running", lambda: one.settled("w0"))
        private = psutil.Process(pid).memory_full_info().uss
    show("heavy.ready.p50", median(times), "ms", plain)
    show("heavy.private_memory", private / 2**20, "MiB")


TRAINER = """
[workers.td3-0]
worker = "workers.trainer.worker:TrainerWorker"
start_deadline_s = 300.0
restart = { base_delay_s = 0.001, max_delay_s = 0.001, intensity = 1000 }
"""
LEARNING = "[trainer]\nlearning_starts = 2000\nevaluate_every = 0\nstate_every = 1\n"


def trained(one: Daemon) -> tuple[Any, Any]:
    """Feed experience to the trainer of a daemon; return the ring, and its state once it learns."""
    ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=8192, create=True)
    ring.publish(steps(128, 64))
    state = wait_for("a learner", lambda: one.mesh.attach("learner/td3-0"))
    wait_for("updates", lambda: state.version > 20)
    return ring, state


def trains_again(one: Daemon, state: Any) -> float:
    """Kill the trainer; seconds until the next one has stored its first update."""
    pid = wait_for("running", lambda: (one.running() or {})["td3-0"])
    before = state.version
    wait_for("updates", lambda: state.version > before + 20)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_for("successor", lambda: one.worker_pid("td3-0") not in {0, pid})
    before = state.version  # the next one is of the successor's first update
    wait_for("first update", lambda: state.version > before)
    return time.monotonic() - began


def bench_trainer() -> None:
    """Kill to the first update of the next trainer, which goes on with the state in the mesh."""
    times = {}
    for server, rounds in (("", 3), ("learner", 12)):
        more = f'{TRAINER}nursery = "{server}"\nheartbeat_deadline_s = 20.0\n{LEARNING}'
        with daemon("LightWorker", 0, extra=more) as one:
            ring, state = trained(one)
            found = []
            for _ in range(rounds):
                found.append(trains_again(one, state) * 1e3)
                select.select([], [], [], 0.5)  # the fork server forks its next child in that time
            times[server] = found
            ring.close()
    show("trainer.again.p50", median(times["learner"]), "ms", median(times[""]))
    show("trainer.again.max", max(times["learner"]), "ms")


BUSY = "while True: pass"


def bench_starved() -> None:
    """Eight busy processes beside two light workers and a trainer, all at the default deadline.

    Every 10 s the trainer is killed, so that beginnings are starved too; STARVED_S seconds (600).
    A kill by the daemon itself is a false one: nobody hangs here.
    """
    lasts = float(os.environ.get("STARVED_S", "600"))
    with daemon("LightWorker", 2, extra=f'{TRAINER}nursery = "learner"\n{LEARNING}') as one:
        ring, state = trained(one)
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(8)]
        try:
            seen, kills, longest, hung = one.beats(), 0, 0.0, set()
            until, kill_at = time.monotonic() + lasts, time.monotonic() + 10.0
            total = 0
            while (now := time.monotonic()) < until:
                select.select([], [], [], 0.05)
                beats = one.beats()
                total += sum(max(0, beats[name] - seen.get(name, 0)) for name in beats)
                seen = beats
                longest = max(longest, one.silence())
                hung |= {
                    (i["worker"], i["pid"], i["evidence"])
                    for i in one.status()["incidents"]
                    if i["kind"] != "exited"
                }
                if now >= kill_at and (pids := one.running()):
                    os.kill(pids["td3-0"], signal.SIGKILL)
                    kills, kill_at = kills + 1, now + 10.0
        finally:
            for process in busy:
                process.kill()
                process.wait()
        for incident in sorted(hung):
            print(json.dumps({"bench": "supervisor.starved.killed", "incident": incident}))
        show("starved.false_kills", len(hung), f"in {lasts:g} s")
        show("starved.kills_of_ours", kills, "times")
        show("starved.beats", total, "beats seen")
        show("starved.longest_silence", longest, "s")
        show("starved.updates", state.version, "updates")
        ring.close()


def bench_hang() -> None:
    """SIGSTOP to the verdict, at the default deadline; false kills are counted by the tests."""
    with daemon("LightWorker") as one:
        name, times = one.names[0], []
        for _ in range(15):
            pid = wait_for("running", lambda: one.settled(name))
            stopped = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            known = len(one.status()["incidents"])
            incident = wait_for("incident", lambda known=known: one.status()["incidents"][known:])[
                0
            ]
            times.append(incident["died_at"] - stopped)
    farewell = 0.05  # the time that a hung worker is given for its stack dump
    show("hang.noticed.p50", (median(times) - farewell) * 1e3, "ms")
    show("hang.noticed.max", (max(times) - farewell) * 1e3, "ms")


def imports_alone() -> float:
    """Seconds for an interpreter to load the libraries that settings and segments need."""
    began = time.monotonic()
    libraries = "import numpy, pydantic, msgspec, setproctitle"
    subprocess.run([sys.executable, "-c", libraries], check=True, env=ENVIRONMENT)
    return time.monotonic() - began


def bench_daemon() -> None:
    """Start of the next daemon to all workers adopted, beside loading its libraries alone."""
    with daemon("LightWorker", 5) as one:
        before, times = one.running(), []
        for _ in range(10):
            assert one.process is not None
            one.process.kill()
            one.process.wait()
            began = time.monotonic()
            one.start()
            new = one.process.pid
            wait_for("adopted", lambda new=new: one.status()["pid"] == new and one.running())
            times.append(time.monotonic() - began)
        after = one.running()
        alive = sum("tradingmesh: w" in " ".join(_line(p)) for p in psutil.process_iter())
        bare = median(imports_alone() for _ in range(7)) * 1e3
    show("daemon.adopted.p50", median(times) * 1e3, "ms", bare)
    show("daemon.touched", float(before != after or alive != 5), "workers lost, doubled, restarted")


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def bench_idle() -> None:
    """Processor and memory of the daemon itself beside five idle workers."""
    with daemon("LightWorker", 5) as one:
        assert one.process is not None
        process = psutil.Process(one.process.pid)
        select.select([], [], [], 2.0)
        ran = Path(f"/proc/{process.pid}/schedstat")  # ns; clock ticks would be too coarse
        before, began = int(ran.read_text().split()[0]), time.monotonic()
        select.select([], [], [], 20.0)
        used = (int(ran.read_text().split()[0]) - before) / 1e9
        show("idle.cpu", 100.0 * used / (time.monotonic() - began), "% of one core")
        show("idle.pss", process.memory_full_info().pss / 2**20, "MiB")


CHILD = """
import os, sys, time
now = time.monotonic_ns()
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(fd, b"%d %d\\n" % (os.getpid(), now))
while True:
    time.sleep(3600)
"""


def peer_configuration(name: str, directory: Path) -> list[str]:
    """Write what `name` needs to keep one child running, and give its command line."""
    program = f"{sys.executable} {directory}/child.py {directory}/born"
    bin_ = PEERS / "bin"
    if name == "supervisord":
        (directory / "sv.conf").write_text(
            f"[supervisord]\nlogfile={directory}/sv.log\npidfile={directory}/sv.pid\nnodaemon=true\n"
            f"[program:w]\ncommand={program}\nautorestart=true\nstartsecs=0\nstartretries=1000\n"
        )
        return [str(bin_ / "supervisord"), "-c", str(directory / "sv.conf")]
    if name == "circus":
        (directory / "circus.ini").write_text(
            f"[circus]\nendpoint = ipc://{directory}/a\npubsub_endpoint = ipc://{directory}/b\n"
            f"[watcher:w]\ncmd = {program}\nnumprocesses = 1\ncopy_env = True\n"
        )
        return [str(bin_ / "circusd"), str(directory / "circus.ini")]
    (directory / "app.py").write_text(
        "import os, time\n"
        "def post_fork(server, worker):\n"
        "    now = time.monotonic_ns()\n"
        f"    fd = os.open({str(directory / 'born')!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        '    os.write(fd, b"%d %d\\n" % (os.getpid(), now))\n'
        "    os.close(fd)\n"
        "def app(environ, start_response):\n    raise NotImplementedError\n"
    )
    return [
        str(bin_ / "gunicorn"),
        "--chdir",
        str(directory),
        "-c",
        str(directory / "app.py"),
        "--preload",
        "-b",
        f"unix:{directory}/socket",
        "app:app",
    ]


def peer_restart(name: str, rounds: int) -> float:
    """Median seconds from SIGKILL of the child to the first line of the next one, under a peer."""
    directory = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
    (directory / "child.py").write_text(CHILD)
    command = peer_configuration(name, directory)
    with (directory / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def born() -> list[list[int]]:
        lines = (directory / "born").read_text().splitlines()
        return [[int(word) for word in line.split()] for line in lines]

    times = []
    try:
        for round_ in range(1, rounds + 1):
            pid = wait_for(f"{name} child", lambda n=round_: len(born()) >= n and born()[-1][0])
            select.select([], [], [], 0.3)
            killed = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            wait_for(f"{name} replacement", lambda n=round_: len(born()) > n)
            times.append((born()[-1][1] - killed) / 1e9)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)
    return median(times)


def bench_peers() -> None:
    """Restart of a light child by others; ours is measured again beside them."""
    if not (PEERS / "bin" / "supervisord").exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
        done = subprocess.run(
            [
                PEERS / "bin" / "python",
                "-m",
                "pip",
                "install",
                "-q",
                "setuptools<81",
                *PEER_PACKAGES,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(PEERS)
            print(json.dumps({"bench": "supervisor.peers", "skipped": done.stderr[-200:]}))
            return
    with daemon("LightWorker") as one:
        ours = median(one.heal(30)) * 1e3
    for name, rounds in (("gunicorn", 15), ("supervisord", 5), ("circus", 5)):
        show(f"light.restart.beside.{name}", ours, "ms", peer_restart(name, rounds) * 1e3)


def bench_exposure() -> None:
    """`systemd-analyze security` of the units."""
    if shutil.which("systemd-analyze") is None:
        print(json.dumps({"bench": "supervisor.exposure", "skipped": "apt install systemd"}))
        return
    for unit in ("tradingmesh.service", "tradingmesh-broker.service"):
        text = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", ROOT / "systemd" / unit],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        show(f"exposure.{unit}", float(text.split(":")[-1].split()[0]), "of 10", 9.6)


BENCHES = {
    "light": bench_light,
    "heavy": bench_heavy,
    "trainer": bench_trainer,
    "hang": bench_hang,
    "daemon": bench_daemon,
    "idle": bench_idle,
    "peers": bench_peers,
    "exposure": bench_exposure,
    "starved": bench_starved,
}


def main() -> None:
    """Run the benches that are named, or all."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in sys.argv[1:] or [name for name in BENCHES if name != "starved"]:
        BENCHES[name]()


if __name__ == "__main__":
    main()
