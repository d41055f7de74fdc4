"""Compares two configurations: which workers are added, removed or restarted by a reload.

A worker restarts when its specification changed, or a section that its package declares to read.
A worker of an undeclared package restarts after a change of any section but the daemon's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config import Settings
    from config.worker_spec import WorkerSpec

#: Sections that are the daemon's; an undeclared worker may read every other one.
_DAEMON = {"workers", "supervisor", "logging"}
#: Keys that cannot change while workers run: they would be on another mesh than the daemon.
_FIXED = ("mesh", "run_directory", "environment")


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of the workers to start, to stop and forget, and to restart."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def fixed_fault(old: Settings, new: Settings) -> str:
    """Name the changed key that needs a stop of the daemon; empty: there is no such change."""
    for key in _FIXED:
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            return f"{key} changed from {before} to {after}: stop the daemon and start it again"
    return ""


def changes(old: Settings, new: Settings) -> Changes:
    """Compare the enabled workers of two configurations."""
    before = {spec.name: spec for spec in old.workers if spec.enabled}
    after = {spec.name: spec for spec in new.workers if spec.enabled}
    return Changes(
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        tuple(
            name
            for name, spec in after.items()
            if name in before and (spec != before[name] or _reads_changed(spec, old, new))
        ),
    )


def _reads_changed(spec: WorkerSpec, old: Settings, new: Settings) -> bool:
    sections = spec.declaration.sections
    if sections is None:
        sections = tuple(set(type(new).model_fields) - _DAEMON)
    return any(getattr(old, name) != getattr(new, name) for name in sections)
