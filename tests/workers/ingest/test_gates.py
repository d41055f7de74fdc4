"""Gates: one bit a doubt, on whole batches, with memory across batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from config.ingest import GATES, IngestConfig
from workers.ingest.gates import BIT, Gates, counts
from workers.records import TICK_DTYPE


def tick(symbol="A", ts=1_000, bid=1.0, ask=1.1, **fields):
    """One row."""
    row = np.zeros(1, TICK_DTYPE)
    row["symbol"], row["ts_event"], row["bid"], row["ask"] = symbol, ts, bid, ask
    for name, value in fields.items():
        row[name] = value
    return row


def flagged(*rows, **config):
    """The names of the bits of each row after one batch."""
    batch = np.concatenate(rows)
    Gates(IngestConfig(**config)).flag(batch)
    return [{name for name in GATES if row["flags"] & BIT[name]} for row in batch]


def test_each_doubt_has_its_bit():
    """Every gate flags what it is for, and a clean quote has no bit."""
    nan, inf = np.nan, np.inf
    assert flagged(tick()) == [set()]
    assert flagged(tick(bid=inf)) == [{"nonfinite", "crossed"}]
    assert flagged(tick(bid=nan, ask=nan, last=nan)) == [{"nonfinite"}]
    assert flagged(tick(bid=nan)) == [set()]
    assert flagged(tick(bid=-1.0)) == [{"negative", "wide"}]
    assert flagged(tick(bid=1.2)) == [{"crossed"}]
    assert flagged(tick(bid=1.1)) == [{"locked"}]
    assert flagged(tick(bid=0.0)) == [{"zero_bid", "wide"}]
    assert flagged(tick(implied_volatility=9.0)) == [{"iv_range"}]
    assert flagged(tick(gamma=-0.1)) == [{"greek_sign"}]
    assert flagged(tick(ts=5 * 10**9, ts_recv=10**9)) == [{"future"}]


def test_memory_is_per_symbol_and_crosses_batches():
    """Backwards, duplicate and jump compare with the last quote of the same symbol only."""
    rows = (tick(ts=10), tick("B", ts=5), tick(ts=9), tick(ts=9), tick("B", ts=6, bid=9, ask=9.1))
    assert flagged(*rows) == [set(), set(), {"backwards"}, {"duplicate"}, {"jump"}]
    gates = Gates(IngestConfig())
    gates.remember(tick(ts=10))
    late = tick(ts=7)
    gates.flag(late)
    assert counts(late) == {"backwards": 1}


def test_policies_say_what_may_be_published():
    """flag publishes, drop leaves out, dead_letter goes before drop."""
    config = IngestConfig(gates={"crossed": "drop", "negative": "dead_letter"})
    rows = np.concatenate([tick(), tick("B", bid=2.0), tick("C", bid=-1.0, ask=-2.0)])
    gates = Gates(config)
    gates.flag(rows)
    assert gates.dropped(rows).tolist() == [False, True, False]
    assert gates.dead(rows).tolist() == [False, False, True]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("AB"), st.integers(1, 9)), min_size=1, max_size=20),
    st.integers(1, 5),
)
def test_batches_do_not_change_the_verdict(stream, size):
    """However a stream is cut into batches, every row gets the same bits."""
    rows = np.concatenate([tick(symbol, ts=ts) for symbol, ts in stream])
    whole = rows.copy()
    Gates(IngestConfig()).flag(whole)
    gates = Gates(IngestConfig())
    for start in range(0, rows.size, size):
        gates.flag(rows[start : start + size])
    assert rows["flags"].tolist() == whole["flags"].tolist()
