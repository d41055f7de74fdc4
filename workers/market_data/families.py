"""Which family a file belongs to, and its archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workers.market_data import lean
from workers.market_data.errors import MarketDataError

if TYPE_CHECKING:
    from workers.market_data.archive import Archive


def open_archive(path: Path, *, date: str = "", spill: Path) -> Archive:
    """Open the recorded market data at `path`, a file or a folder; `date` (YYYYMMDD) chooses.

    `spill` is a folder on disk for temporary files of rows that have to be sorted. Raises
    MarketDataError for what is missing or not known.
    """
    if not path.exists():
        raise MarketDataError(
            path,
            found="no such file or folder",
            expected="recorded market data",
            remedy="set replayer.data to a path that exists",
        )
    return lean.option_day(path, date, spill)
