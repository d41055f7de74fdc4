"""Market time: speed, bursts, gaps; pure, no time passes."""

from __future__ import annotations

import pytest

from config.replayer import ReplayerConfig
from workers.replayer.clock import MarketClock

S = 10**9


def clock(**settings):
    """A clock that was started at market 1000 s, monotonic 50 s."""
    one = MarketClock(ReplayerConfig(**settings))
    assert one.reached(1000 * S, 0, 50.0) == 1000 * S
    return one


def test_market_time_passes_at_the_chosen_speed():
    """60 market seconds a second, and again from a restart on."""
    one = clock(speed=60.0)
    assert one.reached(1000 * S, 0, 52.0) == 1120 * S
    one.restart()
    assert one.reached(5000 * S, 0, 60.0) == 5000 * S
    assert one.reached(5000 * S, 0, 61.0) == 5060 * S


@pytest.mark.parametrize(
    ("elapsed", "passed"), [(0.5, 0.5), (0.9, 0.9), (0.95, 1.4), (1.0, 1.9), (1.5, 2.4), (2.0, 3.8)]
)
def test_bursts_end_each_period(elapsed, passed):
    """Ten times faster in the last tenth of every second."""
    one = clock(speed=1.0, burst_every_s=1.0, burst_length_s=0.1, burst_factor=10.0)
    assert one.reached(1000 * S, 0, 50.0 + elapsed) / S == pytest.approx(1000 + passed)


def test_long_gaps_are_skipped():
    """A night is skipped, a quiet minute is not; market time goes on from behind the gap."""
    one = clock(speed=1.0, max_gap_s=90.0)
    assert one.reached(1080 * S, 1000 * S, 51.0) == 1001 * S
    assert one.reached(9000 * S, 1000 * S, 51.0) == 9000 * S
    assert one.reached(9000 * S, 1000 * S, 53.0) == 9002 * S
