"""What users do wrong at every entry: an error of the right kind that names it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from gymnasium.error import ResetNeeded
from pyarrow import parquet

from config.trading import TradingConfig
from mesh import Mesh
from tests.workers.trading_env.markets import Streamed, market
from workers.contract.dtypes import MARKET_DTYPE
from workers.trading_env.env.environment import TradingEnvironment
from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.errors import BadMarketData, NoMarketData, UnknownSymbol
from workers.trading_env.evaluation.baselines import Oracle
from workers.trading_env.market.archive import ArchiveWriter, read_states, write_states
from workers.trading_env.market.block import MarketBlock
from workers.trading_env.market.instrument import parse
from workers.trading_env.market.state import MarketState
from workers.trading_env.market.track import StreamTrack
from workers.trading_env.providers.live import LiveProvider
from workers.trading_env.providers.recorded import RecordedProvider
from workers.trading_env.providers.splits import walk_forward

CONFIG = TradingConfig()
STATES = market(0, 20)


class Elsewhere(RecordedProvider):
    """An indexed provider whose episodes lie outside its states."""

    def episode(self, seed):
        """Rows that are not there."""
        del seed
        return 18, 25


def many(**options):
    """Two lanes over recorded states."""
    return TradingVectorEnv(RecordedProvider(STATES), 2, CONFIG, **options)


@pytest.mark.parametrize(
    ("do", "error", "words"),
    [
        (lambda: RecordedProvider([1, 2]), BadMarketData, "segment must be an array, got int"),
        (lambda: RecordedProvider(np.zeros(5)), BadMarketData, "MARKET_DTYPE of shape .* float64"),
        (lambda: RecordedProvider(STATES[:1]), NoMarketData, "more than 1 states"),
        (lambda: MarketBlock.of(np.zeros(3), CONFIG), BadMarketData, "MARKET_DTYPE of shape"),
        (lambda: MarketBlock.of(STATES[:0], CONFIG), NoMarketData, "at least two"),
        (lambda: MarketState(CONFIG).apply(STATES), BadMarketData, "ticks must be TICK_DTYPE"),
        (lambda: parse("ABC   991399C00001000"), UnknownSymbol, "impossible date"),
        (lambda: parse("BTC-31FEB26-1000-C"), UnknownSymbol, "impossible date"),
        (lambda: parse("GOOG"), UnknownSymbol, "neither OCC .* nor Deribit"),
        (
            lambda: TradingEnvironment(RecordedProvider(STATES), render_mode="plot"),
            ValueError,
            "render_mode 'plot' must be one of",
        ),
        (lambda: TradingVectorEnv([1, 2], 2, CONFIG), TypeError, "a market data provider or a seq"),
        (lambda: TradingVectorEnv(7, 2, CONFIG), TypeError, "a market data provider or a seq"),
        (lambda: TradingVectorEnv(RecordedProvider(STATES), 0, CONFIG), ValueError, "at least 1"),
        (
            lambda: TradingVectorEnv([Streamed(RecordedProvider(STATES))] * 2, 3, CONFIG),
            ValueError,
            "3 environments on 2 providers",
        ),
        (lambda: many().reset(seed=[1, 2, 3]), ValueError, "3 seeds for 2 environments"),
        (lambda: many().step(np.zeros((2, 10))), ResetNeeded, "call reset first"),
        (lambda: many(autoreset_mode="NextStep").as_sb3(), ValueError, "SameStep"),
        (
            lambda: many(autoreset_mode="SameStep").as_sb3().step_wait(),
            ValueError,
            "without step_async",
        ),
        (
            lambda: TradingEnvironment(Elsewhere(STATES), CONFIG).reset(seed=0),
            NoMarketData,
            "rows 18 to 25 of 20 states",
        ),
        (
            lambda: StreamTrack(Streamed(RecordedProvider(STATES)), CONFIG).move(),
            NoMarketData,
            "call reset first",
        ),
        (lambda: walk_forward(STATES["ts_event"], folds=0), ValueError, "folds must be at least 1"),
        (lambda: walk_forward(STATES["ts_event"][::-1], folds=2), ValueError, "run backwards"),
        (lambda: walk_forward(STATES["ts_event"], folds=15), NoMarketData, "use fewer folds"),
        (lambda: Oracle()(np.zeros((1, 16, 100))), ValueError, "call begin"),
    ],
)
def test_each_entry_refuses_what_it_cannot_use(do, error, words):
    """The type says what to do about it, the text what was found."""
    with pytest.raises(error, match=words):
        do()


def test_archives_refuse_what_they_cannot_hold(tmp_path):
    """Another dtype, a second dimension; a column with nulls where NaN would be absent."""
    path = tmp_path / "a.parquet"
    for wrong in (np.zeros(3), STATES.reshape(2, 10)):
        with (
            pytest.raises(BadMarketData, match=r"states must be MARKET_DTYPE \(T,\)"),
            ArchiveWriter(path) as writer,
        ):
            writer.append(wrong)
        assert not path.exists()
    write_states(path, STATES)
    table = parquet.read_table(path)
    place = table.schema.get_field_index("underlying")
    nothing = pa.nulls(table.num_rows, table.schema.field(place).type)
    parquet.write_table(table.set_column(place, table.schema.field(place), nothing), path)
    with pytest.raises(BadMarketData, match="column 'underlying' has nulls"):
        read_states(path)


def test_a_live_provider_is_to_be_reset_first(mesh_directory):
    """Before an episode there is no state to go on from."""
    Mesh(mesh_directory).ring("market", MARKET_DTYPE, capacity=64, create=True).publish(STATES)
    provider = LiveProvider(Mesh(mesh_directory))
    with pytest.raises(NoMarketData, match="call reset first"):
        provider.advance()
