"""`meshctl doctor`: what on this host is not as it should be, and what to do.

Each check is a function that gives findings; none changes anything, and each works with no mesh
and no daemon there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import mesh as package
from mesh import MeshError, ProcessIdentity, procfs
from workers.ctl import render
from workers.ctl.failure import Exit
from workers.ctl.report import heartbeat_rows, read_report

if TYPE_CHECKING:
    from mesh import Mesh

GOOD, NOTE, WARN, BAD = "good", "note", "warn", "bad"
STYLES = {GOOD: render.GOOD, NOTE: None, WARN: render.WARN, BAD: render.BAD}
LOOP_BYTES = 300 << 20  # what the segments of a loop with two trainers take
SYSTEM_UIDS = 1000  # below: RemoveIPC does not concern them
FAST_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"}
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
LOGIND = ("/usr/lib/systemd/logind.conf", "/etc/systemd/logind.conf")
LOGIND_PARTS = (
    "/usr/lib/systemd/logind.conf.d",
    "/run/systemd/logind.conf.d",
    "/etc/systemd/logind.conf.d",
)


class Check(Protocol):
    """A check: its name is that of the function."""

    __name__: str

    def __call__(self, mesh: Mesh, /) -> Iterator[Finding]:
        """Look, and give what was found."""


class Finding(NamedTuple):
    """What a check found; `remedy` is empty where nothing is to be done."""

    check: str
    verdict: str
    found: str
    remedy: str = ""


def doctor(mesh: Mesh, options: argparse.Namespace) -> int:
    """Run every check and print what was found; 1 if anything is bad."""
    findings = []
    for check in CHECKS:
        for finding in _tried(check, mesh):
            findings.append(finding)
            if options.format != "json":
                _print(finding)
    if options.format == "json":
        print(render.as_json([finding._asdict() for finding in findings]))
    bad = any(finding.verdict == BAD for finding in findings)
    return Exit.DEGRADED if bad else Exit.HEALTHY


def _print(finding: Finding) -> None:
    """Print at once: a check may take its time."""
    verdict = render.styled(f"{finding.verdict:<4}", STYLES[finding.verdict])
    print(f"{verdict}  {finding.check:<12} {finding.found}", flush=True)
    if finding.remedy:
        print(f"      {'':<12} -> {finding.remedy}", flush=True)


def _tried(check: Check, mesh: Mesh) -> list[Finding]:
    """Return what a check found; that it may not look is a finding too."""
    try:
        return list(check(mesh))
    except MeshError as error:
        what, _, remedy = str(error).partition("; ")
        return [Finding(check.__name__, WARN, what, remedy or "look as its user")]


def daemon(mesh: Mesh) -> Iterator[Finding]:
    """A daemon is there, and answers."""
    report = read_report(mesh)
    alive = report["daemon"]["alive"]
    if not alive:
        remedy = "start it: systemctl start tradingmesh, or meshd --profile NAME"
        yield Finding("daemon", NOTE, f"none has the mesh {mesh.path}", remedy)
        return
    # what a check alone needs is imported by it: the first finding does not wait for the last
    from mesh.control import ControlRequest, ControlUnavailable, ask  # noqa: PLC0415 - above

    try:
        reply = ask(mesh.path, ControlRequest("ping"))
    except ControlUnavailable as error:
        yield Finding(
            "daemon",
            WARN,
            *(str(error).split("; ", 1)),
        )
        return
    yield Finding("daemon", GOOD if reply.ok else WARN, f"answers: {reply.text}")


def supervisor_module(_mesh: Mesh) -> Iterator[Finding]:
    """A package of the same name is on PyPI; ours must be the one that is imported."""
    ours = Path(package.__file__).parent.parent / "supervisor.py"
    spec = importlib.util.find_spec("supervisor")
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is not None and origin.resolve() == ours.resolve():
        yield Finding("supervisor", GOOD, f"the daemon is {origin}")
        return
    yield Finding(
        "supervisor",
        BAD,
        f"`import supervisor` finds {origin or 'nothing'}, ours is {ours}",
        "pip uninstall supervisor, or give tradingmesh a virtualenv of its own",
    )


def tmpfs(mesh: Mesh) -> Iterator[Finding]:
    """Segments belong on a tmpfs with room; a disk behind them would be read and written."""
    place = mesh.path if mesh.path.is_dir() else mesh.path.parent
    if not place.is_dir():
        yield Finding("tmpfs", BAD, f"{place} is not there", "make it, or set mesh.path")
        return
    kind, options = _mounted(place)
    if kind not in {"tmpfs", "ramfs", "hugetlbfs"}:
        yield Finding(
            "tmpfs",
            BAD,
            f"{place} lies on {kind}",
            "set mesh.path to a directory on a tmpfs, such as /dev/shm/NAME",
        )
    room = os.statvfs(place)
    size, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    found = f"{place}: {kind}, {render.size(free)} of {render.size(size)} free ({options})"
    used = sum(info.size_bytes for info in mesh.segments())
    if free < max(0, LOOP_BYTES - used):
        yield Finding(
            "tmpfs",
            BAD,
            found,
            "mount -o remount,size=2G /dev/shm (docker: "
            "--shm-size=2g); a loop with two trainers takes about 250M",
        )
    elif free * 5 < size:
        yield Finding(
            "tmpfs",
            WARN,
            found,
            f"little is left: see `meshctl segments`, and the rest in {place.parent}",
        )
    else:
        yield Finding("tmpfs", GOOD, found)
    if kind == "tmpfs" and _swap_bytes() and "noswap" not in options:
        yield Finding(
            "swap",
            NOTE,
            f"{render.size(_swap_bytes())} of swap: segments that nobody "
            "touches may be written out",
            "swapoff, vm.swappiness=1, or mount the tmpfs with noswap (Linux 6.4)",
        )


def permissions(mesh: Mesh) -> Iterator[Finding]:
    """Who may read and write the mesh."""
    if not mesh.path.is_dir():
        return
    mode = stat.S_IMODE(mesh.path.stat().st_mode)
    owner = mesh.path.stat().st_uid
    found = f"{mesh.path}: mode {mode:04o}, uid {owner}"
    if mode & 0o007:
        yield Finding("permissions", BAD, f"{found}: open to every user", f"chmod 0750 {mesh.path}")
    elif not os.access(mesh.path, os.R_OK | os.X_OK):
        yield Finding(
            "permissions",
            BAD,
            f"{found}: not readable by uid {os.getuid()}",
            "ask for the mesh's group, or look as its user",
        )
        return
    else:
        yield Finding("permissions", GOOD, found)
    others = [p.name for p in mesh.path.iterdir() if _uid(p, owner) != owner]
    if others:
        yield Finding(
            "permissions",
            WARN,
            f"not of uid {owner}: {_names(others)}",
            "their writers run as another user; give the workers one user",
        )


def _uid(path: Path, gone: int) -> int:
    """Return whose a file is; `gone` for one that went away."""
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return gone


def _names(names: Iterable[str]) -> str:
    """Return some names of files, whatever bytes they are made of."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in sorted(names)[:5])


