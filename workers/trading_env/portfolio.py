"""The account: one maths for one portfolio and for thousands, live and recorded.

Each lane is a row of float64 in one array, so that all of it is copied, committed to shared
memory and restored by one call. A step fills what was decided on state t at the quote of t, moves
to t + 1, closes what rolled there, and values what is left:

    change    = clip(target - position, -sell_limit, buy_limit)
    costs     = sum |change| * (price * cost_rate + half_spread * spread_share) * multiplier
    cash      = cash - sum change * price * multiplier - costs
    equity    = cash + sum position * price(t + 1) * multiplier

Accounting reconciles: equity(t + 1) - equity(t) = sum position * (price(t + 1) - price(t)) *
multiplier - costs, to rounding, over any number of steps (a roll counts the price of the contract
that leaves). Cash is kept by compensated summation (Kahan 1965) for that.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.records import SLOTS
from workers.trading_env.errors import BadMarketData, InvalidAction
from workers.trading_env.market_block import BALANCE, POSITIONS, MarketBlock
from workers.trading_env.reward import RETURNS, linear_quadratic, risk_adjusted

if TYPE_CHECKING:
    from config.trading import TradingConfig

Array = np.ndarray[Any, np.dtype[Any]]

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
        """Give the lanes of these indices a fresh account."""
        self.memory[lanes] = 0.0
        self.pending[lanes] = 0.0
        for column in (CASH, EQUITY, PEAK):
            self.memory[lanes, column] = self.config.initial_balance

    def to_bytes(self) -> bytes:
        """Everything of all lanes, for `from_bytes`."""
        return self.memory.tobytes() + self.pending.tobytes()

    def from_bytes(self, data: bytes) -> None:
        """Take up what `to_bytes` gave. Raises ValueError for another number of lanes."""
        expected = self.memory.nbytes + self.pending.nbytes
        if len(data) != expected:
            raise ValueError(f"{len(data)} bytes are not the {expected} of {self.lanes} lanes")
        split = self.memory.nbytes
        memory = np.frombuffer(data[:split]).reshape(self.memory.shape)
        if not np.isfinite(memory).all():
            raise ValueError("the accounts hold NaN or infinity")
        self.memory[...] = memory
        self.pending[...] = np.frombuffer(data[split:]).reshape(self.pending.shape)

    def write_features(self, frames: Array) -> None:
        """Write balance and positions into frames, float32 (n, 100)."""
        share = self.cash / self.config.initial_balance
        frames[:, BALANCE] = np.clip(share, -BALANCE_LIMIT, BALANCE_LIMIT)
        np.divide(
            self.positions,
            self.config.contract_limit,
            out=frames[:, POSITIONS],
            casting="same_kind",
        )


@dataclasses.dataclass
class Outcome:
    """What one step did to n lanes."""

    reward: Array  # float64 (n,)
    ruined: Array  # bool (n,)
    change: Array  # float64 (n, 10): contracts bought (+) and sold (-)
    costs: Array  # float64 (n,): of this step
    swept: Array  # float64 (n,): gains and losses of the positions, before costs
    reasons: Array  # uint8 (n, 10): bits of Reason


def targets_of(actions: Array, lanes: int, config: TradingConfig) -> Array:
    """Contracts wanted, float64 (n, 10), of actions (n, 10); NaN where the lane holds.

    Actions beyond [-1, 1] are clipped. Raises InvalidAction for another shape, and for NaN or
    infinity unless configured to hold.
    """
    try:
        wanted = np.asarray(actions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidAction(f"actions are not numbers: {error}") from error
    if wanted.shape != (lanes, SLOTS):
        raise InvalidAction(f"actions must have the shape {(lanes, SLOTS)}, got {wanted.shape}")
    finite: Array = np.asarray(np.isfinite(wanted))
    if not finite.all():
        if config.on_bad_action == "raise":
            lane, slot = np.argwhere(~finite)[0]
            raise InvalidAction(
                f"action of lane {lane}, slot {slot} is {wanted[lane, slot]}; "
                "correct the policy or set trading.on_bad_action = hold"
            )
        wanted = np.where(finite.all(axis=1, keepdims=True), wanted, np.nan)
    return np.clip(wanted, -1.0, 1.0) * config.contract_limit


def step_portfolios(
    accounts: Portfolios, block: MarketBlock, now: Array, then: Array, targets: Array
) -> Outcome:
    """Fill `targets` (n, 10; NaN = hold) at states `now`, value the lanes at states `then`.

    `now` and `then` are rows of `block`, int64 (n,). Raises BadMarketData should the account of a
    lane not be finite afterwards; that lane's account is then not to be used.
    """
    config = accounts.config
    targets = _delayed(accounts, targets)
    positions, price = accounts.positions, block.price[now]
    change = targets - positions
    idle = np.isnan(change)
    change[idle] = 0.0
    wanted = change.copy()
    np.minimum(change, block.buy_limit[now], out=change)
    np.maximum(change, -block.sell_limit[now], out=change)
    volume = np.abs(change)
    unit_cost = price * config.cost_rate + block.half_spread[now] * config.spread_share
    costs = (volume * unit_cost).sum(1) * config.multiplier
    paid = (change * price).sum(1) * config.multiplier + costs
    positions += change
    swept, rolled_costs, proceeds = _moved(accounts, block, then, price)
    _settle(accounts, proceeds - paid - rolled_costs)
    costs += rolled_costs
    value = accounts.cash + (positions * block.price[then]).sum(1) * config.multiplier
    if not np.isfinite(value).all():
        raise BadMarketData("an account is not finite after the step; its prices are out of range")
    reward = (
        risk_adjusted(
            accounts.equity, accounts.peak, accounts.returns, accounts.count, value, config
        )
        if config.reward == "risk_adjusted"
        else linear_quadratic(swept, positions, change, config)
    )
    accounts.equity[:] = value
    accounts.costs += costs
    accounts.traded += volume.sum(1)
    ruined = value <= config.ruin_share * config.initial_balance
    reasons = _reasons(block, now, then, wanted, change) | idle * np.uint8(Reason.HELD)
    return Outcome(reward, ruined, change, costs, swept, reasons)


def _reasons(block: MarketBlock, now: Array, then: Array, wanted: Array, change: Array) -> Array:
    """Bits of Reason, uint8 (n, 10)."""
    unmet = wanted != change
    limit = np.where(wanted > 0, block.buy_limit[now], block.sell_limit[now])
    states = block.states
    reasons = np.where(unmet, np.where(limit > 0, Reason.PARTIAL, Reason.NO_QUOTE), 0)
    reasons |= unmet * (states["stale"][now] * int(Reason.STALE))[:, None]
    reasons |= unmet * (states["closed"][now] * int(Reason.CLOSED))[:, None]
    reasons |= block.rolled[then] * int(Reason.ROLLED)
    found: Array = reasons.astype(np.uint8)
    return found


def _delayed(accounts: Portfolios, targets: Array) -> Array:
    """The targets that are filled now: those of `latency_states` states ago."""
    if not accounts.config.latency_states:
        return targets
    due = accounts.pending[:, 0].copy()
    accounts.pending[:, :-1] = accounts.pending[:, 1:]
    accounts.pending[:, -1] = targets
    return due


def _moved(
    accounts: Portfolios, block: MarketBlock, then: Array, price: Array
) -> tuple[Array, Array, Array]:
    """Gains of the positions up to state `then`; closes what rolled there at its own quote.

    Returns (gains, costs, proceeds), float64 (n,). The price of a contract that stays is
    block.price[then]; of one that leaves, previous_price, its close costing as any trade.
    """
    config, positions = accounts.config, accounts.positions
    rolled = block.rolled[then]
    any_rolled = bool(rolled.any())
    leaving = block.previous_price[then] if any_rolled else None
    after = block.price[then] if leaving is None else np.where(rolled, leaving, block.price[then])
    swept = (positions * (after - price)).sum(1) * config.multiplier
    if leaving is None:
        return swept, np.zeros(accounts.lanes), np.zeros(accounts.lanes)
    closed = np.where(rolled, positions, 0.0)
    unit = leaving * config.cost_rate + block.previous_half_spread[then] * config.spread_share
    costs = (np.abs(closed) * unit).sum(1) * config.multiplier
    proceeds = (closed * leaving).sum(1) * config.multiplier
    accounts.traded += np.abs(closed).sum(1)
    positions[rolled] = 0.0
    if config.latency_states:
        # an order for the contract that left is cancelled
        accounts.pending *= ~rolled[:, None, :]
    return swept, costs, proceeds


def _settle(accounts: Portfolios, amount: Array) -> None:
    """Add `amount` to cash; what rounding cut off is carried to the next time (Kahan)."""
    wanted = amount + accounts.carry
    total = accounts.cash + wanted
    accounts.carry[:] = wanted - (total - accounts.cash)
    accounts.cash[:] = total
