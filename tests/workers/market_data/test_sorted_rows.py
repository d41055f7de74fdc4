"""The external merge sort against numpy's own sort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.market_data.archive import BLOCK_ROWS, blank
from workers.market_data.errors import MarketDataError
from workers.market_data.sorted_rows import SortedRows


def block(times, first):
    """Rows with these times, numbered on from `first` in `offset`."""
    rows = blank(len(times))
    rows["ts_event"] = times
    rows["offset"] = first + np.arange(len(times))
    return rows


@given(st.lists(st.lists(st.integers(-5, 5), max_size=40), max_size=60), st.integers(1, 20))
def test_it_sorts_as_one_stable_sort_would(tmp_path_factory, parts, run_rows):
    """Any blocks, many ties, more runs than are merged at once: the order of a stable sort."""
    blocks, first = [], 0
    for times in parts:
        blocks.append(block(times, first))
        first += len(times)
    archive = SortedRows("x", blocks, tmp_path_factory.getbasetemp(), run_rows=run_rows)
    whole = np.concatenate([blank(0), *blocks])
    expected = whole[np.argsort(whole["ts_event"], kind="stable")]["offset"].tolist()
    got = np.concatenate([blank(0), *archive.blocks()])
    assert len(archive) == first
    assert got["offset"].tolist() == expected
    assert got["sequence"].tolist() == list(range(first))


def test_any_position_is_reached_without_reading_what_is_before(tmp_path):
    """Blocks from a position on are the tail of the whole."""
    times = np.random.default_rng(1).integers(0, 1000, 3 * BLOCK_ROWS)
    archive = SortedRows("x", [block(times, 0)], tmp_path, run_rows=1000)
    whole = np.concatenate(list(archive.blocks()))
    for start in (0, 1, BLOCK_ROWS, 2 * BLOCK_ROWS + 7, times.size - 1):
        assert np.concatenate(list(archive.blocks(start))).tobytes() == whole[start:].tobytes()
    assert list(archive.blocks(times.size)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named():
    """Where no temporary file can be made, the error says where and what to do."""
    with pytest.raises(MarketDataError, match="set run_directory"):
        SortedRows("x", [block([2, 1], 0)], Path("/proc/nothing"))
