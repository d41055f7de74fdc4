"""What a changed configuration means for what runs. Pure: from old and new settings to names.

A worker reads the sections of its own package and those it shares; it is started again when its
specification or one of them changed, and left alone otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config import Settings
    from config.worker_spec import WorkerSpec

#: Sections that each kind of worker reads besides its own; a test compares with the code.
SECTIONS = {
    "broker": ("broker", "kafka"),
    "feeder": ("feeder", "trading"),
    "ingest": ("ingest", "kafka"),
    "replayer": ("replayer", "kafka"),
    "shipper": ("tracking",),
    "trainer": ("trainer", "trading", "tracking"),
}
#: Sections that are the daemon's; the others are every unknown worker's business.
_DAEMON = {"workers", "supervisor", "logging"}
#: What cannot change while workers run: they would be on another mesh than the daemon.
_FIXED = ("mesh", "run_directory", "environment")


@dataclass(frozen=True, slots=True)
class Changes:
    """Workers by name: to be started, to be stopped and forgotten, to be started again."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def fixed_fault(old: Settings, new: Settings) -> str:
    """Say which key cannot change without a stop of the daemon; empty: none did."""
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
    sections = SECTIONS.get(kind_of(spec)) or set(type(new).model_fields) - _DAEMON
    return any(getattr(old, name) != getattr(new, name) for name in sections)


def kind_of(spec: WorkerSpec) -> str:
    """Give the name of the package of a shipped worker; empty for one of the user's own."""
    parts = spec.worker.partition(":")[0].split(".")
    return parts[1] if parts[0] == "workers" and len(parts) > 2 else ""
