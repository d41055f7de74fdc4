"""Market states from recorded files: our Parquet archives, and every family that is known."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workers.market_data.families import open_archive
from workers.trading_env.errors import TradingEnvError
from workers.trading_env.market.archive import holds_states, read_states
from workers.trading_env.providers.recorded import RecordedProvider, states_of_ticks

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array


def states_of_file(
    path: Path, config: TradingConfig, *, date: str = "", root: str = "", interval_s: float = 60.0
) -> Array:
    """Market states (T,) of a recorded file.

    An archive of `workers.trading_env.record` holds states as they were; anything else that
    `workers.market_data` can read holds ticks, from which they are made with `config` (slots,
    session, rates), one each `interval_s` of market time, of the options on `root` (empty: of the
    first one found). Raises MarketDataError, BadMarketData and NoMarketData.
    """
    if path.is_file() and holds_states(path):
        return read_states(path)
    with tempfile.TemporaryDirectory(prefix="tradingmesh-") as spill:
        archive = open_archive(path, date=date, spill=Path(spill))
        try:
            return states_of_ticks(archive.blocks(), config, interval_s=interval_s, root=root)
        except TradingEnvError as error:
            raise type(error)(f"{path} ({archive.name}): {error}") from error


def file_provider(
    paths: Path | Sequence[Path],
    config: TradingConfig,
    *,
    date: str = "",
    root: str = "",
    interval_s: float = 60.0,
    random_start: bool = False,
    min_steps: int = 1,
) -> RecordedProvider:
    """A provider of one file or several; each is a segment that no episode leaves."""
    several = [paths] if isinstance(paths, Path) else list(paths)
    runs = [
        states_of_file(path, config, date=date, root=root, interval_s=interval_s)
        for path in several
    ]
    return RecordedProvider(runs, random_start=random_start, min_steps=min_steps)
