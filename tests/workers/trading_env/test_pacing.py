"""Pacing: states at the right ticks whatever the batches; no clock of one message is believed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.trading import TradingConfig
from tests.workers.trading_env.recorded_files import DERIBIT_HEADER, deribit_rows
from workers.market_data import deribit
from workers.trading_env.market.pacing import CONFIRMED_BY, StatePacer, agreeing
from workers.trading_env.market.state import MarketState
from workers.trading_env.providers.recorded import states_of_ticks
from workers.trading_env.providers.synthetic import ROOT, SyntheticChain

CONFIG = TradingConfig()
DAY = 86_400 * 10**9


def ticks_of(count=30, seed=0):
    """Ticks of so many minutes in one array."""
    return np.concatenate(list(SyntheticChain().ticks(count, seed=seed)))


def times_of(batches, *, restart=None, interval_s=60.0):
    """Event times of the states that are made, and the ticks dropped."""
    market = [MarketState(CONFIG, root=ROOT)]

    def begin():
        market[0] = MarketState(CONFIG, root=ROOT)
        return market[0]

    pacer = StatePacer(market[0], interval_s, restart=begin if restart else None)
    made = [int(market[0].state()["ts_event"]) for batch in batches for _ in pacer.advance(batch)]
    return made, pacer.dropped


@settings(max_examples=25)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_batches_do_not_matter(sizes):
    """However ticks are cut into batches: the same states."""
    ticks = ticks_of()
    cuts = np.cumsum(np.resize(sizes, 3000))
    cuts = cuts[cuts < ticks.size]
    found = states_of_ticks(np.split(ticks, cuts), CONFIG, root=ROOT)
    wanted = states_of_ticks([ticks], CONFIG, root=ROOT)
    for name in wanted.dtype.names:
        equal = {"equal_nan": True} if wanted[name].dtype.kind == "f" else {}
        assert np.array_equal(found[name], wanted[name], **equal), name


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_batches_do_not_matter_where_each_expiry_has_its_own_underlying(tmp_path, size):
    """Prices of one moment that differ by expiry: the nearest one's, however they are cut."""
    rows = [row.split(",") for row in deribit_rows(snapshots=4)]
    for row in rows:
        row[2] = str(float(row[2]) * (1.01 if "13FEB26" in row[1] else 1.0))
    path = tmp_path / "a.csv"
    path.write_text("\n".join([DERIBIT_HEADER, *map(",".join, rows)]))
    ticks = np.concatenate(list(deribit.read(path)))
    found = states_of_ticks(np.split(ticks, range(size, ticks.size, size)), CONFIG)
    wanted = states_of_ticks([ticks], CONFIG)
    assert found["underlying"].tolist() == wanted["underlying"].tolist()
    assert found["price"].tolist() == wanted["price"].tolist()


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 2000),
            st.sampled_from([2**62, -1, 0, 1, -(2**63), 4_000_000_000 * 10**9, 2**63 - 1]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 300),
)
def test_single_bad_clocks_change_nothing(poison, batch):
    """Times from other centuries in single messages: dropped, the states are the same."""
    ticks = ticks_of()
    clean, _ = times_of([ticks])
    spoiled = ticks.copy()
    places = sorted({1 + place % (ticks.size - 1) for place, _ in poison})
    for place, (_, time) in zip(places, poison, strict=False):
        spoiled["ts_event"][place] = time
    cuts = np.arange(batch, ticks.size, batch)
    found, dropped = times_of(np.split(spoiled, cuts))
    assert found == clean
    assert dropped == min(len(places), len(poison))


@settings(max_examples=30)
@given(
    st.sets(st.integers(CONFIRMED_BY, 1500), min_size=1, max_size=CONFIRMED_BY - 1),
    st.lists(st.sampled_from(["1999", "2045", "2199"]), min_size=1),
    st.integers(1, 3000),
)
def test_bad_clocks_in_batches_of_days_change_nothing(places, years, batch):
    """Centuries past and to come amid hours of ticks in one array: only those are dropped."""
    ticks = ticks_of()
    begin, stretch = ticks["ts_event"][0], 200
    ticks["ts_event"] = begin + (ticks["ts_event"] - begin) * stretch  # four days
    clean, _ = times_of([ticks], interval_s=60.0 * stretch)
    spoiled = ticks.copy()
    bad = sorted(places)
    spoiled["ts_event"][bad] = np.resize(np.array(years, "M8[ns]").astype(int), len(bad))
    found, dropped = times_of(
        np.split(spoiled, np.arange(batch, ticks.size, batch)), interval_s=60.0 * stretch
    )
    assert found == clean
    assert dropped == len(bad)


@pytest.mark.parametrize("year", ["1999", "2045", "2199"])
@pytest.mark.parametrize("place", [0, 1, CONFIRMED_BY - 1])
def test_a_bad_clock_at_the_beginning_is_not_followed(year, place):
    """The first batch decides by what most of its first messages say."""
    ticks = ticks_of()
    ticks["ts_event"][place] = np.datetime64(year, "ns").astype(int)
    good = np.delete(ticks, place)
    assert times_of([ticks]) == (times_of([good])[0], 1)


def test_a_slow_feed_begins_with_its_first_message():
    """Messages that are days apart: none is nearer to the others than the next."""
    ticks = ticks_of()[:400]
    ticks["ts_event"] = ticks["ts_event"][0] + np.arange(400) * 2 * DAY
    market = MarketState(CONFIG, root=ROOT)
    pacer = StatePacer(market, 60.0)
    made = [market.ts_event for _ in pacer.advance(ticks)]
    assert pacer.dropped == 0
    assert made == ticks["ts_event"][: len(made)].tolist()
    assert len(made) >= ticks.size - 1 - CONFIRMED_BY  # the last ones wait for others


def test_a_feed_that_moved_on_is_followed():
    """A gap of days: nothing is lost, the state before the gap is made, those after it too."""
    before, after = ticks_of(10), ticks_of(10, seed=1)
    after["ts_event"] += 4 * DAY
    found, dropped = times_of([before, *np.split(after, np.arange(5, after.size, 5))])
    assert dropped == 0
    assert len(found) == 19
    assert found[9] == before["ts_event"][-1]
    assert found[10] == after["ts_event"][0]


def test_a_feed_that_went_back_begins_anew():
    """A replay that starts again a week earlier: a new market, or (recorded) dropped ticks."""
    late, early = ticks_of(10), ticks_of(10, seed=1)
    late["ts_event"] += 7 * DAY
    found, dropped = times_of([late, early], restart=True)
    assert dropped == 0
    assert found[-1] < late["ts_event"][0]
    assert len(found) == 9 + 9
    found, dropped = times_of([late, early])
    assert len(found) == 9
    assert dropped >= early.size - CONFIRMED_BY


def test_a_table_of_quotes_agrees_on_its_time():
    """Rows from far in the future are left out; old ones are merely old."""
    ticks = ticks_of(3)
    ticks["ts_event"][5], ticks["ts_event"][7] = 2**62, 4_000_000_000 * 10**9
    ticks["ts_event"][9] -= 30 * DAY
    kept = agreeing(ticks)
    assert kept.size == ticks.size - 2
    assert agreeing(ticks[:0]).size == 0
