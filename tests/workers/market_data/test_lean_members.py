"""Members parsed together are what they are one by one; a broken one is named."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.market_data import lean
from workers.market_data.archive import blank
from workers.market_data.errors import MarketDataError
from workers.market_data.files import members
from workers.market_data.lean_members import member_rows

NAME = "20240102_a_{}_{}_american_call_{}_20240315.csv"
FULL = "34200000,100,100,100,200,3,300,300,300,400,5"
CONTENTS = st.sampled_from(
    [
        "",
        "\n",
        FULL,
        f"{FULL}\n",
        f"{FULL}\r\n{FULL}\r\n",
        f"\n{FULL}\n\n{FULL}",
        f"\ufeff{FULL}\n",
        "34260000,,,,,0,1,1,1,1,1\n" * 3,
        "34200000,1,1,1,1,2,2,2,2\n",  # without sizes
        f'"34200000"{FULL[8:]}\n',
    ]
)


def one_by_one(path):
    """Rows of each member by itself."""
    found = [blank(0)]
    for member in members(path):
        found += member_rows(member, lean.describe(member.location))
    return np.concatenate(found)


def together(path):
    """Rows as `read` gives them."""
    return np.concatenate([blank(0), *lean.read(path)])


def zipped(path, contents, resolution="minute"):
    """A chain with a member for each text."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, text in enumerate(contents, 1):
            archive.writestr(NAME.format(resolution, "quote", number * 10_000), text)
    return path


@given(st.lists(CONTENTS, max_size=12))
def test_any_mixture_of_members_is_read_as_one_by_one(tmp_path_factory, contents):
    """Empty ones, other line ends, marks, quotes, files without sizes among the plain ones."""
    path = zipped(tmp_path_factory.getbasetemp() / "mixture.zip", contents)
    assert together(path).tobytes() == one_by_one(path).tobytes()


def test_real_chains_are_read_as_one_by_one(data):
    """By the minute and by the hour, quotes, trades and open interest."""
    folder = data / "lean" / "option" / "usa"
    for name in (
        "minute/goog/20151223_quote_american.zip",
        "minute/goog/20151223_trade_american.zip",
        "minute/goog/20151223_openinterest_american.zip",
        "hour/goog_2015_quote_american.zip",
    ):
        rows = together(folder / name)
        assert rows.size > 0
        assert rows.tobytes() == one_by_one(folder / name).tobytes()


@pytest.mark.parametrize("broken", [f"x{FULL[1:]}\n", f"{FULL},1\n", f",{FULL}"])
def test_a_broken_member_among_good_ones_is_named(tmp_path, broken):
    """Member and line of its own, not of what it was parsed with."""
    path = zipped(tmp_path / "a.zip", [FULL, FULL, f"{FULL}\n{broken}", FULL])
    with pytest.raises(MarketDataError, match=r"_30000_20240315.csv': line 2: "):
        together(path)
