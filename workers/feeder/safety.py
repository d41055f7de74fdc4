"""May the feeder act now? What the daemon says, whether there is one, and how late the data is.

A silence is no permission: where the daemon's word cannot be read the last one stands, and where
configured a host without a daemon, or data that lags the wall clock, stops acting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mesh import Cell, Mesh, MeshError, SegmentMissing
from workers.contract.names import SUPERVISOR

if TYPE_CHECKING:
    import numpy as np

    from config.feeder import FeederConfig

DAEMON_CHECK_INTERVAL_S = 1.0  # of its status


class Safety:
    """Why acting is not safe; asked at every market state."""

    def __init__(
        self, mesh: Mesh, config: FeederConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Watch the daemon's status and the lag of the data.

        Args:
            mesh: The mesh with the daemon's status, read once a second.
            config: The limits.
            clock: Returns monotonic seconds.
        """
        self._mesh = mesh
        self._config = config
        self._clock = clock
        self._check_at = 0.0
        self._word = ""
        self._seen_at = clock()

    def why_not(self, state: np.ndarray[Any, Any]) -> str:
        """Return the reason not to act.

        Args:
            state: The newest market state, MARKET_DTYPE of shape ().

        Returns:
            The reason; empty when it is safe to act.
        """
        now = self._clock()
        if now >= self._check_at:
            self._check_at = now + DAEMON_CHECK_INTERVAL_S
            self._read_daemon(now)
        limit = self._config.daemon_absence_s
        if limit is not None and now - self._seen_at > limit:
            return f"no daemon for {now - self._seen_at:.0f} s, {limit:g} s are allowed"
        lag = (int(state["ts_published"]) - int(state["ts_event"])) / 1e9
        limit = self._config.live_max_lag_s
        if limit is not None and lag > limit:
            return f"data lags the clock by {lag:.1f} s, {limit:g} s are allowed"
        return self._word

    def _read_daemon(self, now: float) -> None:
        try:
            cell = self._mesh.attach(SUPERVISOR)
            if isinstance(cell, Cell):
                owner = cell.info.owner
                if owner is not None and owner.is_alive():
                    self._seen_at = now
                self._word = str(cell.read()[1].get("safe_state", ""))
            cell.close()
        except SegmentMissing:
            self._word = ""  # run alone: there is no daemon to have a word
        except MeshError:
            return  # not written yet, or unreadable: its last word stands
