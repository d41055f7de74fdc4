"""Whose policy acts: the newest usable one of the best trainer, read between two steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mesh import Cell, Corrupt, Mesh, NotWritten, SegmentMissing, Tensors
from workers.contract.names import LEADERBOARD, policy_segment
from workers.trading_env.errors import InvalidPolicy
from workers.trading_env.policy.numpy_policy import PublishedPolicy

if TYPE_CHECKING:
    from mesh.arrays import Array

SEGMENT_CHECK_INTERVAL_S = 0.5  # for segments that were not there


class Policy:
    """One published policy that may act."""

    def __init__(self, trainer: str, version: int, arrays: dict[str, Array]) -> None:
        """Take the arrays of a published policy.

        Raises:
            InvalidPolicy: The arrays are incomplete or not finite.
        """
        self.act = PublishedPolicy(arrays)
        self.trainer = trainer
        self.version = version
        self.created_ns = int(arrays["created_ns"])
        self.score = float(arrays["score"])


class Policies:
    """The policies of some trainers; a refused or torn one leaves the last good one in place."""

    def __init__(self, mesh: Mesh, trainers: Sequence[str], max_age_s: float) -> None:
        """Follow the policies of some trainers.

        Args:
            mesh: The mesh the trainers publish to.
            trainers: Names of the trainers in the order of preference.
            max_age_s: Older policies do not act, seconds.
        """
        self._mesh = mesh
        self._trainers = trainers
        self._max_age_ns = int(max_age_s * 1e9)
        self._segments: dict[str, Tensors] = {}
        self._board: Cell[Any] | None = None
        self._versions: dict[str, int] = {}
        self._good: dict[str, Policy] = {}
        self._usable = False
        self._check_at = 0.0
        self.refused = 0

    def best(self) -> Policy | None:
        """Return the policy to act with now, or None when no policy is usable."""
        self._attach()
        for trainer in list(self._segments):
            self._refresh(trainer)
        oldest = time.time_ns() - self._max_age_ns
        usable = {t: p for t, p in self._good.items() if p.created_ns >= oldest}
        self._usable = bool(usable)
        leader = self._leader()
        if leader in usable:
            return usable[leader]
        return next((usable[t] for t in self._trainers if t in usable), None)

    @property
    def has_expired(self) -> bool:
        """Whether there were policies, all of them too old now; as of the last `best()`."""
        return bool(self._good) and not self._usable

    def _attach(self) -> None:
        now = time.monotonic()
        missing = [t for t in self._trainers if t not in self._segments]
        if not (missing or self._board is None) or now < self._check_at:
            return
        self._check_at = now + SEGMENT_CHECK_INTERVAL_S
        if self._board is None:
            self._board = self._leaderboard()
        for trainer in missing:
            try:
                segment = self._mesh.attach(policy_segment(trainer))
            except SegmentMissing:
                continue
            if isinstance(segment, Tensors):
                self._segments[trainer] = segment

    def _refresh(self, trainer: str) -> None:
        segment = self._segments[trainer]
        try:
            if segment.version == self._versions.get(trainer, 0):
                return
            version = segment.version
            self._versions[trainer] = version  # seen, also where it is refused: counted once
            version, arrays = segment.read()
            self._versions[trainer] = version
            self._good[trainer] = Policy(trainer, version, arrays)
        except (InvalidPolicy, Corrupt):
            self.refused += 1
        except NotWritten:
            return
        except SegmentMissing:  # replaced: attach again
            del self._segments[trainer]

    def _leaderboard(self) -> Cell[Any] | None:
        try:
            board = self._mesh.attach(LEADERBOARD)
        except SegmentMissing:
            return None
        return board if isinstance(board, Cell) else None

    def _leader(self) -> str:
        if self._board is None:
            return ""
        try:
            _, board = self._board.read()
        except NotWritten:
            return ""
        except SegmentMissing:  # replaced: attach again
            self._board = None
            return ""
        return str(board.get("best", ""))
