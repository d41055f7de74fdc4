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
    """Read or make the market states of a recorded file.

    An archive of `workers.trading_env.record` holds states. Other files that `workers.market_data`
    can read hold ticks, from which the states are made.

    Args:
        path: A file, or a folder of files of one family.
        config: Slots, session and rates.
        date: YYYYMMDD, chooses a day of a folder.
        root: Root of the options to follow; empty: that of the first option.
        interval_s: Event time between two states made of ticks, seconds.

    Returns:
        Market states, MARKET_DTYPE (T,).

    Raises:
        MarketDataError: The file is missing, unreadable or of no known family.
        BadMarketData: The archive or the ticks are faulty.
        NoMarketData: No state could be made of the file.
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
    """Return a provider of one file or several; each file is a segment that no episode leaves.

    Args:
        paths: The files or folders, each as `states_of_file` reads it.
        config: Slots, session and rates.
        date: YYYYMMDD, chooses a day of a folder.
        root: Root of the options to follow; empty: that of the first option of each file.
        interval_s: Event time between two states made of ticks, seconds.
        random_start: Start episodes anywhere in a file, not only at its first state.
        min_steps: Smallest number of steps of an episode.

    Returns:
        The provider, which holds all states in memory.
    """
    several = [paths] if isinstance(paths, Path) else list(paths)
    runs = [
        states_of_file(path, config, date=date, root=root, interval_s=interval_s)
        for path in several
    ]
    return RecordedProvider(runs, random_start=random_start, min_steps=min_steps)
