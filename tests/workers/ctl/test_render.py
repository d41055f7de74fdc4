"""Values as text for people."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.ctl import render


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.0, "0ms"),
        (0.0123, "12ms"),
        (0.9996, "1.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (3599.6, "1h00m"),
        (3725.0, "1h02m"),
        (1e6, "11d13h"),
    ],
)
def test_durations(seconds, text):
    """A span in two units at most; rounding never yields 60 of a unit."""
    assert render.duration(seconds) == text


@given(st.floats(0.0, 1e9))
def test_durations_are_short(seconds):
    """Thirty years take nine columns."""
    assert len(render.duration(seconds)) <= 9


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (70402048, "67.1M"),
        (1 << 40, "1.0T"),
        (249 << 20, "249M"),
    ],
)
def test_sizes(count, text):
    """Bytes in binary units."""
    assert render.size(count) == text


@given(
    st.lists(
        st.lists(st.text("abcxyz", max_size=9), min_size=3, max_size=3), min_size=1, max_size=5
    )
)
def test_columns_are_aligned_whatever_their_style(rows):
    """A styled cell takes the room of its text; every column begins at one place."""
    styled = [[render.styled(row[0], render.BAD, colours=True), *row[1:]] for row in rows]
    plain = render.table(("A", "B", "C"), rows)
    coloured = render.table(("A", "B", "C"), styled)
    assert [render.width(line) for line in plain] == [render.width(line) for line in coloured]


def test_flush_right_columns():
    """Numbers end at one place."""
    lines = render.table(("N", "NAME"), [("1", "a"), ("1,000", "b")], right=("N",))
    assert lines[1:] == ["    1  a", "1,000  b"]


def test_records_leave_out_what_is_absent():
    """NaN, empty text and a time of 0 are not printed; times are written out."""
    record = {
        "symbol": "A B",
        "bid": 1.5,
        "ask": None,
        "ts_event": 0,
        "flags": False,
        "greeks": [[0.0] * 5] * 3,
        "two": [1.0, None],
        "in": {"x": 1, "y": ""},
    }
    assert render.record_line(record) == "symbol='A B' bid=1.5 greeks=<3x5> two=[1,-] in={x=1}"
    record["ts_event"], record["flags"] = 1_766_000_000_123_456_789, True
    line = render.record_line(record, ("ts_event", "flags"))
    assert line == "ts_event=2025-12-17T19:33:20.123456Z flags=yes"


def test_pairs_indent_what_is_inside():
    """A table in a table is indented below its name; an empty one takes one line."""
    lines = render.pairs({"state": "running", "lag": {"q/0": 1200}, "none": {}, "x": [1, 2.5]})
    assert lines == ["state  running", "lag", "  q/0  1,200", "none", "x      1, 2.5"]


def test_columns_leave_out_the_empty_and_put_times_last():
    """What no row has takes no column; numbers are flush right; long lines are cut."""
    rows = [
        {"key": "a", "ts_event": 1_766_000_000_000_000_000, "bid": 1.5, "ask": None, "size": 10},
        {"key": "b", "ts_event": 0, "bid": None, "ask": None, "size": 2},
    ]
    lines = render.columns(rows)
    assert lines[0].split() == ["key", "bid", "size", "ts_event"]
    assert lines[1] == "a    1.5    10  2025-12-17T19:33:20.000000Z"
    assert lines[2] == "b            2"
    assert [len(line) for line in render.columns(rows, 12)] == [12, 12, 12]
    assert render.columns([]) == [""]


def test_a_list_of_short_rows_is_a_table():
    """Rows of the same plain values stand in columns; wide or nested ones each by itself."""
    rows = [{"trainer": "td3-0", "score": 0.25}, {"trainer": "td3-1", "score": math.nan}]
    assert render.pairs({"best": "td3-0", "standings": rows}) == [
        "best       td3-0",
        "standings",
        "  trainer  score",
        "  td3-0     0.25",
        "  td3-1        -",
    ]
    wide = [{"text": "x" * 120}, {"text": ""}]
    assert render.pairs({"rows": wide})[1].startswith("  - text")
    assert render.pairs({"rows": [{"a": [1]}, {"a": [2]}]})[1] == "  - a  1"


def test_a_score_is_told_once_there_is_one():
    """Nothing before the first evaluation."""
    assert [render.score(value) for value in (None, math.nan, 0.12345)] == [
        "",
        "",
        ", score 0.1235",
    ]


def test_lists_of_tables_are_indented():
    """Each element of a list of tables begins with a dash."""
    assert render.pairs({"rows": [{"a": 1, "b": 2}, {"a": 3}]}) == [
        "rows",
        "  - a  1",
        "    b  2",
        "  - a  3",
    ]
