"""`meshctl doctor`: check the host for problems and suggest remedies.

Each check is a function that returns findings. No check changes anything; each works without a
mesh and without a daemon.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mesh as package
from mesh import MeshError, ProcessIdentity, procfs
from workers.ctl import render
from workers.ctl.failure import Exit
from workers.ctl.report import heartbeat_rows, read_report

if TYPE_CHECKING:
    from mesh import Mesh

GOOD, NOTE, WARN, BAD = "good", "note", "warn", "bad"
STYLES = {GOOD: render.GOOD, NOTE: None, WARN: render.WARN, BAD: render.BAD}
LOOP_BYTES = 300 << 20  # of shared memory for a loop with two trainers
SYSTEM_UIDS = 1000  # RemoveIPC does not apply to users below this id
FAST_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"}
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
LOGIND = ("/usr/lib/systemd/logind.conf", "/etc/systemd/logind.conf")
LOGIND_PARTS = (
    "/usr/lib/systemd/logind.conf.d",
    "/run/systemd/logind.conf.d",
    "/etc/systemd/logind.conf.d",
)


class Finding(NamedTuple):
    """One result of a check; `remedy` is empty if there is nothing to do."""

    check: str
    verdict: str
    found: str
    remedy: str = ""


Check = Callable[["Mesh"], Iterator[Finding]]


def doctor(mesh: Mesh, options: argparse.Namespace) -> int:
    """Run every check and print its findings.

    Returns:
        1 if a finding is bad, else 0.
    """
    findings = []
    for label, check in CHECKS:
        for finding in _run_check(label, check, mesh):
            findings.append(finding)
            if options.format != "json":
                _print(finding)
    if options.format == "json":
        print(render.as_json([finding._asdict() for finding in findings]))
    bad = any(finding.verdict == BAD for finding in findings)
    return Exit.DEGRADED if bad else Exit.HEALTHY


def _print(finding: Finding) -> None:
    """Print a finding at once, because the next check may take a while."""
    verdict = render.styled(f"{finding.verdict:<4}", STYLES[finding.verdict])
    print(f"{verdict}  {finding.check:<12} {finding.found}", flush=True)
    if finding.remedy:
        print(f"      {'':<12} -> {finding.remedy}", flush=True)


def _run_check(label: str, check: Check, mesh: Mesh) -> list[Finding]:
    """Return the findings of a check; an unreadable mesh is a finding too."""
    try:
        return list(check(mesh))
    except MeshError as error:
        what, _, remedy = str(error).partition("; ")
        return [Finding(label, WARN, what, remedy or "run meshctl as the user of the mesh")]


def daemon(mesh: Mesh) -> Iterator[Finding]:
    """Check that a daemon runs on the mesh and answers."""
    report = read_report(mesh)
    alive = report["daemon"]["alive"]
    if not alive:
        remedy = "start it: systemctl start tradingmesh, or meshd --profile NAME"
        yield Finding("daemon", NOTE, f"no daemon runs on the mesh {mesh.path}", remedy)
        return
    # imports of single checks are local, so that the first finding is printed early
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
    """Check that `import supervisor` finds our module: PyPI has a package of that name too."""
    ours = Path(package.__file__).parent.parent / "supervisor.py"
    spec = importlib.util.find_spec("supervisor")
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is not None and origin.resolve() == ours.resolve():
        yield Finding("supervisor", GOOD, f"the daemon is {origin}")
        return
    yield Finding(
        "supervisor",
        BAD,
        f"`import supervisor` finds {origin or 'nothing'} instead of {ours}",
        "pip uninstall supervisor, or install tradingmesh in its own virtualenv",
    )


def tmpfs(mesh: Mesh) -> Iterator[Finding]:
    """Check that the mesh is on a tmpfs with enough free memory, and that it is not swapped."""
    place = mesh.path if mesh.path.is_dir() else mesh.path.parent
    if not place.is_dir():
        yield Finding("tmpfs", BAD, f"{place} does not exist", "create it, or set mesh.path")
        return
    kind, options = _mounted(place)
    if kind not in {"tmpfs", "ramfs", "hugetlbfs"}:
        yield Finding(
            "tmpfs",
            BAD,
            f"{place} is on {kind}, so segments would be written to disk",
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
            f"free some: see `meshctl segments`, and the other files in {place.parent}",
        )
    else:
        yield Finding("tmpfs", GOOD, found)
    if kind == "tmpfs" and _swap_bytes() and "noswap" not in options:
        yield Finding(
            "swap",
            NOTE,
            f"{render.size(_swap_bytes())} of swap: idle segments may be swapped out",
            "swapoff, vm.swappiness=1, or mount the tmpfs with noswap (Linux 6.4)",
        )


def permissions(mesh: Mesh) -> Iterator[Finding]:
    """Check who may read and write the mesh."""
    if not mesh.path.is_dir():
        return
    mode = stat.S_IMODE(mesh.path.stat().st_mode)
    owner = mesh.path.stat().st_uid
    found = f"{mesh.path}: mode {mode:04o}, uid {owner}"
    if mode & 0o007:
        yield Finding(
            "permissions", BAD, f"{found}: accessible to every user", f"chmod 0750 {mesh.path}"
        )
    elif not os.access(mesh.path, os.R_OK | os.X_OK):
        yield Finding(
            "permissions",
            BAD,
            f"{found}: not readable by uid {os.getuid()}",
            "join the group of the mesh, or run meshctl as its user",
        )
        return
    else:
        yield Finding("permissions", GOOD, found)
    others = [p.name for p in mesh.path.iterdir() if _uid(p, owner) != owner]
    if others:
        yield Finding(
            "permissions",
            WARN,
            f"files that do not belong to uid {owner}: {_names(others)}",
            "run all workers as one user",
        )


def _uid(path: Path, missing: int) -> int:
    """Return the owner of a file; `missing` if it was removed meanwhile."""
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return missing


def _names(names: Iterable[str]) -> str:
    """Return up to five names of files, escaped where they are not printable."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in sorted(names)[:5])


