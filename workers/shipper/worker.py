"""Sends the trainers' spools to MLflow; nothing is lost while MLflow is unavailable.

The position is stored after MLflow accepted the lines. A shipper that is killed or stopped before
sends some lines again, which MLflow ignores, so a stop does not wait for an answer. Few lines are
sent at a time and each request is announced to the daemon, so that a slow server does not count as
a hang. The run of a trainer that died is marked KILLED, and RUNNING again when the next process of
the trainer resumes it. Lines that MLflow refuses are moved to a file, so that they do not block the
others.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
from mlflow.exceptions import MlflowException

from mesh import ProcessIdentity
from workers.runtime.atomic_file import write_whole
from workers.runtime.interruptible import CallStopped, InterruptibleCalls
from workers.runtime.worker import Worker
from workers.shipper.destination import UNAVAILABLE, Destination, is_refusal

WAIT_S = 0.1
LINES = 150  # sent in one or two requests before the position is stored


class SpoolPosition(msgspec.Struct):
    """Position in a trainer's spool (file `<trainer>.place`)."""

    number: int = 0  # of the file
    offset: int = 0
    run: str = ""  # the current run, with its process
    pid: int = 0
    start_time: int = 0
    ended: bool = True
    refused: int = 0


class ShipperWorker(Worker):
    """Ships the spools of all trainers of the host."""

    def setup(self) -> None:
        """Read the settings; MLflow may be unavailable, so the connection is made later."""
        settings = self.context.settings
        config = settings.tracking
        self._config = config
        run_directory = settings.run_directory.resolve()
        run_directory.mkdir(parents=True, exist_ok=True)
        self._spools = run_directory / "tracking"
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(config.timeout_s)
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        self._uri = config.uri or f"sqlite:///{run_directory / 'mlflow.db'}"
        self._artifacts = None if config.uri else run_directory / "mlartifacts"
        self._destination: Destination | None = None
        self._calls = InterruptibleCalls(self.context.stopping)
        self._retry_at = 0.0

    def step(self) -> int:
        """Ship some lines of each spool and return how many."""
        if time.monotonic() < self._retry_at:
            self.context.pause(WAIT_S)
            return 0
        shipped = 0
        try:
            for trainer in sorted({path.stem.rpartition("-")[0] for path in self._files()}):
                shipped += self._ship(trainer)
        except CallStopped:  # a stop does not wait for an answer; the rest stays in the spools
            return shipped
        except UNAVAILABLE as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            self.context.log.warning("MLflow is unavailable", error=why)
            self._retry_at = time.monotonic() + self._config.retry_s
            self._destination = None
            return shipped
        if shipped == 0 and not self.context.stopping():
            self.context.pause(WAIT_S)
        return shipped

    def _announce(self) -> None:
        """Announce a few requests to the daemon, each tried twice by MLflow's client."""
        beat = self.context.heartbeat
        beat.beat(progress=beat.progress, expect=6.0 * self._config.timeout_s + 30.0)

    def _files(self) -> list[Path]:
        return sorted(self._spools.glob("*-*.jsonl"))

    def _ship(self, trainer: str) -> int:
        """Send the next lines of one spool and store the position after them."""
        place_file = self._spools / f"{trainer}.place"
        place = _read_place(place_file)
        files = {
            int(path.stem.rpartition("-")[2]): path
            for path in self._files()
            if path.stem.rpartition("-")[0] == trainer
        }
        older = [number for number in files if number < place.number]
        for number in older:
            files.pop(number).unlink()
        if not files:
            return 0
        number = min(files)
        if number != place.number:
            place.number, place.offset = number, 0
        lines = _lines(files[number], place.offset)
        if not lines:
            if number < max(files):  # its writer uses the next file: this one is complete
                place.number, place.offset = number + 1, 0
                write_whole(place_file, msgspec.json.encode(place), durable=False)
                return 1
            return self._end_dead_run(trainer, place, place_file)
        for entries in _by_run(lines):
            self._send(trainer, entries, place)
        place.offset += sum(map(len, lines))
        write_whole(place_file, msgspec.json.encode(place), durable=False)
        return len(lines)

    def _send(self, trainer: str, entries: list[dict[str, Any]], place: SpoolPosition) -> None:
        """Send the entries of one run and record its begin or end."""
        self._send_some(self._connected(), trainer, entries, place)
        for entry in entries:
            if "begin" in entry:
                place.run, place.ended = entry["run"], False
                place.pid, place.start_time = entry["pid"], entry["start_time"]
            elif "end" in entry:
                place.ended = True

    def _send_some(
        self,
        destination: Destination,
        trainer: str,
        entries: list[dict[str, Any]],
        place: SpoolPosition,
    ) -> None:
        """Send the entries of one run; refused ones are bisected until the bad one is found."""
        why = ""
        try:
            self._calls.run(destination.send, entries)
        except MlflowException as error:
            if not is_refusal(error) or not self._calls.run(
                destination.is_writable, entries[0]["run"], trainer
            ):
                raise
            why = str(error).splitlines()[0]
        if not why:
            return
        if len(entries) > 1:
            middle = len(entries) // 2
            for half in (entries[:middle], entries[middle:]):
                self._send_some(destination, trainer, half, place)
            return
        place.refused += 1
        self.context.log.warning("refused by MLflow", error=why)
        with (self._spools / f"{trainer}.refused").open("a") as file:
            file.write(json.dumps(entries[0]) + "\n")

    def _end_dead_run(self, trainer: str, place: SpoolPosition, place_file: Path) -> int:
        """Mark the run as killed if its process died."""
        if place.ended or ProcessIdentity(place.pid, place.start_time).is_alive():
            return 0
        self._calls.run(self._connected().end, place.run, trainer, "KILLED")
        place.ended = True
        write_whole(place_file, msgspec.json.encode(place), durable=False)
        return 1

    def _connected(self) -> Destination:
        if self._destination is None:
            self._destination = self._calls.run(
                Destination,
                self._uri,
                self._config.experiment,
                self._artifacts,
                lambda: self._calls.post(self._announce),
            )
        return self._destination


def _lines(path: Path, offset: int) -> list[bytes]:
    """Return the next complete lines, without one that is still being written."""
    with path.open("rb") as file:
        file.seek(offset)
        found = [line for line, _ in zip(file, range(LINES), strict=False)]
    return [line for line in found if line.endswith(b"\n")]


def _read_place(path: Path) -> SpoolPosition:
    """Return the stored position; the beginning if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=SpoolPosition)
    except (FileNotFoundError, msgspec.DecodeError):
        return SpoolPosition()


def _by_run(lines: list[bytes]) -> list[list[dict[str, Any]]]:
    """Group the entries by run, in order, without lines that a kill cut off."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            groups.setdefault(entry["run"], []).append(entry)
        except (ValueError, KeyError, TypeError):
            continue
    return list(groups.values())
