"""Accounts and windows of n lanes moving over market states: what every environment is made of."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.records import SLOTS
from workers.trading_env.observation import Windows
from workers.trading_env.portfolio import Outcome, Portfolios, step_portfolios, targets_of

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from workers.trading_env.market_block import MarketBlock

Array = np.ndarray[Any, np.dtype[Any]]


class Simulation:
    """n lanes; the scalar environment is one of n = 1."""

    def __init__(self, lanes: int, config: TradingConfig) -> None:
        """Make n accounts; `reset` puts them onto a market."""
        self.lanes = lanes
        self.config = config
        self.accounts = Portfolios(lanes, config)
        self.windows = Windows(lanes)
        self.steps = np.zeros(lanes, np.int64)
        self._everyone = np.arange(lanes)

    def reset(self, block: MarketBlock, rows: Array, lanes: Array | None = None) -> None:
        """Start an episode of `lanes` (indices; all by default) at these rows of `block`."""
        lanes = self._everyone if lanes is None else lanes
        self.accounts.reset(lanes)
        self.steps[lanes] = 0
        frames = block.features[rows].copy()
        fresh = self.windows.newest.copy()
        fresh[lanes] = frames
        self.accounts.write_features(fresh)
        self.windows.fill(lanes, fresh[lanes])

    def step(
        self,
        block: MarketBlock,
        now: Array,
        then: Array,
        actions: Array,
        fresh: Array | None = None,
        *,
        hold: bool = False,
    ) -> Outcome:
        """Act on rows `now`, observe rows `then` (int64, n). Raises InvalidAction, BadMarketData.

        Lanes in `fresh` (bool) ended before this step: they start anew at row `then`, whatever
        they wanted to do, with reward 0. With `hold` no lane wants anything: positions stay, to
        the last bit, whatever `actions` says.
        """
        targets = targets_of(actions, self.lanes, self.config)
        if hold:
            targets[:] = np.nan
        starting = None if fresh is None or not fresh.any() else np.flatnonzero(fresh)
        if starting is not None:
            self.accounts.reset(starting)
            targets[starting] = np.nan
        outcome = step_portfolios(self.accounts, block, now, then, targets)
        self.steps += 1
        frames = self.windows.advance()
        frames[...] = block.features[then]
        self.accounts.write_features(frames)
        if starting is not None:
            self.reset(block, then[starting], starting)
            for column in (getattr(outcome, field.name) for field in dataclasses.fields(outcome)):
                column[starting] = 0
        return outcome

    def held_actions(self) -> Array:
        """The actions, float32 (n, 10), that describe the positions as they are."""
        share: Array = (self.accounts.positions / self.config.contract_limit).astype(np.float32)
        return share.reshape(self.lanes, SLOTS)
