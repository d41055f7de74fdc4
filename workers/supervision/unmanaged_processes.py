"""Processes that use the mesh and are nobody's workers: a notebook's trainer, a tool, a test.

They are seen (by a heartbeat row, a lease or a lock), shown in the status and watched if they want
(a row whose own expectation passed is called silent). They are never signalled. What they hold is
freed only when they are dead (I3).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mesh import MeshError, Phase, SpinLock
from workers.contract.statuses import ForeignStatus

if TYPE_CHECKING:
    from mesh import HeartbeatRow, Mesh, ProcessIdentity

LOOK_S = 1.0

EmitEvent = Callable[[str, str, str], None]  # kind, severity, text of an event


class UnmanagedProcesses:
    """All of them, as of the last look."""

    def __init__(self, mesh: Mesh, emit_event: EmitEvent) -> None:
        """Begin with none seen."""
        self._mesh = mesh
        self._emit_event = emit_event
        self._seen: dict[ProcessIdentity, ForeignStatus] = {}
        self._next = 0.0

    def statuses(self) -> list[ForeignStatus]:
        """Give those that live."""
        return list(self._seen.values())

    def look(self, rows: Iterable[HeartbeatRow], own: set[ProcessIdentity], now: float) -> bool:
        """Look around, once in a while; `own` are the daemon and its workers. True: it did."""
        if now < self._next:
            return False
        self._next = now + LOOK_S
        held = self._holders()
        by_identity = {row.identity: row for row in rows if row.phase is not Phase.GONE}
        for identity in [i for i in self._seen if not i.is_alive()]:
            self._retire(identity, own)
        for identity in {*held, *by_identity} - own:
            if identity.pid == 0:
                continue
            if not identity.is_alive():
                if identity in held:  # it came and died between two looks
                    self._seen[identity] = self._status(identity, None, held[identity])
                    self._retire(identity, own)
                continue
            self._see(identity, by_identity.get(identity), sorted(held.get(identity, ())), now)
        return True

    def _see(
        self, identity: ProcessIdentity, row: HeartbeatRow | None, holds: list[str], now: float
    ) -> None:
        known = self._seen.get(identity)
        if known is None:
            known = self._seen[identity] = self._status(identity, row, holds)
            self._emit_event("foreign", "info", f"{known.name}: {identity} uses the mesh")
        known.holds = holds
        silent = row is not None and 0.0 < row.expect_s < now - row.beat_ns / 1e9
        if silent and known.state == "alive":
            self._emit_event(
                "foreign", "warning", f"{known.name}: {identity} is silent; it is left alone"
            )
        known.state = "silent" if silent else "alive"

    def _retire(self, identity: ProcessIdentity, own: set[ProcessIdentity]) -> None:
        status = self._seen.pop(identity)
        if identity in own:
            return
        try:
            broken = self._mesh.break_leases(identity)
        except MeshError as error:  # who comes next takes a dead process's lease by itself
            self._emit_event("not freed", "error", f"{status.name}: {error}")
            broken = []
        what = f"; freed {', '.join(broken)}" if broken else ""
        self._emit_event(
            "foreign", "warning" if broken else "info", f"{status.name}: {identity} ended{what}"
        )

    def _holders(self) -> dict[ProcessIdentity, list[str]]:
        """Who holds a lease or a lock, and which."""
        held: dict[ProcessIdentity, list[str]] = {}
        with contextlib.suppress(MeshError):  # the directory cannot be read now: nobody is seen
            for info in self._mesh.segments():
                owner = info.owner
                if info.kind == "lock":
                    owner = self._lock_owner(info.name)
                if owner is not None:
                    held.setdefault(owner, []).append(info.name)
        return held

    def break_lock(self, name: str) -> tuple[bool, str]:
        """Free a lock whose owner is dead; say what was done, or why nothing was."""
        try:
            lock = self._mesh.attach(name)
        except MeshError as error:
            return False, str(error)
        with contextlib.closing(lock):
            if not isinstance(lock, SpinLock):
                return False, f"{name} is a {lock.info.kind}, not a lock"
            owner = lock.owner()
            if owner is None:
                return True, f"{name} is free"
            who = f"{owner.name!r} {owner.identity}"
            if lock.break_stale() is None:
                return False, f"{name} is held by {who}, which lives; end that process first"
        self._emit_event("lock broken", "warning", f"{name}, held by {who}")
        return True, f"{name}: freed from {who}"

    def _lock_owner(self, name: str) -> ProcessIdentity | None:
        try:
            lock = self._mesh.attach(name)
        except MeshError:  # it went away in between
            return None
        try:
            owner = lock.owner() if isinstance(lock, SpinLock) else None
            return None if owner is None else owner.identity
        finally:
            lock.close()

    @staticmethod
    def _status(
        identity: ProcessIdentity, row: HeartbeatRow | None, holds: list[str]
    ) -> ForeignStatus:
        name = row.worker if row is not None else f"pid {identity.pid}"
        return ForeignStatus(
            name, identity.pid, identity.start_time, "alive", list(holds), time.time_ns() / 1e9
        )