def leftovers(mesh: Mesh) -> Iterator[Finding]:
    """What the dead have left: half-made files, leases, whole meshes, a socket."""
    if mesh.path.is_dir() and os.access(mesh.path, os.R_OK | os.X_OK):
        known = {info.name.replace("/", "+") for info in mesh.segments()}
        strange = {path.name for path in mesh.path.glob("[!.]*")} - known
        if strange:
            yield Finding(
                "leftovers",
                WARN,
                f"no segments, or damaged ones, in {mesh.path}: {_names(strange)}",
                "remove them; the writer of a segment makes it anew when it is started again",
            )
        half = [path.name for path in mesh.path.glob(".new-*") if not _lives(path.name)]
        if half:
            yield Finding(
                "leftovers",
                WARN,
                f"{len(half)} half-made files in {mesh.path}",
                "the daemon sweeps them when it starts",
            )
        dead = [i.name for i in mesh.segments() if i.owner is not None and not i.owner.is_alive()]
        if dead:
            yield Finding(
                "leftovers",
                NOTE,
                f"writers are dead of {', '.join(dead[:8])}",
                "nothing: whoever writes next takes over; a segment that nobody will write, or "
                "whose sizes change, is removed by meshctl unlink SEGMENT",
            )
        live = read_report(mesh)["daemon"]["alive"]
        from mesh.control import SOCKET  # noqa: PLC0415 - see daemon()

        if (mesh.path / SOCKET).exists() and not live:
            yield Finding(
                "leftovers",
                NOTE,
                f"{mesh.path / SOCKET} of a dead daemon",
                "nothing: the next daemon replaces it",
            )
    for other in sorted(Path("/dev/shm").glob("tradingmesh*")):  # noqa: S108 - meshes lie there
        if other != mesh.path and not _is_used(other):
            yield Finding(
                "leftovers", WARN, f"{other}: a mesh that no process uses", f"rm -r {other}"
            )


