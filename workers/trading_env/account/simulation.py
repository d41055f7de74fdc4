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
        """Start an episode in some lanes.

        Args:
            block: The market states.
            rows: First row of each of these lanes in `block`, int64 (k,).
            lanes: Indices of the lanes, int64 (k,); all lanes by default.
        """
        lanes = self._everyone if lanes is None else lanes
        self._kernel.start(block.kernel, rows, lanes)

    def checked(self, actions: Any) -> Array:
        """Validate actions.

        Args:
            actions: Numbers (n, 10): target positions as shares of the contract limit.

        Returns:
            The actions as a contiguous array (n, 10) of float32 or float64.

        Raises:
            InvalidAction: Not numbers, another shape, or NaN or infinity unless `on_bad_action` is
                "hold".
        """
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
        """Trade at the quotes of rows `now` and move to rows `then`.

        Args:
            block: The market states.
            now: Row of each lane before the step, int64 (n,).
            then: Row of each lane after the step, int64 (n,).
            actions: Target positions (n, 10) as shares of the contract limit, clipped to [-1, 1].
            fresh: bool (n,): lanes whose episode ended before this step. They start anew at row
                `then` with reward 0, and their actions are ignored.
            hold: Keep every position exactly as it is and ignore `actions`.

        Returns:
            Rewards, accounts, fills and ends of the n lanes.

        Raises:
            InvalidAction: As `checked` raises it; every account stays as it was.
            BadMarketData: An account is not finite after the step.
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
        """Step with actions that `checked` returned already.

        Args:
            block: As in `step`.
            now: As in `step`.
            then: As in `step`.
            numbers: Actions as `checked` returned them, (n, 10).
            fresh: As in `step`.
            hold: As in `step`.
            data_ends: bool (n,): lanes whose data ends at row `then`.

        Returns:
            Rewards, accounts, fills and ends of the n lanes.

        Raises:
            BadMarketData: An account is not finite after the step.
        """
        windows = self.windows
        next_column = windows.next_column()
        outcome = self._step(
            block.kernel, now, then, numbers, fresh, hold, next_column, data_ends, self._step_limit
        )
        windows.at = next_column
        if outcome.broken != SOUND:
            raise BadMarketData(
                f"the account of lane {outcome.broken} is not finite after the step; its prices "
                "are out of range"
            )
        return outcome

    def held_actions(self) -> Array:
        """Return the positions as actions: shares of the contract limit, float32 (n, 10)."""
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
    """Return the fields of `rules_t` of lane.h, float64 (13,), in its order."""
    rules = {
        "initial_balance": config.initial_balance,
        "contract_limit": config.contract_limit,
        "multiplier": config.multiplier,
        "cost_rate": config.cost_rate,
        "spread_share": config.spread_share,
        "ruin_share": config.ruin_share,
        "risk_weight": config.risk_weight,
        "drawdown_weight": config.drawdown_weight,
        "drawdown_free": config.drawdown_free,
        "quadratic_risk": config.quadratic_risk,
        "quadratic_cost": config.quadratic_cost,
        "balance_limit": BALANCE_LIMIT,
        "linear_quadratic": float(config.reward == "linear_quadratic"),
    }
    return np.array(list(rules.values()))
