"""MLflow as the shipper sees it: runs found by our own tag, points, parameters, models.

Everything may be sent twice: MLflow keeps a point of the same step, time and value once, parameters
that are known are left alone, a model's files are uploaded under the same name and registered once.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import LifecycleStage, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POINTS = 1000  # of a request, MLflow's own limit
LOADER = "workers.trading_env.policy.mlflow_policy"
MAX_PARAM = 500
#: Answers that say that this content is not taken, now or later.
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}
#: What its client raises while a server or database is away, or answers what is no answer.
AWAY = (MlflowException, OSError, SQLAlchemyError, ValueError)


def is_refusal(error: Exception) -> bool:
    """Tell whether MLflow refused what was sent, rather than being away."""
    return isinstance(error, MlflowException) and error.error_code in REFUSALS


class Destination:
    """One experiment of one tracking server (or SQLite file)."""

    def __init__(
        self, uri: str, experiment: str, artifacts: Path | None, announce: Callable[[], None]
    ) -> None:
        """Connect and find or make the experiment; its files go to `artifacts` where given.

        `announce` is called before every two or three requests: each may take as long as a slow
        server likes, up to MLflow's own timeout. All methods raise AWAY.
        """
        self._announce = announce
        announce()
        mlflow.set_tracking_uri(uri)
        self._client = client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        location = None if artifacts is None else artifacts.as_uri()
        self._experiment = (
            found.experiment_id
            if found is not None
            else client.create_experiment(experiment, artifact_location=location)
        )
        if found is not None and found.lifecycle_stage != LifecycleStage.ACTIVE:
            raise MlflowException(
                f"experiment {experiment!r} was deleted in MLflow; restore it, or name another one "
                "in tracking.experiment"
            )
        self._runs: dict[str, str] = {}

    def send(self, entries: Sequence[dict[str, Any]]) -> None:
        """Send entries of one run, in their order."""
        run = self._run(entries[0]["run"], entries[0]["trainer"])
        metrics: list[Metric] = []
        for entry in entries:
            metrics += [
                Metric(name, float(value), entry["t"], entry["step"])
                for name, value in entry.get("metrics", {}).items()
            ]
            if len(metrics) >= POINTS or "metrics" not in entry:
                self._points(run, metrics)
                metrics = []
                self._event(run, entry)
        self._points(run, metrics)

    def end(self, run: str, trainer: str, status: str) -> None:
        """Mark a run as ended."""
        self._announce()
        self._client.set_terminated(self._run(run, trainer), status=status)

    def is_writable(self, run: str, trainer: str) -> bool:
        """Tell whether MLflow has the run, so that a refusal is about what was sent."""
        self._announce()
        info = self._client.get_run(self._run(run, trainer)).info
        return bool(info.lifecycle_stage == LifecycleStage.ACTIVE)

    def _points(self, run: str, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), POINTS):
            self._announce()
            self._client.log_batch(run, metrics=metrics[start : start + POINTS])

    def _event(self, run: str, entry: dict[str, Any]) -> None:
        self._announce()
        if "begin" in entry:
            self._client.update_run(run, status="RUNNING")
            self._client.set_tag(run, "mesh.resumed_from", entry["begin"] or "nothing")
        if params := entry.get("params"):
            self._params(run, params)
        if "model" in entry:
            self._model(run, entry)
        if end := entry.get("end"):
            self._client.set_terminated(run, status=end)

    def _params(self, run: str, params: dict[str, Any]) -> None:
        known = self._client.get_run(run).data.params
        new = [
            Param(name, str(value)[:MAX_PARAM])
            for name, value in params.items()
            if name not in known
        ]
        self._client.log_batch(run, params=new)

    def _model(self, run: str, entry: dict[str, Any]) -> None:
        """Upload the files as a model, register it as a version, and move the alias there."""
        client, name, folder = self._client, entry["model"], f"policy-{entry['step']}"
        files = [Path(path) for path in entry["files"] if Path(path).exists()]
        if not files:
            return  # a newer one has replaced them
        with tempfile.TemporaryDirectory(prefix="tradingmesh-") as directory:
            model = Path(directory) / "model"
            _package(files, model)
            for path in sorted(path for path in model.rglob("*") if path.is_file()):
                self._announce()
                below = path.parent.relative_to(model)
                client.log_artifact(run, str(path), artifact_path=str(Path(folder, below)))
        self._announce()
        source = f"{client.get_run(run).info.artifact_uri}/{folder}"
        try:
            client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(name)
        self._announce()
        known = client.search_model_versions(f"name='{name}' and run_id='{run}'")
        version = next((one for one in known if one.source == source), None)
        if version is None:
            tags = {"updates": str(entry["step"])}
            version = client.create_model_version(name, source, run_id=run, tags=tags)
        client.set_registered_model_alias(name, entry["alias"], version.version)

    def _run(self, run: str, trainer: str) -> str:
        """Return MLflow's id of our run: found by its tag, or created."""
        if run not in self._runs:
            self._announce()
            found = self._client.search_runs(
                [self._experiment], f"tags.`mesh.run` = '{run}'", max_results=1
            )
            tags = {"mesh.run": run, "mesh.trainer": trainer}
            mine = (
                found[0]
                if found
                else self._client.create_run(self._experiment, tags=tags, run_name=trainer)
            )
            self._runs[run] = mine.info.run_id
        return self._runs[run]


def _package(files: Sequence[Path], target: Path) -> None:
    """Make a model directory of MLflow's of a policy's arrays, other files beside them.

    `mlflow.pyfunc.load_model` reads it, with no pickle, torch or stable-baselines3.
    """
    arrays = next((path for path in files if path.suffix == ".npz"), None)
    if arrays is None:
        target.mkdir()
    else:
        from mlflow import pyfunc  # noqa: PLC0415 - only with a model its import is worth a second

        pyfunc.save_model(
            str(target), loader_module=LOADER, data_path=str(arrays), pip_requirements=[]
        )
    for path in files:
        if path != arrays:
            shutil.copy(path, target)
