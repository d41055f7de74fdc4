"""Observation and action space: what `observation` and `portfolio` write into them, as bounds."""

from __future__ import annotations

import gymnasium
import numpy as np

from workers.contract.dtypes import FEATURES, SLOTS, WINDOW
from workers.trading_env.account.portfolio import BALANCE_LIMIT
from workers.trading_env.market.block import BALANCE, INDICATOR_FEATURES, INDICATOR_LIMIT, MONEYNESS

MONEYNESS_LIMIT = 50.0


def observation_space() -> gymnasium.spaces.Box:
    """Window of 16 frames of 100 features, float32 (16, 100), oldest first.

    balance / initial, 10 positions as shares of the limit, 10 log(underlying / strike), 50
    tanh(greeks), 20 indicators, 9 zeros in reserve.
    """
    high = np.ones(FEATURES, np.float32)
    high[BALANCE] = BALANCE_LIMIT
    high[MONEYNESS] = MONEYNESS_LIMIT
    high[INDICATOR_FEATURES] = INDICATOR_LIMIT
    window = np.tile(high, (WINDOW, 1))
    return gymnasium.spaces.Box(-window, window, dtype=np.float32)


def action_space() -> gymnasium.spaces.Box:
    """Targets as shares of the contract limit, float32 (10,)."""
    return gymnasium.spaces.Box(-1.0, 1.0, (SLOTS,), np.float32)
