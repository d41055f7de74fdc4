"""`python -m workers.trading_env.record`: market states into a Parquet archive.

From the mesh, as the feeder publishes them (until --states, --seconds or an interrupt), or made
from recorded files. The archive is a provider's: `file_provider(Path("states.parquet"), config)`.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from config.trading import TradingConfig
from mesh import Mesh, SegmentMissing
from workers.contract.dtypes import MARKET_DTYPE
from workers.contract.names import MARKET
from workers.market_data.errors import MarketDataError
from workers.trading_env.errors import TradingEnvError
from workers.trading_env.market.archive import ArchiveWriter
from workers.trading_env.providers.files import states_of_file

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT_S = 0.2
ROW_GROUP = 4096  # states held in memory before they are written


def record_mesh(mesh: Mesh, writer: ArchiveWriter, *, states: int, seconds: float) -> int:
    """Append what the ring `market` publishes from its oldest state on; gives how many were lost.

    Stops after `states` states (0 = no limit), after `seconds` (0 = no limit) or on an interrupt.
    """
    reader = mesh.ring(MARKET, MARKET_DTYPE).reader("oldest")
    end = time.monotonic() + seconds if seconds else float("inf")
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() < end and (not states or writer.count < states):
            if reader.wait_published(min(WAIT_S, max(0.0, end - time.monotonic()))):
                max_records = min(ROW_GROUP, states - writer.count) if states else ROW_GROUP
                writer.append(reader.read(max_records=max_records))
    return int(reader.lost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record; 0 = an archive was written, 1 = there was nothing to write or it failed."""
    options = _parser().parse_args(arguments)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    lost = 0
    try:
        with ArchiveWriter(options.out) as writer:
            if options.mesh is not None:
                lost = record_mesh(
                    Mesh(options.mesh), writer, states=options.states, seconds=options.seconds
                )
            else:
                config = TradingConfig()
                writer.append(
                    states_of_file(
                        options.data, config, date=options.date, interval_s=options.interval_s
                    )
                )
    except (TradingEnvError, MarketDataError, SegmentMissing, FileExistsError) as error:
        sys.stderr.write(f"record: {error}\n")
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    sys.stdout.write(f"{writer.count} states to {options.out}; {lost} were overwritten unread\n")
    return 0 if writer.count else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("workers.trading_env.record", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mesh", type=Path, help="directory of the mesh to record from")
    source.add_argument("--data", type=Path, help="recorded file or folder to make states from")
    parser.add_argument("--out", type=Path, required=True, help="the .parquet file to write")
    parser.add_argument("--states", type=int, default=0, help="stop after so many (0: no limit)")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long (0: never)")
    parser.add_argument("--date", default="", help="YYYYMMDD, where --data holds several days")
    parser.add_argument("--interval-s", type=float, default=60.0, help="market seconds a state")
    return parser


if __name__ == "__main__":
    sys.exit(main())
