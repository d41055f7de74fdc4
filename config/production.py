"""What a production host refuses to start with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from config.problems import Problem, shown

if TYPE_CHECKING:
    from config.settings import Settings

_OTHERS = 0o007


def refusals(settings: Settings) -> Iterator[Problem]:
    """Every setting that is fine on a desk and a danger in production (none elsewhere)."""
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


def _refused(key: str, value: object, reason: str, remedy: str) -> Problem:
    return Problem(key, shown(key, value), f"refused in production: {reason}", remedy)
