"""The common life of a worker process: signals, heartbeat, crash report, orderly end.

A worker implements `setup`, `step` and `teardown`. The heartbeat is written from this loop and by
no helper thread, so that a beat means that a step came back: liveness is progress.
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
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from setproctitle import setproctitle

from config import EXIT_CONFIGURATION, ConfigProblems, Settings, load_settings
from mesh import Heartbeat, Mesh, MeshError
from workers.crash_report import keep_newest, stack_file, write_report
from workers.log import configure_logging, limit_output
from workers.notify import Systemd

if TYPE_CHECKING:
    import structlog

    from config.worker_spec import WorkerSpec

EXIT_CRASHED = 70  # EX_SOFTWARE of sysexits.h
EXIT_MESH = 73  # EX_CANTCREAT: the mesh refused


class _Leave(BaseException):
    """Raised by a signal in a block of `left_on_stop`; nothing that catches errors takes it."""


class WorkerContext:
    """What a worker is given: its spec, the settings, the mesh, a logger and its heartbeat."""

    def __init__(
        self,
        spec: WorkerSpec,
        settings: Settings,
        mesh: Mesh,
        heartbeat: Heartbeat,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """Gather what base has opened."""
        self.spec = spec
        self.settings = settings
        self.mesh = mesh
        self.heartbeat = heartbeat
        self.log = log
        self.name = spec.name
        self.alone = False  # started by hand, not by a daemon
        self.stop_signal = 0
        self._expected: float | None = None
        self._may_leave = False

    def stop(self, number: int) -> None:
        """Note that signal `number` asks the worker to end."""
        self.stop_signal = number
        if self._may_leave:
            raise _Leave

    def stopping(self) -> bool:
        """Tell whether the worker was asked to end; long steps look at it."""
        return self.stop_signal != 0

    @staticmethod
    def pause(seconds: float) -> None:
        """Let `seconds` (few: signals are noted meanwhile, and obeyed after it) pass in a wait."""
        signal.sigtimedwait([signal.SIGURG], seconds)

    @contextlib.contextmanager
    def left_on_stop(self) -> Iterator[None]:
        """Leave the block wherever it is, once the worker is asked to end; then go on behind it.

        For what waits long for others and can be done again from its start, as after a kill. The
        block looks at `stopping()` before it begins to wait.
        """
        self._may_leave = True
        try:
            yield
        except _Leave:
            pass
        finally:
            self._may_leave = False

    @contextlib.contextmanager
    def expect(self, seconds: float) -> Iterator[None]:
        """Announce that the next beat may take `seconds`; without it the default deadline holds.

        Afterwards what was announced around it holds again.
        """
        before, self._expected = self._expected, seconds
        self.heartbeat.beat(progress=self.heartbeat.progress, expect=seconds)
        try:
            yield
        finally:
            self._expected = before
            self.heartbeat.beat(progress=self.heartbeat.progress, expect=before)


class Worker(ABC):
    """One process of the system. Errors it cannot handle end it: the supervisor starts it again."""

    def __init__(self, context: WorkerContext) -> None:
        """Keep the context; nothing is opened before `setup`."""
        self.context = context

    @classmethod  # noqa: B027 - a hook, empty on purpose
    def prepare(cls, spec: WorkerSpec, settings: Settings) -> None:
        """Do ahead what a worker of this spec would do first; its nursery calls this, then forks.

        On one thread, opening nothing that a child must not share (files, sockets, devices).
        """

    @classmethod  # noqa: B027 - as `prepare`
    def rehearse(cls, spec: WorkerSpec, settings: Settings) -> None:
        """Use what was prepared, without effect; each child that waits in the nursery calls this.

        A page that is shared after a fork costs a fault when it is first written.
        """

    def setup(self) -> None:  # noqa: B027 - a hook, empty on purpose
        """Open what the worker needs; it counts as ready when this returns."""

    @abstractmethod
    def step(self) -> int:
        """Do a bounded piece of work and give the progress made (0 = waited for input).

        Returns within about 0.1 s when there is nothing to do; longer work is announced.
        """

    def teardown(self) -> None:  # noqa: B027 - a hook, empty on purpose
        """Close what `setup` opened: an orderly end, within the stop grace of the spec."""

    def last_inputs(self) -> dict[str, Any]:
        """Give what a crash report should show of the latest input (JSON values)."""
        return {}


def run_worker(
    spec: WorkerSpec,
    settings: Settings,
    *,
    title: str = "",
    generation: int = 0,
    incident: int = 0,
) -> NoReturn:
    """Be the worker of `spec` in this process until its end; exits with a code that says how.

    `title` is the process title that a daemon gives (empty: started by hand), `generation` counts
    the worker's starts, `incident` is the number of the one that this start follows; both are in
    every line of the log.
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
        with contextlib.suppress(OSError):  # nobody asks any more for the stacks of this process
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
    hearts = mesh.heartbeats(create=True, rows=settings.supervisor.rows)
    heartbeat = hearts.claim(spec.name, keep={each.name for each in settings.workers})
    heartbeat.starting(expect=spec.start_deadline_s)
    context = WorkerContext(spec, settings, mesh, heartbeat, log)
    context.alone = alone
    _listen(context)
    service = Systemd() if alone else None  # a worker that is a service of its own
    worker: Worker | None = None
    try:
        worker = resolve(spec.worker)(context)
        worker.setup()
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
    """Signals only set a flag; SIGUSR2 dumps the stacks, in C, even of a hung interpreter."""

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
    """Walk, without effect, through what every worker does first: a child that waits does so.

    A page that a fork shares costs a fault when it is first used; it is paid for here, ahead.
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
        hearts = Mesh(settings.mesh.path, mode=settings.mesh.permissions).heartbeats()
        hearts.rows()
        hearts.close()


def resolve(where: str) -> type[Worker]:
    """Import `package.module:Class`; in the worker's own process, or in its nursery."""
    module, _, name = where.partition(":")
    found: type[Worker] = getattr(importlib.import_module(module), name)
    return found


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