def limits(_mesh: Mesh) -> Iterator[Finding]:
    """Limits of this shell, which a daemon started from it would have."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    verdict = GOOD if files >= 1024 or files == resource.RLIM_INFINITY else BAD
    yield Finding(
        "limits",
        verdict,
        f"open files: {_limit(files)}",
        "" if verdict == GOOD else "ulimit -n 4096 (systemd: LimitNOFILE=4096)",
    )
    for name, number, what in (
        ("address space", resource.RLIMIT_AS, "ulimit -v unlimited (systemd: LimitAS=infinity)"),
        ("file size", resource.RLIMIT_FSIZE, "ulimit -f unlimited (systemd: LimitFSIZE=infinity)"),
    ):
        soft = resource.getrlimit(number)[0]
        if soft != resource.RLIM_INFINITY:
            yield Finding(
                "limits", WARN, f"{name}: {_limit(soft)}; segments are mapped files", what
            )
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes not in {-1, resource.RLIM_INFINITY} and processes < 256:
        yield Finding("limits", WARN, f"processes: {processes}", "ulimit -u 1024")


def remove_ipc(_mesh: Mesh) -> Iterator[Finding]:
    """Logind deletes files of ordinary users in /dev/shm when they log out."""
    if os.getuid() < SYSTEM_UIDS or not Path("/run/systemd/system").is_dir():
        yield Finding("RemoveIPC", GOOD, "does not concern this user on this host")
        return
    value = "yes"  # the default of logind.conf(5)
    parts = [part for place in LOGIND_PARTS for part in sorted(Path(place).glob("*.conf"))]
    for path in [*map(Path, LOGIND), *parts]:
        import configparser  # noqa: PLC0415 - see daemon()

        read = configparser.ConfigParser(strict=False, interpolation=None)
        if path.is_file() and read.read(path, encoding="utf-8"):
            value = read.get("Login", "RemoveIPC", fallback=value)
    if value.lower() in {"no", "false", "0", "off"}:
        yield Finding("RemoveIPC", GOOD, f"RemoveIPC={value}")
        return
    yield Finding(
        "RemoveIPC",
        BAD,
        f"RemoveIPC={value}: the segments of uid {os.getuid()} are "
        "deleted when this user has logged out",
        "run the daemon as a system user "
        "(make install does), or set RemoveIPC=no in /etc/systemd/logind.conf",
    )


def clock(_mesh: Mesh) -> Iterator[Finding]:
    """Heartbeats read the clock all the time, records are stamped with it."""
    path = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    source = path.read_text(encoding="ascii").strip() if path.is_file() else "unknown"
    fast = source in FAST_CLOCKS
    yield Finding(
        "clock",
        GOOD if fast else WARN,
        f"source {source}",
        ""
        if fast
        else "clocksource=tsc at boot, if the processor's is stable; others "
        "are read by a system call",
    )
    import ctypes  # noqa: PLC0415 - see daemon()

    buffer = ctypes.create_string_buffer(512)  # struct timex with modes = 0: only asks
    if ctypes.CDLL(None).adjtimex(buffer) == TIME_ERROR:
        yield Finding(
            "clock",
            NOTE,
            "not synchronised: event times and ages are this host's own",
            "run chrony or systemd-timesyncd",
        )


def pages(_mesh: Mesh) -> Iterator[Finding]:
    """Large segments profit of huge pages, where the kernel may give them."""
    base = Path("/sys/kernel/mm/transparent_hugepage")
    if not (base / "shmem_enabled").is_file():
        yield Finding("huge pages", NOTE, "the kernel has none")
        return
    shared = _chosen(base / "shmem_enabled")
    remedy = ""
    if shared in {"never", "deny"}:
        remedy = f"for large experience rings: echo advise > {base}/shmem_enabled"
    yield Finding(
        "huge pages",
        NOTE if remedy else GOOD,
        f"shared memory: {shared}, others: {_chosen(base / 'enabled')}",
        remedy,
    )


def processors(_mesh: Mesh) -> Iterator[Finding]:
    """How many there are for us, and whether they are slowed down."""
    usable = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    verdict = WARN if load > 2 * usable else GOOD
    yield Finding(
        "processors",
        verdict,
        f"{usable} usable, load {load:.1f}",
        "" if verdict == GOOD else "the host is busy with other things: see top",
    )
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if (
        governor.is_file()
        and (value := governor.read_text(encoding="ascii").strip()) == "powersave"
    ):
        yield Finding(
            "processors",
            WARN,
            f"frequency governor {value}: wake-ups are slow",
            "cpupower frequency-set -g performance",
        )


CHECKS: tuple[Check, ...] = (
    supervisor_module,
    daemon,
    tmpfs,
    permissions,
    leftovers,
    limits,
    remove_ipc,
    clock,
    pages,
    processors,
)


def _mounted(path: Path) -> tuple[str, str]:
    """Return type and options of the file system that holds `path`: the one mounted deepest."""
    import psutil  # noqa: PLC0415 - see daemon()

    resolved = path.resolve()
    holding = [
        each
        for each in psutil.disk_partitions(all=True)
        if resolved.is_relative_to(each.mountpoint)
    ]
    if not holding:
        return "unknown", ""
    # Of two mounts on one point the later one hides the other.
    deepest = max(reversed(holding), key=lambda each: len(each.mountpoint))
    return deepest.fstype, deepest.opts


def _swap_bytes() -> int:
    import psutil  # noqa: PLC0415 - see daemon()

    return psutil.swap_memory().total


def _lives(name: str) -> bool:
    pid = name.split("-")[1]
    return pid.isdigit() and procfs.exists(int(pid))


def _is_used(path: Path) -> bool:
    """Whether a process that beats or writes in that mesh lives; an unreadable one is used."""
    if not os.access(path, os.R_OK | os.X_OK):
        return True
    other = package.Mesh(path)
    try:
        owners: list[ProcessIdentity | None] = [info.owner for info in other.segments()]
        owners += [row.identity for row in heartbeat_rows(other)]
    except MeshError:
        return True
    return any(owner is not None and owner.is_alive() for owner in owners)


def _limit(value: int) -> str:
    return "unlimited" if value in {-1, resource.RLIM_INFINITY} else f"{value:,}"


def _chosen(path: Path) -> str:
    """Return the word in brackets of a kernel setting."""
    text = path.read_text(encoding="ascii")
    return text.partition("[")[2].partition("]")[0] or text.strip()
