"""The synthetic market: seeded, without end, with real quotes' faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.replayer.synthetic import SyntheticMarket

START = "2026-01-05T14:30:00+00:00"
WHOLE = SyntheticMarket(3, START).read(0, 4000)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3900), st.integers(1, 100))
def test_a_row_depends_on_seed_and_position_alone(position, count):
    """Read from anywhere in any portion, the rows are the same."""
    part = SyntheticMarket(3, START).read(position, count)
    assert part.tobytes() == WHOLE[position : position + count].tobytes()


def test_quotes_are_of_a_market():
    """Ordered in time, several contracts, mostly two-sided, some sides absent, finite greeks."""
    assert (np.diff(WHOLE["ts_event"]) >= 0).all()
    assert np.unique(WHOLE["symbol"]).size == 37
    absent = np.isnan(WHOLE["bid"]) | np.isnan(WHOLE["ask"])
    assert 0 < absent.mean() < 0.1
    assert (WHOLE["ask"][~absent] >= WHOLE["bid"][~absent]).mean() > 0.99
    assert WHOLE["sequence"].tolist() == list(range(4000))
    other = SyntheticMarket(4, START).read(0, 4000)
    assert other.tobytes() != WHOLE.tobytes()


def test_start_needs_an_offset():
    """A moment without an offset could be any of a day's hours."""
    with pytest.raises(ValueError, match="append"):
        SyntheticMarket(3, "2026-01-05T14:30:00")
