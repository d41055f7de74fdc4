"""Sends the trainers' spools to MLflow and keeps its place: nothing is lost while MLflow is away.

The place is noted after MLflow took the points; killed in between, a few points are sent again,
which MLflow takes as the same points (same step, same time).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from workers.base import Worker

WAIT_S = 0.1
LINES = 500
MAX_PARAM = 500


class ShipperWorker(Worker):
    """One process for all trainers of the host."""

    def setup(self) -> None:
        """Note where the spools are; MLflow is asked later, for it may be away."""
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
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._runs: dict[str, str] = {}
        self._retry_at = 0.0

    def step(self) -> int:
        """Ship some lines of each spool."""
        if time.monotonic() < self._retry_at:
            self.context.pause(WAIT_S)
            return 0
        shipped = 0
        for path in sorted(self._spools.glob("*.jsonl")):
            try:
                with self.context.expect(4.0 * self._config.timeout_s + 30.0):
                    shipped += self._ship(path)
            except (MlflowException, OSError) as error:
                self.context.log.warning("MLflow is away", error=str(error).splitlines()[0])
                self._retry_at = time.monotonic() + self._config.retry_s
                self._client = None
                return shipped
        if shipped == 0:
            self.context.pause(WAIT_S)
        return shipped

    def _ship(self, path: Path) -> int:
        """Send the next lines of one spool and note the place behind them."""
        place = path.with_suffix(".place")
        start = int(place.read_text()) if place.exists() else 0
        if path.stat().st_size <= start:
            return 0
        with path.open("rb") as file:
            file.seek(start)
            lines = [line for line, _ in zip(file, range(LINES), strict=False)]
        lines = [line for line in lines if line.endswith(b"\n")]  # one may be half written
        for entries in _by_run(lines):
            self._send(entries)
        temporary = place.with_suffix(".tmp")
        temporary.write_text(str(start + sum(map(len, lines))))
        os.replace(temporary, place)  # noqa: PTH105 - the atomic one
        return len(lines)

    def _send(self, entries: list[dict[str, Any]]) -> None:
        client = self._connected()
        run = self._run(client, entries[0]["run"], entries[0]["trainer"])
        metrics = [
            Metric(name, float(value), entry["t"], entry["step"])
            for entry in entries
            for name, value in entry.get("metrics", {}).items()
        ]
        for start in range(0, len(metrics), LINES):
            client.log_batch(run, metrics=metrics[start : start + LINES])
        for entry in entries:
            if params := entry.get("params"):
                self._send_params(client, run, params)
            if end := entry.get("end"):
                client.set_terminated(run, status=end)

    def _send_params(self, client: MlflowClient, run: str, params: dict[str, Any]) -> None:
        known = client.get_run(run).data.params
        new = [
            Param(name, str(value)[:MAX_PARAM])
            for name, value in params.items()
            if name not in known
        ]
        client.log_batch(run, params=new)

    def _connected(self) -> MlflowClient:
        if self._client is None:
            mlflow.set_tracking_uri(self._uri)
            client = MlflowClient(self._uri)
            found = client.get_experiment_by_name(self._config.experiment)
            self._experiment = (
                found.experiment_id
                if found is not None
                else client.create_experiment(self._config.experiment)
            )
            self._client = client
        return self._client

    def _run(self, client: MlflowClient, run: str, trainer: str) -> str:
        """Give MLflow's id of our run: found by its tag, or created."""
        if run not in self._runs:
            found = client.search_runs(
                [self._experiment], f"tags.`mesh.run` = '{run}'", max_results=1
            )
            tags = {"mesh.run": run, "mesh.trainer": trainer}
            mine = (
                found[0]
                if found
                else client.create_run(self._experiment, tags=tags, run_name=trainer)
            )
            self._runs[run] = mine.info.run_id
        return self._runs[run]


def _by_run(lines: list[bytes]) -> list[list[dict[str, Any]]]:
    """Group the entries by run, in order; a line cut by a kill is passed over."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            groups.setdefault(entry["run"], []).append(entry)
        except (ValueError, KeyError, TypeError):
            continue
    return list(groups.values())
