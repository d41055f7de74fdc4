"""Market time against the monotonic clock: how far the market has come by now. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.replayer import ReplayerConfig


class MarketClock:
    """Runs at a chosen speed, faster in bursts; starts with the first row it is shown."""

    def __init__(self, config: ReplayerConfig) -> None:
        """Stand still until the first call of `reached`."""
        self._config = config
        self._start: tuple[int, float] | None = None  # market ns, monotonic s

    def restart(self) -> None:
        """Start again with the next row: the times behind it have changed."""
        self._start = None

    def reached(self, first: int, sent: int, now: float) -> int:
        """Return the market time (ns) at `now` (monotonic s).

        `first` is the time of the next row, `sent` that of the last one that was published. A
        gap between them longer than `max_gap_s` is skipped.
        """
        if self._start is None:
            self._start = first, now
        market, since = self._start
        reached = market + int(self._passed(now - since) * self._config.speed * 1e9)
        if 0 < self._config.max_gap_s * 1e9 < first - max(reached, sent):
            self._start = first, now
            return first
        return reached

    def _passed(self, elapsed: float) -> float:
        """Seconds at plain speed that are worth `elapsed` seconds with their bursts.

        A burst ends each period: the first one comes when the others have found their pace.
        """
        config = self._config
        if config.burst_every_s == 0.0:
            return elapsed
        length = min(config.burst_length_s, config.burst_every_s)
        periods, rest = divmod(elapsed, config.burst_every_s)
        bursting = periods * length + max(0.0, rest - (config.burst_every_s - length))
        return elapsed + bursting * (config.burst_factor - 1.0)
