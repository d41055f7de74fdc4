"""Maps the monotonic clock to market time. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.replayer import ReplayerConfig


class MarketClock:
    """Runs at a configured speed, faster in bursts, from the time of the first row on."""

    def __init__(self, config: ReplayerConfig) -> None:
        """Stand still until the first call of `reached`."""
        self._config = config
        self._start: tuple[int, float] | None = None  # market ns, monotonic s

    def restart(self) -> None:
        """Start again at the time of the next row, after the source was rewound."""
        self._start = None

    def reached(self, first: int, sent: int, now: float) -> int:
        """Return the market time that has been reached, in ns.

        A gap before the next row that is longer than `max_gap_s` is skipped.

        Args:
            first: Market time of the next row, ns.
            sent: Market time of the last published row, ns.
            now: Monotonic seconds.
        """
        if self._start is None:
            self._start = first, now
        market, since = self._start
        reached = market + int(self._with_bursts(now - since) * self._config.speed * 1e9)
        if 0 < self._config.max_gap_s * 1e9 < first - max(reached, sent):
            self._start = first, now
            return first
        return reached

    def _with_bursts(self, elapsed: float) -> float:
        """Return how many seconds at normal speed correspond to `elapsed` seconds with bursts.

        A burst is at the end of each period, so that a run starts at normal speed.
        """
        config = self._config
        if config.burst_every_s == 0.0:
            return elapsed
        length = min(config.burst_length_s, config.burst_every_s)
        periods, rest = divmod(elapsed, config.burst_every_s)
        bursting = periods * length + max(0.0, rest - (config.burst_every_s - length))
        return elapsed + bursting * (config.burst_factor - 1.0)
