"""Market blocks from plain arrays: the columns that the account reads."""

from __future__ import annotations

import numpy as np
import pytest

from config.trading import TradingConfig
from tests.workers.trading_env.markets import market
from workers.contract.dtypes import FEATURES, SLOTS
from workers.trading_env.errors import BadMarketData, NoMarketData
from workers.trading_env.market.block import (
    INDICATOR_FEATURES,
    POSITIONS,
    MarketBlock,
    slots_rolled,
)


def test_rows_hold_the_marks_and_half_the_spread():
    """Half spreads are those of the quote where a slot can be traded, and 0 elsewhere."""
    states = market(1, 30)
    block = MarketBlock.of(states, TradingConfig())
    assert (block.price == states["price"]).all()
    open_for_trade = states["tradeable"] & ~(states["stale"] | states["closed"])[:, None]
    half = np.where(open_for_trade, (states["ask"] - states["bid"]) * 0.5, 0.0)
    assert (block.rows["half_spread"] == half).all()


def test_rolled_bits_are_the_states_flags():
    """The bit mask of a row has one bit a slot, the lowest for slot 0."""
    states = market(2, 30)
    block = MarketBlock.of(states, TradingConfig())
    assert slots_rolled(block.rows).shape == (30, SLOTS)
    assert (block.rolled == states["rolled"]).all()


def test_features_leave_the_account_out():
    """Frames are float32 (T, 100); positions are 0 and indicators are clipped to 5."""
    states = market(3, 30)
    states["indicators"][4, 0] = 80.0
    frames = MarketBlock.of(states, TradingConfig()).features
    assert frames.shape == (30, FEATURES)
    assert frames.dtype == np.float32
    assert not frames[:, POSITIONS].any()
    assert frames[4, INDICATOR_FEATURES][0] == 5.0


def test_a_bad_state_is_held_or_refused():
    """The configuration decides; a held state is the one before it, and can't be traded."""
    states = market(4, 10)
    states["underlying"][5] = np.nan
    with pytest.raises(BadMarketData, match="state 5"):
        MarketBlock.of(states, TradingConfig(on_bad_data="raise"))
    block = MarketBlock.of(states, TradingConfig(on_bad_data="hold"))
    assert np.flatnonzero(block.bad).tolist() == [5]
    assert block.states["underlying"][5] == states["underlying"][4]
    assert not block.states["tradeable"][5].any()


def test_joined_blocks_are_one_after_the_other():
    """The rows of several blocks follow each other; no state at all is an error."""
    config = TradingConfig()
    first, second = market(5, 4), market(6, 3)
    joined = MarketBlock.joined([MarketBlock.of(first, config), MarketBlock.of(second, config)])
    assert len(joined) == 7
    assert (joined.ts_event == np.concatenate([first["ts_event"], second["ts_event"]])).all()
    with pytest.raises(NoMarketData):
        MarketBlock.of(first[:0], config)
