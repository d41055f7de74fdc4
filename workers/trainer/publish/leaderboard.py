"""Who is best: one cell for all trainers, kept by whichever of them holds its lease.

No process of its own: every trainer asks for the lease now and then and one has it; when that one
dies, the next to ask has it (single writer, I4). The keeper ranks all published policies by the
score that travels with them, those of quarantined trainers left out, and names the best; the
feeder acts with it, and by its own order of preference where nobody has a score.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from mesh import LeaseHeld, LeaseLost, NotWritten, Overtaken, SegmentMissing, Tensors
from workers.contract.names import LEADERBOARD, SUPERVISOR, policy_segment
from workers.contract.statuses import Leaderboard, Standing

if TYPE_CHECKING:
    from mesh import Cell, Mesh

MAX_BYTES = 16384
UPDATE_INTERVAL_S = 1.0
PREFIX = policy_segment("")


class LeaderboardKeeper:
    """One trainer's side of the leaderboard."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        """Be ready to keep the board in the name of a trainer."""
        self._mesh, self._name = mesh, name
        self._cell: Cell[Leaderboard] | None = None
        self._policies: dict[str, Tensors] = {}
        self._due = 0.0
        self._last: list[Standing] = []

    def update(self, *, now: bool = False) -> bool:
        """Take a free lease, write the board where it changed; return whether the lease is ours."""
        moment = time.monotonic()
        if moment < self._due and not now:
            return self._cell is not None
        self._due = moment + UPDATE_INTERVAL_S
        try:
            if self._cell is None:
                self._cell = self._mesh.cell(
                    LEADERBOARD, Leaderboard, create=True, max_bytes=MAX_BYTES
                )
                self._last = []
            rows = self._standings()
            if rows != self._last:
                self._cell.write(
                    Leaderboard(
                        best=_best(rows), rows=rows, keeper=self._name, at_ns=time.time_ns()
                    )
                )
                self._last = rows
        except LeaseHeld:
            return False
        except LeaseLost:
            self._cell = None
            return False
        return True

    def _standings(self) -> list[Standing]:
        quarantined = self._quarantined()
        rows = []
        for info in self._mesh.segments():
            if not info.name.startswith(PREFIX):
                continue
            trainer = info.name.removeprefix(PREFIX)
            standing = self._standing(trainer)
            if standing is not None:
                standing.state = "quarantined" if trainer in quarantined else ""
                rows.append(standing)
        return sorted(rows, key=_rank)

    def _standing(self, trainer: str) -> Standing | None:
        try:
            if trainer not in self._policies:
                found = self._mesh.attach(policy_segment(trainer))
                if not isinstance(found, Tensors):
                    return None
                self._policies[trainer] = found
            with self._policies[trainer].borrow() as view:
                score, updates = float(view["score"]), int(view["updates"])
                created_ns, version = int(view["created_ns"]), view.version
        except (SegmentMissing, NotWritten, Overtaken, KeyError):
            self._policies.pop(trainer, None)
            return None
        return Standing(
            trainer=trainer, version=version, updates=updates, score=score, created_ns=created_ns
        )

    def _quarantined(self) -> set[str]:
        try:
            _, status = self._mesh.attach(SUPERVISOR).read()  # type: ignore[union-attr] # a cell
        except (SegmentMissing, NotWritten):
            return set()
        return {row["name"] for row in status["workers"] if row["state"] == "quarantined"}


def _rank(row: Standing) -> tuple[bool, bool, float, str]:
    """Usable ones first, then those with a score, the higher the better."""
    unknown = math.isnan(row.score)
    return (row.state != "", unknown, 0.0 if unknown else -row.score, row.trainer)


def _best(rows: list[Standing]) -> str:
    """The first that is usable and has a score; empty: nobody is."""
    return next((r.trainer for r in rows if r.state == "" and not math.isnan(r.score)), "")
