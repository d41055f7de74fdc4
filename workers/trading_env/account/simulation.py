"""Accounts and windows of n lanes moving over market states: what every environment is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workers.contract.dtypes import SLOTS
from workers.trading_env.account import _kernel
from workers.trading_env.account.observation import Windows
from workers.trading_env.account.portfolio import BALANCE_LIMIT, Portfolios
from workers.trading_env.errors import BadMarketData, InvalidAction

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array
    from workers.trading_env.account._kernel import Outcome
    from workers.trading_env.market.block import MarketBlock

SOUND = -1


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
        self._kernel = _kernel.Lanes(
            self.accounts.memory,
            self.accounts.pending,
            self.windows.frames,
            self.steps,
            _rules(config),
        )
        self._step = self._kernel.step
        self._step_limit = config.max_episode_steps or 0
        self._may_be_unsound = config.on_bad_action == "hold"

    def reset(self, block: MarketBlock, rows: Array, lanes: Array | None = None) -> None:
        """Start an episode of `lanes` (indices; all by default) at these rows of `block`."""
        lanes = self._everyone if lanes is None else lanes
        self._kernel.start(block.kernel, rows, lanes)

    def checked(self, actions: Any) -> Array:
        """Actions (n, 10) as contiguous floats. Raises InvalidAction, as `step` does."""
        numbers = _numbers(actions, self.lanes)
        lane = self._kernel.unsound(numbers)
        if lane != SOUND and not self._may_be_unsound:
            raise InvalidAction(
                f"action of lane {lane} is {numbers[lane]}: not finite; correct the policy or set "
                "trading.on_bad_action = hold"
            )
        return numbers

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

        `actions` (n, 10) are shares of the contract limit, clipped to [-1, 1]. Lanes in `fresh`
        (bool) ended before this step: they start anew at row `then`, whatever they wanted to do,
        with reward 0. With `hold` no lane wants anything: positions stay, to the last bit,
        whatever `actions` says. An InvalidAction leaves every account as it was.
        """
        return self.move(block, now, then, self.checked(actions), fresh, hold=hold)

    def move(
        self,
        block: MarketBlock,
        now: Array,
        then: Array,
        numbers: Array,
        fresh: Array | None = None,
        *,
        hold: bool = False,
        data_ends: Array | None = None,
    ) -> Outcome:
        """`step` with actions that `checked` gave, and lanes (bool) whose data ends at `then`."""
        windows = self.windows
        following = windows.following()
        outcome = self._step(
            block.kernel, now, then, numbers, fresh, hold, following, data_ends, self._step_limit
        )
        windows.at = following
        if outcome.broken != SOUND:
            raise BadMarketData(
                f"the account of lane {outcome.broken} is not finite after the step; its prices "
                "are out of range"
            )
        return outcome

    def held_actions(self) -> Array:
        """The actions, float32 (n, 10), that describe the positions as they are."""
        share: Array = (self.accounts.positions / self.config.contract_limit).astype(np.float32)
        return share.reshape(self.lanes, SLOTS)


def _numbers(actions: Any, lanes: int) -> Array:
    """Actions as a contiguous array of float32 or float64 of the right shape."""
    numbers: Array = actions
    if (
        not isinstance(actions, np.ndarray)
        or actions.dtype.char not in "fd"
        or not actions.flags.c_contiguous
    ):
        try:
            numbers = np.ascontiguousarray(actions, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidAction(f"actions are not numbers: {error}") from error
    if numbers.shape != (lanes, SLOTS):
        raise InvalidAction(f"actions must have the shape {(lanes, SLOTS)}, got {numbers.shape}")
    return numbers


def _rules(config: TradingConfig) -> Array:
    """What `lane.h` needs to know, in its order."""
    return np.array(
        [
            config.initial_balance,
            config.contract_limit,
            config.multiplier,
            config.cost_rate,
            config.spread_share,
            config.ruin_share,
            config.risk_weight,
            config.drawdown_weight,
            config.drawdown_free,
            config.quadratic_risk,
            config.quadratic_cost,
            BALANCE_LIMIT,
            float(config.reward == "linear_quadratic"),
        ]
    )
