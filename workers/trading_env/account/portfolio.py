"""The account: one maths for one portfolio and for thousands, live and recorded.

Each lane is a row of float64 in one array, so that all of it is copied, committed to shared
memory and restored by one call. A step fills what was decided on state t at the quote of t, moves
to t + 1, closes what rolled there, and values what is left:

    change    = clip(target - position, -sell_limit, buy_limit)
    costs     = sum |change| * (price * cost_rate + half_spread * spread_share) * multiplier
    cash      = cash - sum change * price * multiplier - costs
    equity    = cash + sum position * price(t + 1) * multiplier

and the reward, with the returns r = equity(t + 1) / equity(t) - 1 of the episode,

    risk_adjusted     r - risk_weight * std(last 20 r) - drawdown_weight * max(0, drawdown - free)
    linear_quadratic  gain - quadratic_risk / 2 * position^2 - quadratic_cost / 2 * change^2

std is that of the population (0 of a single return); the quadratic reward counts positions as
shares of the limit and gains per limit * multiplier, before costs: that of Garleanu and Pedersen
(Journal of Finance, 2013), see `providers/known_optimum.py`. All of it is computed in `lane.h`.

Accounting reconciles: equity(t + 1) - equity(t) = sum position * (price(t + 1) - price(t)) *
multiplier - costs, to rounding, over any number of steps (a roll counts the price of the contract
that leaves). Cash is kept by compensated summation (Kahan 1965) for that.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import numpy as np

from workers.contract.dtypes import SLOTS

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array


#: The balance feature is clipped to this; beyond it cash says nothing new.
BALANCE_LIMIT = 1e6


class Reason(enum.IntFlag):
    """Why a slot did not get what was wanted, or what else happened to it."""

    NO_QUOTE = 1  # not quoted on both sides, or not fresh
    PARTIAL = 2  # the quoted size was smaller
    STALE = 4  # the whole state is stale or was held
    CLOSED = 8  # the market is closed
    ROLLED = 16  # the contract left its slot: closed at its quote, or settled
    HELD = 32  # the action was not finite, or the lane was told to hold


RETURNS = 20  # over which the risk of the reward is taken
CASH, CARRY, EQUITY, PEAK, COSTS, TRADED, COUNT = range(7)
POSITION = slice(7, 7 + SLOTS)
RETURN = slice(POSITION.stop, POSITION.stop + RETURNS)
COLUMNS = RETURN.stop


class Portfolios:
    """The accounts of n lanes: `memory` float64 (n, COLUMNS), its columns as views."""

    def __init__(self, lanes: int, config: TradingConfig) -> None:
        """Start `lanes` accounts with the configured balance."""
        self.config = config
        self.lanes = lanes
        self.memory = np.zeros((lanes, COLUMNS))
        #: targets decided but not yet filled, oldest first (n, latency, 10)
        self.pending = np.zeros((lanes, config.latency_states, SLOTS))
        self.cash, self.carry = self.memory[:, CASH], self.memory[:, CARRY]
        self.equity, self.peak = self.memory[:, EQUITY], self.memory[:, PEAK]
        #: total costs and number of contracts traded since the start of the episode
        self.costs, self.traded = self.memory[:, COSTS], self.memory[:, TRADED]
        self.positions = self.memory[:, POSITION]
        self.returns = self.memory[:, RETURN]
        self.count = self.memory[:, COUNT]
        self.reset(np.arange(lanes))

    def reset(self, lanes: Array) -> None:
        """Start a fresh account in some lanes.

        Args:
            lanes: Indices of the lanes, int64 (k,).
        """
        self.memory[lanes] = 0.0
        self.pending[lanes] = 0.0
        for column in (CASH, EQUITY, PEAK):
            self.memory[lanes, column] = self.config.initial_balance

    def to_bytes(self) -> bytes:
        """Everything of all lanes, for `from_bytes`."""
        return self.memory.tobytes() + self.pending.tobytes()

    def from_bytes(self, data: bytes) -> None:
        """Restore the accounts from what `to_bytes` returned.

        Args:
            data: The accounts and pending targets of the same number of lanes.

        Raises:
            ValueError: The size does not match the lanes, or an account holds NaN or infinity.
        """
        expected = self.memory.nbytes + self.pending.nbytes
        if len(data) != expected:
            raise ValueError(f"{len(data)} bytes are not the {expected} of {self.lanes} lanes")
        split = self.memory.nbytes
        memory = np.frombuffer(data[:split]).reshape(self.memory.shape)
        if not np.isfinite(memory).all():
            raise ValueError("the accounts hold NaN or infinity")
        self.memory[...] = memory
        self.pending[...] = np.frombuffer(data[split:]).reshape(self.pending.shape)
