"""Access to MLflow: runs (found by our own tag), metrics, parameters, models.

Everything may be sent twice: MLflow stores a point with the same step, time and value once, known
parameters are not sent again, and a model's files keep their names and are registered once.
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

POINTS = 1000  # per request, MLflow's own limit
LOADER = "workers.trading_env.policy.mlflow_policy"
MAX_PARAM = 500
#: Error codes for content that MLflow will not accept later either.
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}
#: Errors of the client while a server or database cannot be reached or answers with garbage.
UNAVAILABLE = (MlflowException, OSError, SQLAlchemyError, ValueError)


def is_refusal(error: Exception) -> bool:
    """Return whether MLflow refused the content, rather than being unavailable."""
    return isinstance(error, MlflowException) and error.error_code in REFUSALS


class Destination:
    """One experiment on a tracking server or in a SQLite file.

    All methods may fail with the errors in UNAVAILABLE.
    """

    def __init__(
        self, uri: str, experiment: str, artifacts: Path | None, announce: Callable[[], None]
    ) -> None:
        """Connect, and find or create the experiment.

        Args:
            uri: MLflow's tracking URI.
            experiment: Name of the experiment.
            artifacts: Directory for files of a new experiment; None: the server's choice.
            announce: Called before every two or three requests, each of which may take up to
                MLflow's own timeout.

        Raises:
            MlflowException: The experiment was deleted.
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
                f"experiment {experiment!r} was deleted in MLflow; restore it, or set another name "
                "in tracking.experiment"
            )
        self._runs: dict[str, str] = {}

    def send(self, entries: Sequence[dict[str, Any]]) -> None:
        """Send the entries of one run in their order."""
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
        """Mark a run as ended.

        Args:
            run: Our id of the run.
            trainer: Its trainer.
            status: MLflow's status, such as FINISHED or KILLED.
        """
        self._announce()
        self._client.set_terminated(self._run(run, trainer), status=status)

    def is_writable(self, run: str, trainer: str) -> bool:
        """Return whether the run is active in MLflow, so that a refusal concerns the content."""
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
        """Upload the files as a model, register it as a version, and set the alias to it."""
        client, name, folder = self._client, entry["model"], f"policy-{entry['step']}"
        files = [Path(path) for path in entry["files"] if Path(path).exists()]
        if not files:
            return  # already replaced by a newer model
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
        """Return MLflow's id of our run, which is found by its tag or created."""
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
    """Create an MLflow model directory from the arrays of a policy, with the other files in it.

    `mlflow.pyfunc.load_model` reads it without pickle, torch or stable-baselines3.
    """
    arrays = next((path for path in files if path.suffix == ".npz"), None)
    if arrays is None:
        target.mkdir()
    else:
        from mlflow import pyfunc  # noqa: PLC0415 - a slow import that only models need

        pyfunc.save_model(
            str(target), loader_module=LOADER, data_path=str(arrays), pip_requirements=[]
        )
    for path in files:
        if path != arrays:
            shutil.copy(path, target)
