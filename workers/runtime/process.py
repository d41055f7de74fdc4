"""The common life of a worker process: signals, heartbeat, crash report, orderly end.

The heartbeat is written by this loop and by no helper thread, so a beat means that a step returned:
liveness is progress. A stop is orderly at any instant: signals are blocked from the fork until the
handlers are there, and a handler does no more than set a flag that the loop checks.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from setproctitle import setproctitle

from config import EXIT_CONFIGURATION, ConfigProblems, Settings, load_settings
from mesh import Mesh, MeshError
from workers.runtime.crash_report import keep_newest, stack_file, write_report
from workers.runtime.logging import configure_logging, limit_output
from workers.runtime.systemd import Systemd
from workers.runtime.worker import Worker, WorkerContext

if TYPE_CHECKING:
    import structlog

    from config.worker_spec import WorkerSpec

#: Ask a worker to end. Blocked in a new process of a daemon until it has handlers for them.
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
EXIT_CRASHED = 70  # EX_SOFTWARE of sysexits.h
EXIT_MESH = 73  # EX_CANTCREAT: the mesh refused


def run_worker(
    spec: WorkerSpec,
    settings: Settings,
    *,
    title: str = "",
    generation: int = 0,
    incident: int = 0,
) -> NoReturn:
    """Be the worker of `spec` in this process until its end.

    The exit code is 0 after a stop, 70 after an error, 73 where the mesh refused, and 78 where the
    configuration is at fault.

    Args:
        spec: Which worker.
        settings: What it works with.
        title: Process title that a daemon gives; empty: the worker was started by hand.
        generation: Counts the worker's starts; in every line of the log.
        incident: Number of the incident that this start follows; in every line of the log.
    """
    code = EXIT_CRASHED
    setproctitle(title or f"tradingmesh alone: {spec.name}")
    limit_output(settings.logging)
    log = configure_logging(
        settings.logging,
        worker=spec.name,
        pid=os.getpid(),
        generation=generation,
        incident=incident,
    )
    try:
        code = _live(spec, settings, log, alone=not title)
    except MeshError as error:
        log.error("the mesh refused", error=str(error), kind=type(error).__name__)  # noqa: TRY400 - the text has it all
        _report(spec, settings, error, {})
        code = EXIT_MESH
    except ConfigProblems as error:
        log.error(str(error))  # noqa: TRY400 - the text has it all
        _report(spec, settings, error, {})
        code = EXIT_CONFIGURATION
    finally:
        with contextlib.suppress(OSError):  # no longer needed
            stack_file(settings.run_directory / "crashes", spec.name, os.getpid()).unlink()
        with contextlib.suppress(OSError, ValueError):  # the worker closed its descriptors
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _live(
    spec: WorkerSpec,
    settings: Settings,
    log: structlog.typing.FilteringBoundLogger,
    *,
    alone: bool,
) -> int:
    mesh = Mesh(settings.mesh.path, mode=settings.mesh.permissions)
    heartbeats = mesh.heartbeats(create=True, rows=settings.supervisor.rows)
    heartbeat = heartbeats.claim(spec.name, keep={each.name for each in settings.workers})
    heartbeat.starting(expect=spec.start_deadline_s)
    context = WorkerContext(spec, settings, mesh, heartbeat, log)
    context.alone = alone
    _listen(context)
    service = Systemd() if alone else None  # a worker that is a service of its own
    worker: Worker | None = None
    try:
        worker = resolve(spec.worker)(context)
        worker.setup()
        if not context.stopping():
            log.info("ready")
            heartbeat.ready()
            _loop(worker, context, service)
        heartbeat.beat(progress=heartbeat.progress, expect=spec.stop_grace_s + 1.0)
        worker.teardown()
    except (MeshError, ConfigProblems):
        raise
    except (Exception, SystemExit) as error:
        inputs = worker.last_inputs() if worker is not None else {}
        _report(spec, settings, error, inputs)
        log.exception("crashed")
        return EXIT_CRASHED
    heartbeat.gone()
    log.info("stopped", signal=context.stop_signal)
    return 0


def _loop(worker: Worker, context: WorkerContext, service: Systemd | None) -> None:
    total = 0
    if service is not None:
        service.ready()
    while not context.stopping():
        done = worker.step()
        total += done
        if done > 0:
            context.heartbeat.beat(progress=total)
        else:
            context.heartbeat.waiting()
        if service is not None:
            service.feed(time.monotonic())


def _listen(context: WorkerContext) -> None:
    """Let signals set a flag, and let in those that were held back since the fork.

    SIGUSR2 dumps the stacks, in C, even of a hung interpreter.
    """

    def stop(number: int, _frame: object) -> None:
        context.stop(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop if context.alone else signal.SIG_IGN)
    directory = context.settings.run_directory / "crashes"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stacks: TextIO | int = stack_file(directory, context.name, os.getpid()).open("w")
    except OSError:  # the disk takes no file: into the log, where there is one
        stacks = 2
    faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True)
    faulthandler.enable()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _report(
    spec: WorkerSpec, settings: Settings, error: BaseException, inputs: dict[str, Any]
) -> None:
    """Write the crash report of this process; the newest ones are kept."""
    directory = settings.run_directory / "crashes"
    content = {
        "kind": "exception",
        "error": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
        "configuration": settings.fingerprint(),
        "inputs": inputs,
    }
    with contextlib.suppress(OSError):  # a full disk must not hide the error from the log
        write_report(directory, spec.name, os.getpid(), content)
        keep_newest(directory, settings.supervisor.crash_reports)


def rehearse(settings: Settings) -> None:
    """Do, without effect, what every worker does first; an idle child calls this.

    A page that a fork shares costs a fault when it is first written; the fault is taken early.
    """
    stderr = sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        sys.stderr = nowhere
        try:
            limit_output(settings.logging)
            log = configure_logging(settings.logging, worker="rehearsal", pid=os.getpid())
            log.info("rehearsal")
        finally:
            sys.stderr = stderr
        faulthandler.register(signal.SIGUSR2, file=nowhere)
        faulthandler.unregister(signal.SIGUSR2)
    with contextlib.suppress(MeshError):
        heartbeats = Mesh(settings.mesh.path, mode=settings.mesh.permissions).heartbeats()
        heartbeats.rows()
        heartbeats.close()


def resolve(where: str) -> type[Worker]:
    """Import the worker class at `package.module:Class`.

    Called in the worker's own process or in its fork server, never in the daemon.
    """
    module, _, name = where.partition(":")
    worker: type[Worker] = getattr(importlib.import_module(module), name)
    return worker


def main(kind: str, argv: Sequence[str] | None = None) -> NoReturn:
    """Run the first worker of package `workers.<kind>` alone: `python -m workers.<kind>`."""
    parser = argparse.ArgumentParser(prog=f"python -m workers.{kind}")
    parser.add_argument("--profile", default=None, help="shipped name or TOML file")
    parser.add_argument("--name", default=None, help="which worker of the profile")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(arguments.profile, arguments.set)
    except ConfigProblems as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_CONFIGURATION)
    for spec in settings.workers:
        wanted = arguments.name in {None, spec.name}
        if wanted and spec.worker.startswith(f"workers.{kind}."):
            run_worker(spec, settings)
    sys.stderr.write(f"the profile has no worker of workers.{kind}; add one to [workers]\n")
    sys.exit(EXIT_CONFIGURATION)