def leftovers(mesh: Mesh) -> Iterator[Finding]:
    """Find what dead processes left behind: unfinished files, leases, meshes, a socket."""
    if mesh.path.is_dir() and os.access(mesh.path, os.R_OK | os.X_OK):
        known = {info.name.replace("/", "+") for info in mesh.segments()}
        unknown = {path.name for path in mesh.path.glob("[!.]*")} - known
        if unknown:
            yield Finding(
                "leftovers",
                WARN,
                f"damaged segments or other files in {mesh.path}: {_names(unknown)}",
                "remove them; a restarted worker recreates its segments",
            )
        unfinished = [path.name for path in mesh.path.glob(".new-*") if not _is_alive(path.name)]
        if unfinished:
            yield Finding(
                "leftovers",
                WARN,
                f"{len(unfinished)} unfinished files in {mesh.path}",
                "the daemon removes them when it starts",
            )
        dead = [i.name for i in mesh.segments() if i.owner is not None and not i.owner.is_alive()]
        if dead:
            yield Finding(
                "leftovers",
                NOTE,
                f"segments whose writer is dead: {', '.join(dead[:8])}",
                "nothing to do: the next writer takes over. Remove a segment that is no longer "
                "needed, or whose sizes changed, with meshctl unlink SEGMENT",
            )
        live = read_report(mesh)["daemon"]["alive"]
        from mesh.control import SOCKET  # noqa: PLC0415 - see daemon()

        if (mesh.path / SOCKET).exists() and not live:
            yield Finding(
                "leftovers",
                NOTE,
                f"{mesh.path / SOCKET} belongs to a dead daemon",
                "nothing to do: the next daemon replaces it",
            )
    for other in sorted(Path("/dev/shm").glob("tradingmesh*")):  # noqa: S108 - the default tmpfs
        if other != mesh.path and not _is_used(other):
            yield Finding(
                "leftovers", WARN, f"{other}: a mesh that no process uses", f"rm -r {other}"
            )


def limits(_mesh: Mesh) -> Iterator[Finding]:
    """Check the limits of this shell, which a daemon started here would inherit."""
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
                "limits",
                WARN,
                f"{name} is limited to {_limit(soft)}, which segments (mapped files) may exceed",
                what,
            )
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes not in {-1, resource.RLIM_INFINITY} and processes < 256:
        yield Finding("limits", WARN, f"processes: {processes}", "ulimit -u 1024")


