"""Processes that use the mesh and that no daemon manages: a notebook's trainer, a tool, a test.

They are found by a heartbeat row, a lease or a lock, and shown in the status (key `foreign`); one
whose heartbeat is later than it announced itself is called silent. They are never signalled. What
they hold is freed only when they are dead (I3).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mesh import MeshError, Phase, SpinLock
from workers.contract.statuses import UnmanagedProcess

if TYPE_CHECKING:
    from mesh import HeartbeatRow, Mesh, ProcessIdentity
    from workers.supervision.event_log import EmitEvent

SCAN_INTERVAL_S = 1.0


class UnmanagedProcesses:
    """All of them, as of the last scan."""

    def __init__(self, mesh: Mesh, emit_event: EmitEvent) -> None:
        """Start with an empty list; events go to `emit_event`."""
        self._mesh = mesh
        self._emit_event = emit_event
        self._seen: dict[ProcessIdentity, UnmanagedProcess] = {}
        self._scan_at = 0.0

    def statuses(self) -> list[UnmanagedProcess]:
        """Return those that are alive."""
        return list(self._seen.values())

    def scan(self, rows: Iterable[HeartbeatRow], own: set[ProcessIdentity], now: float) -> None:
        """Find them, every `SCAN_INTERVAL_S`.

        Args:
            rows: All heartbeats.
            own: The daemon and its workers.
            now: Monotonic seconds.
        """
        if now < self._scan_at:
            return
        self._scan_at = now + SCAN_INTERVAL_S
        held = self._holders()
        by_identity = {row.identity: row for row in rows if row.phase is not Phase.GONE}
        for identity in [i for i in self._seen if not i.is_alive()]:
            self._free_dead(identity, own)
        for identity in {*held, *by_identity} - own:
            if identity.pid == 0:
                continue
            if not identity.is_alive():
                if identity in held:  # it came and died between two scans
                    self._seen[identity] = self._status(identity, None, held[identity])
                    self._free_dead(identity, own)
                continue
            self._update(identity, by_identity.get(identity), sorted(held.get(identity, ())), now)

    def _update(
        self, identity: ProcessIdentity, row: HeartbeatRow | None, holds: list[str], now: float
    ) -> None:
        known = self._seen.get(identity)
        if known is None:
            known = self._seen[identity] = self._status(identity, row, holds)
            self._emit_event("unmanaged", "info", f"{known.name}: {identity} uses the mesh")
        known.holds = holds
        silent = row is not None and 0.0 < row.expect_s < now - row.beat_ns / 1e9
        if silent and known.state == "alive":
            self._emit_event(
                "unmanaged", "warning", f"{known.name}: {identity} is silent; left running"
            )
        known.state = "silent" if silent else "alive"

    def _free_dead(self, identity: ProcessIdentity, own: set[ProcessIdentity]) -> None:
        status = self._seen.pop(identity)
        if identity in own:
            return
        try:
            broken = self._mesh.break_leases(identity)
        except MeshError as error:  # the next owner takes a dead process's lease by itself
            self._emit_event("not freed", "error", f"{status.name}: {error}")
            broken = []
        what = f"; freed {', '.join(broken)}" if broken else ""
        self._emit_event(
            "unmanaged", "warning" if broken else "info", f"{status.name}: {identity} ended{what}"
        )

    def _holders(self) -> dict[ProcessIdentity, list[str]]:
        """Return the names of the leases and locks that each process holds."""
        held: dict[ProcessIdentity, list[str]] = {}
        with contextlib.suppress(MeshError):  # the directory cannot be read now
            for info in self._mesh.segments():
                owner = info.owner
                if info.kind == "lock":
                    owner = self._lock_owner(info.name)
                if owner is not None:
                    held.setdefault(owner, []).append(info.name)
        return held

    def break_lock(self, name: str) -> tuple[bool, str]:
        """Free a lock whose owner is dead.

        Returns:
            Whether it is free now, and what was done or why nothing was.
        """
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
    ) -> UnmanagedProcess:
        name = row.worker if row is not None else f"pid {identity.pid}"
        return UnmanagedProcess(
            name=name,
            pid=identity.pid,
            start_time=identity.start_time,
            state="alive",
            holds=list(holds),
            since=time.time_ns() / 1e9,
        )
