"""What a production host refuses to start with.

Three things are refused whatever runs; the rest is declared by the enabled workers' packages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from config.problems import Problem, shown

if TYPE_CHECKING:
    from config.declaration import Refusal
    from config.logging import LoggingConfig
    from config.mesh import MeshConfig
    from config.worker_spec import WorkerSpec

_OTHERS = 0o007


class ProductionSettings(Protocol):
    """What the check reads itself; refusals of workers read further sections by key."""

    @property
    def environment(self) -> str:
        """Where this runs."""

    @property
    def debug(self) -> bool:
        """Whether errors show internals."""

    @property
    def logging(self) -> LoggingConfig:
        """Section `logging`."""

    @property
    def mesh(self) -> MeshConfig:
        """Section `mesh`."""

    @property
    def workers(self) -> Sequence[WorkerSpec]:
        """All workers, enabled or not."""


def refusals(settings: ProductionSettings) -> Iterator[Problem]:
    """Every setting that suits a desk and endangers production; nothing in other environments."""
    if settings.environment != "production":
        return
    if settings.debug:
        yield _refused("debug", settings.debug, "debugging shows internals", "set it to false")
    if settings.logging.level == "debug":
        reason = "debug logs show messages and addresses"
        yield _refused("logging.level", settings.logging.level, reason, "use info or warning")
    if settings.mesh.permissions & _OTHERS:
        reason = "every user of the host could read the mesh"
        yield _refused("mesh.mode", settings.mesh.mode, reason, "use 0700, or 0750 with a group")
    declared = [
        problem
        for spec in settings.workers
        if spec.enabled
        for refusal in spec.declaration.refuses
        for problem in _declared(refusal, settings, spec)
    ]
    yield from dict.fromkeys(declared)  # several workers may refuse the same value


def _declared(
    refusal: Refusal, settings: ProductionSettings, spec: WorkerSpec
) -> Iterator[Problem]:
    try:
        value = spec.name if refusal.key == "workers" else value_at(settings, refusal.key)
    except AttributeError:
        reason = f"the package of worker {spec.name!r} refuses values of a key that does not exist"
        yield Problem(refusal.key, "", reason, "correct its declaration")
        return
    if refusal.refuses(value):
        yield _refused(refusal.key, value, refusal.reason, refusal.remedy)


def value_at(settings: object, key: str) -> Any:
    """The value of a dotted key; None where a free table lacks it.

    Raises:
        AttributeError: no section has such a key.
    """
    value: Any = settings
    rest = key
    while rest and not isinstance(value, Mapping):
        part, _, rest = rest.partition(".")
        value = getattr(value, part)
    return value.get(rest) if rest else value


def _refused(key: str, value: object, reason: str, remedy: str) -> Problem:
    return Problem(key, shown(key, value), f"refused in production: {reason}", remedy)