def remove_ipc(_mesh: Mesh) -> Iterator[Finding]:
    """Check whether logind deletes the user's files in /dev/shm at logout."""
    if os.getuid() < SYSTEM_UIDS or not Path("/run/systemd/system").is_dir():
        yield Finding("RemoveIPC", GOOD, "does not apply to this user on this host")
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
        f"RemoveIPC={value}: the segments of uid {os.getuid()} are deleted when this user logs out",
        "run the daemon as a system user "
        "(make install does), or set RemoveIPC=no in /etc/systemd/logind.conf",
    )


def clock(_mesh: Mesh) -> Iterator[Finding]:
    """Check that the clock is fast to read (heartbeats, timestamps) and synchronised."""
    path = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    source = path.read_text(encoding="ascii").strip() if path.is_file() else "unknown"
    fast = source in FAST_CLOCKS
    yield Finding(
        "clock",
        GOOD if fast else WARN,
        f"source {source}",
        ""
        if fast
        else "boot with clocksource=tsc if the processor's is stable; this source needs a system "
        "call for each reading",
    )
    import ctypes  # noqa: PLC0415 - see daemon()

    buffer = ctypes.create_string_buffer(512)  # struct timex with modes = 0: read only
    if ctypes.CDLL(None).adjtimex(buffer) == TIME_ERROR:
        yield Finding(
            "clock",
            NOTE,
            "not synchronised: times and ages cannot be compared with those of other hosts",
            "run chrony or systemd-timesyncd",
        )


def huge_pages(_mesh: Mesh) -> Iterator[Finding]:
    """Check whether the kernel may use huge pages for large segments."""
    base = Path("/sys/kernel/mm/transparent_hugepage")
    if not (base / "shmem_enabled").is_file():
        yield Finding("huge pages", NOTE, "not supported by this kernel")
        return
    shared = _chosen(base / "shmem_enabled")
    remedy = ""
    if shared in {"never", "deny"}:
        remedy = f"may speed up large experience rings: echo advise > {base}/shmem_enabled"
    yield Finding(
        "huge pages",
        NOTE if remedy else GOOD,
        f"shared memory: {shared}, others: {_chosen(base / 'enabled')}",
        remedy,
    )


def processors(_mesh: Mesh) -> Iterator[Finding]:
    """Check the load of the processors and their frequency governor."""
    usable = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    verdict = WARN if load > 2 * usable else GOOD
    yield Finding(
        "processors",
        verdict,
        f"{usable} usable, load {load:.1f}",
        "" if verdict == GOOD else "other programs keep the processors busy: see top",
    )
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if (
        governor.is_file()
        and (value := governor.read_text(encoding="ascii").strip()) == "powersave"
    ):
        yield Finding(
            "processors",
            WARN,
            f"frequency governor {value}: slow wake-ups",
            "cpupower frequency-set -g performance",
        )


#: checks in the order of the screen, each with the label of a finding about an unreadable mesh
CHECKS: tuple[tuple[str, Check], ...] = (
    ("supervisor", supervisor_module),
    ("daemon", daemon),
    ("tmpfs", tmpfs),
    ("permissions", permissions),
    ("leftovers", leftovers),
    ("limits", limits),
    ("RemoveIPC", remove_ipc),
    ("clock", clock),
    ("huge pages", huge_pages),
    ("processors", processors),
)


def _mounted(path: Path) -> tuple[str, str]:
    """Return type and options of the file system that holds `path`."""
    import psutil  # noqa: PLC0415 - see daemon()

    resolved = path.resolve()
    mounts = [
        each
        for each in psutil.disk_partitions(all=True)
        if resolved.is_relative_to(each.mountpoint)
    ]
    if not mounts:
        return "unknown", ""
    # the longest mount point holds the path; of two mounts on one point the later one does
    deepest = max(reversed(mounts), key=lambda each: len(each.mountpoint))
    return deepest.fstype, deepest.opts


def _swap_bytes() -> int:
    import psutil  # noqa: PLC0415 - see daemon()

    return psutil.swap_memory().total


def _is_alive(name: str) -> bool:
    pid = name.split("-")[1]
    return pid.isdigit() and procfs.exists(int(pid))


def _is_used(path: Path) -> bool:
    """Whether a live process uses a mesh; an unreadable mesh counts as used."""
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
    """Return the selected value of a kernel setting: the word in brackets."""
    text = path.read_text(encoding="ascii")
    return text.partition("[")[2].partition("]")[0] or text.strip()
