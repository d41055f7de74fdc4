"""`Settings`: all sections, their sources and the order of precedence.

Defaults < TOML profile < .env < environment (MESH__SECTION__KEY) < systemd credentials < --set.
One pass reports every problem; with a problem nothing starts.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from config import sources
from config.broker import BrokerConfig
from config.declaration import declaring_package
from config.feeder import FeederConfig
from config.ingest import IngestConfig
from config.kafka import KafkaConfig
from config.logging import LoggingConfig
from config.mesh import MeshConfig
from config.problems import ConfigProblems, Problem, from_validation, masked
from config.production import refusals
from config.replayer import ReplayerConfig
from config.sources import Gathered, KeyPath
from config.supervisor import SupervisorConfig
from config.tracking import TrackingConfig
from config.trading import TradingConfig
from config.trainer import TrainerConfig
from config.worker_spec import WorkerSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHORT = {"prod": "production", "dev": "development"}


class Settings(BaseModel):
    """All settings, checked and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: Literal["demo", "development", "production"] = Field(
        default="development",
        description="Where this runs; production refuses what is safe on a desk only. "
        "The variable ENVIRONMENT sets it too (prod and dev are understood).",
    )
    debug: bool = Field(default=False, description="Show internals in errors.")
    run_directory: Path = Field(
        default=Path(".run"),
        description="Directory for what outlives a process: logs, crash reports, checkpoints, "
        "spools.",
    )
    mesh: MeshConfig = MeshConfig()
    logging: LoggingConfig = LoggingConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    kafka: KafkaConfig = KafkaConfig()
    broker: BrokerConfig = BrokerConfig()
    ingest: IngestConfig = IngestConfig()
    trading: TradingConfig = TradingConfig()
    feeder: FeederConfig = FeederConfig()
    trainer: TrainerConfig = TrainerConfig()
    tracking: TrackingConfig = TrackingConfig()
    replayer: ReplayerConfig = ReplayerConfig()
    workers: tuple[WorkerSpec, ...] = ()

    @field_validator("environment", mode="before")
    @classmethod
    def _spelt_out(cls, value: object) -> object:
        return _SHORT.get(value, value) if isinstance(value, str) else value

    @field_validator("workers")
    @classmethod
    def _workers_fit_together(cls, workers: tuple[WorkerSpec, ...]) -> tuple[WorkerSpec, ...]:
        workers = _expanded(workers)
        fault = _dependency_fault(workers) or _section_fault(workers, cls.model_fields)
        if fault:
            raise ValueError(fault)
        return workers

    def masked(self) -> dict[str, Any]:
        """All settings as JSON values, secrets masked."""
        dumped: dict[str, Any] = masked(self.model_dump(mode="json"))
        return dumped

    def fingerprint(self) -> str:
        """16 hex digits that differ when any setting (but a secret) differs."""
        text = json.dumps(self.masked(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _expanded(workers: Sequence[WorkerSpec]) -> tuple[WorkerSpec, ...]:
    """Every instance as a worker; who depends on several instances depends on all of them."""
    instances = {spec.name: [each.name for each in spec.expanded()] for spec in workers}
    found = []
    for spec in workers:
        needs = tuple(one for name in spec.depends_on for one in instances.get(name, [name]))
        found += [each.model_copy(update={"depends_on": needs}) for each in spec.expanded()]
    return tuple(found)


def _dependency_fault(workers: Sequence[WorkerSpec]) -> str:
    """What is wrong with names and dependencies of the workers; empty when nothing is."""
    names = [spec.name for spec in workers]
    for name in names:
        if names.count(name) > 1:
            return f"two workers are named {name!r}; rename one"
    waiting = {spec.name: set(spec.depends_on) for spec in workers if spec.enabled}
    for name, needs in waiting.items():
        if missing := sorted(needs - waiting.keys()):
            return f"worker {name!r} depends on {missing[0]!r}, which is not there or not enabled"
    while waiting:
        free = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        if not free:
            return f"workers depend on each other in a circle: {', '.join(sorted(waiting))}"
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    return ""


def _section_fault(workers: Sequence[WorkerSpec], sections: Container[str]) -> str:
    """Which declared section does not exist; empty when all do."""
    for spec in workers:
        for name in spec.declaration.sections or ():
            if name not in sections:
                where = declaring_package(spec.worker)
                return f"{where}, which declares {spec.name!r}, names no known section: {name!r}"
    return ""


def load_settings(
    profile: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """Gather, merge and check all sources.

    Args:
        profile: shipped name or path of a TOML file; None: the defaults.
        overrides: texts `section.key=value`, the strongest source.
        environ: variables instead of those of the process.
        directory: where `.env` is read, instead of the working directory.

    Returns:
        The checked settings.

    Raises:
        ConfigProblems: with every problem, found in all sources.
    """
    gathered = gather(profile, overrides, environ=environ, directory=directory)
    return build(gathered, "" if profile is None else str(profile))


def gather(
    profile: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Gathered:
    """Read every source in the order of precedence, without checking it against the models.

    Args:
        profile: as of `load_settings`.
        overrides: as of `load_settings`.
        environ: as of `load_settings`.
        directory: as of `load_settings`.

    Returns:
        The merged values, their origins, and the problems of the sources themselves.
    """
    environ = os.environ if environ is None else environ
    directory = Path.cwd() if directory is None else directory
    gathered = Gathered()
    problems = gathered.problems
    if profile is not None:
        gathered.assign(sources.from_toml(sources.profile_file(profile), problems))
    declared = list(gathered.tree.get(sources.WORKERS, {}))
    dotenv = sources.from_dotenv(directory / ".env", problems)
    gathered.assign(sources.from_variables(dotenv, Settings, ".env", problems, declared))
    gathered.assign(sources.from_variables(environ, Settings, "environment", problems, declared))
    credentials = environ.get("CREDENTIALS_DIRECTORY", "")
    gathered.assign(sources.from_credentials(credentials, Settings, problems))
    gathered.assign(sources.from_overrides(overrides, Settings, problems))
    problems += sources.unknown_workers(gathered, declared)
    return gathered


def build(gathered: Gathered, profile: str = "") -> Settings:
    """Check what was gathered.

    Args:
        gathered: values of all sources.
        profile: name of the profile, for the report.

    Returns:
        The checked settings.

    Raises:
        ConfigProblems: with every problem of sources, values and declarations.
    """
    problems = list(gathered.problems)
    tree = _with_worker_list(gathered.tree)
    settings: Settings | None
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        for each in error.errors():
            path = _path(each["loc"], gathered.tree)
            problems += _problems(each, gathered, path, Settings)
        settings = _without_faults(gathered.tree, error)
    if settings is not None:
        problems += refusals(settings)
        problems += _own_settings(settings, gathered)
    if problems or settings is None:
        raise ConfigProblems(problems, profile)
    return settings


def _with_worker_list(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with [workers.NAME] tables as the list that the model holds."""
    named = tree.get(sources.WORKERS)
    if not isinstance(named, dict):
        return dict(tree)
    listed = [
        {"name": name, **spec} if isinstance(spec, dict) else spec for name, spec in named.items()
    ]
    return {**tree, sources.WORKERS: listed}


def _without_faults(tree: dict[str, Any], error: ValidationError) -> Settings | None:
    """Settings with faulty keys at their defaults, so that the production check covers the rest."""
    trimmed = json.loads(json.dumps(tree, default=str))
    for each in error.errors():
        path = _path(each["loc"], tree)
        node: Any = trimmed
        for part in path[:-1]:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(path[-1], None)
    try:
        return Settings.model_validate(_with_worker_list(trimmed))
    except ValidationError:
        return None


def _own_settings(settings: Settings, gathered: Gathered) -> Iterator[Problem]:
    """What is wrong with `[workers.NAME.settings]` where its package brings a model for it."""
    named = gathered.tree.get(sources.WORKERS, {})
    checked = set()
    for spec in settings.workers:
        name = spec.name if spec.name in named else spec.group  # one of several instances
        where = spec.declaration.settings
        if not where or name in checked:
            continue
        checked.add(name)
        above = (sources.WORKERS, name, "settings")
        try:
            module, _, model_name = where.partition(":")
            model: type[BaseModel] = getattr(importlib.import_module(module), model_name)
            model.model_validate(spec.settings)
        except ValidationError as error:
            for each in error.errors():
                path = (*above, *(str(part) for part in each["loc"]))
                yield from _problems(each, gathered, path, model)
        except (ImportError, AttributeError) as error:
            yield Problem(".".join(above), "", f"{where} cannot be imported: {error}", "correct it")


def _path(location: Sequence[int | str], tree: Mapping[str, Any]) -> KeyPath:
    """Where an error lies, with a worker's name instead of its position."""
    parts = [str(part) for part in location]
    named = tree.get(sources.WORKERS)
    if parts[:1] == [sources.WORKERS] and len(parts) > 1 and isinstance(named, dict):
        parts[1] = list(named)[int(parts[1])]
    return tuple(parts)


def _problems(
    error: ErrorDetails, gathered: Gathered, path: KeyPath, model: type[BaseModel]
) -> Iterator[Problem]:
    """One pydantic error of `model` as Problems: an unknown table is one for each value in it."""
    known, description = _surroundings(error["loc"], model)
    given = [path]
    if error["type"] == "extra_forbidden":
        given = [each for each in gathered.origins if each[: len(path)] == path] or given
    for each in given:
        yield from_validation(
            error,
            value=error["input"] if each == path else _value(gathered.tree, each),
            key=".".join(each),
            misspelt=path[-1],
            origin=gathered.origin(each),
            description=description,
            known=known,
        )


def _value(tree: Any, path: KeyPath) -> Any:
    """What `tree` holds at `path`; None where a later source replaced the table it lay in."""
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _surroundings(location: Sequence[int | str], top: type[BaseModel]) -> tuple[list[str], str]:
    """The keys beside the one at `location` below `top`, and its description."""
    model: type[BaseModel] | None = top
    known: list[str] = []
    description = ""
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        known = list(model.model_fields)
        field = model.model_fields.get(part)
        description = (field.description or "") if field else ""
        model = sources.model_of(field.annotation) if field else None
    return known, description
