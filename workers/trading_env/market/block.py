"""Market states as the columns that the portfolio maths reads: validated once, at the edge.

A `MarketBlock` holds T states as contiguous arrays. Whatever is wrong with a state is found here,
so that no later line has to check for NaN or infinity: a state that breaks a rule is a typed
error, or is replaced by the last good one, marked stale, and not traded on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from workers.contract.dtypes import FEATURES, GREEKS, INDICATORS, MARKET_DTYPE, SLOTS
from workers.trading_env.account import _kernel
from workers.trading_env.account.portfolio import Reason
from workers.trading_env.errors import BadMarketData, CorporateAction, NoMarketData

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array


# Where a feature lies in a frame.
BALANCE = 0
POSITIONS = slice(1, 1 + SLOTS)
MONEYNESS = slice(1 + SLOTS, 1 + 2 * SLOTS)
GREEK_FEATURES = slice(1 + 2 * SLOTS, 1 + 2 * SLOTS + SLOTS * GREEKS)
INDICATOR_FEATURES = slice(GREEK_FEATURES.stop, GREEK_FEATURES.stop + INDICATORS)
#: Of a price or a strike that is positive; log(underlying / strike) stays within 50 by them.
SMALLEST, LARGEST = 1e-9, 1e12
INDICATOR_LIMIT = 5.0
#: `row_t` of lane.h. Half spread and limits are those of trades: contracts that can be bought and
#: sold (0 where held, infinite without partial fills); half spreads are 0 where nothing trades;
#: `rolled` has a bit a slot.
ROW_DTYPE = np.dtype(
    [
        ("price", "<f8", (SLOTS,)),
        ("half_spread", "<f8", (SLOTS,)),
        ("buy_limit", "<f8", (SLOTS,)),
        ("sell_limit", "<f8", (SLOTS,)),
        ("previous_price", "<f8", (SLOTS,)),
        ("previous_half_spread", "<f8", (SLOTS,)),
        ("ts_event", "<i8"),
        ("rolled", "<u2"),
        ("flags", "u1"),
        ("unused", "u1", (5,)),
        ("features", "<f4", (FEATURES,)),
    ]
)


def slots_rolled(rows: Array) -> Array:
    """Return the bits of `rolled` of rows (T,) of ROW_DTYPE as bool (T, 10)."""
    bits: Array = (rows["rolled"][:, None] >> np.arange(SLOTS) & 1).astype(bool)
    return bits


def bad_rows(states: Array) -> dict[str, Array]:
    """Say which rule each market state breaks; an absent bid or ask (NaN) breaks none.

    Args:
        states: Market states, MARKET_DTYPE (T,).

    Returns:
        For each rule, named by the fault, bool (T,): True where the state has that fault.
    """
    empty = states["right"] == 0
    price, strike = states["price"], states["strike"]
    bid, ask = states["bid"], states["ask"]
    tradeable = states["tradeable"]
    with np.errstate(invalid="ignore"):
        quoted = np.isfinite(bid) & np.isfinite(ask) & (bid >= 0) & (ask >= bid) & (ask < LARGEST)
        rules = {
            "underlying not positive and finite": ~_positive(states["underlying"]),
            "price not finite or negative": ~(_sane(price)).all(1),
            "previous price not finite or negative": (
                ~(_sane(states["previous_price"]) & _sane(states["previous_half_spread"])).all(1)
            ),
            "strike not positive": ~(empty | _positive(strike)).all(1),
            "right is not -1, 0 or 1": (np.abs(states["right"]) > 1).any(1),
            "greek not finite": ~(np.isfinite(states["greeks"]).all(2) | empty).all(1),
            "indicator not finite": ~np.isfinite(states["indicators"]).all(1),
            "tradeable without a sane two-sided quote": (tradeable & ~(quoted & ~empty)).any(1),
            "tradeable with the mark outside the quote": (
                tradeable & ~((price >= bid - 1e-9) & (price <= ask + 1e-9))
            ).any(1),
            "size negative or NaN where tradeable": (
                tradeable & ~((states["bid_size"] >= 0) & (states["ask_size"] >= 0))
            ).any(1),
        }
    faulty = np.logical_or.reduce(list(rules.values()))
    rules["time backwards"] = _backwards(states["ts_event"], faulty)
    return rules


def _positive(values: Array) -> Array:
    result: Array = (values > SMALLEST) & (values < LARGEST)
    return result


def _sane(values: Array) -> Array:
    result: Array = (values >= 0) & (values < LARGEST)
    return result


def _backwards(ts_event: Array, faulty: Array) -> Array:
    """Rows older than one before them that has no other fault."""
    known = np.where(faulty, np.iinfo(np.int64).min, ts_event)
    result: Array = ts_event < np.maximum.accumulate(known)
    return result


def checked(
    states: Array, *, on_bad: str = "raise", behind_held: bool = False
) -> tuple[Array, Array]:
    """Refuse faulty market states, or replace each by the last good one.

    A replacement is marked stale, not tradeable and not rolled.

    Args:
        states: Market states, MARKET_DTYPE (T,).
        on_bad: "raise" refuses a faulty state, "hold" replaces it.
        behind_held: The first state already stands in for a faulty one.

    Returns:
        (states, bad): MARKET_DTYPE (T,) without a fault, and bool (T,) of those replaced.

    Raises:
        BadMarketData: Another dtype or shape; a faulty state with "raise"; a fault before the
            first good state.
        NoMarketData: No state at all.
    """
    if not isinstance(states, np.ndarray) or states.dtype != MARKET_DTYPE or states.ndim != 1:
        kind = f"{getattr(states, 'dtype', type(states).__name__)}, {np.shape(states)}"
        raise BadMarketData(f"market states must be MARKET_DTYPE of shape (T,), got {kind:.200}")
    if states.size == 0:
        raise NoMarketData("no market state was given; an episode needs at least two")
    rules = bad_rows(states)
    bad = np.logical_or.reduce(list(rules.values()))
    if bad.any():
        states = _held(states, rules, bad, on_bad)
    replaced = bad.copy()
    replaced[0] |= behind_held
    return _contracts_followed(states, replaced) if replaced.any() else states, bad


def _held(states: Array, rules: dict[str, Array], bad: Array, on_bad: str) -> Array:
    """Replace each bad state by the last good one.

    Raises:
        BadMarketData: `on_bad` is "raise", or the first state is bad.
    """
    first = int(np.flatnonzero(bad)[0])
    broken = [rule for rule, rows in rules.items() if rows[first]]
    ts_event = int(states["ts_event"][first])
    message = f"market state {first} (ts_event {ts_event}): {', '.join(broken)}"
    if on_bad == "raise":
        raise BadMarketData(f"{message}; correct the source or set trading.on_bad_data = hold")
    if bad[0]:
        raise BadMarketData(f"{message}; there is no earlier state to hold")
    good = np.where(bad, 0, np.arange(states.size))
    held = states[np.maximum.accumulate(good)]
    held["step"], held["ts_published"] = states["step"], states["ts_published"]
    held["stale"] |= bad
    held["tradeable"] &= ~bad[:, None]
    held["rolled"] &= ~bad[:, None]
    held["previous_price"] = np.where(bad[:, None], held["price"], held["previous_price"])
    return held


def _contracts_followed(states: Array, replaced: Array) -> Array:
    """Close what left its slot with or behind a replaced state: at its last good mark.

    A roll may have been swallowed: what a state says of the contract before then is of another
    one than the account holds.
    """
    behind = np.flatnonzero(~replaced[1:] & replaced[:-1]) + 1
    states = states.copy()
    for row in behind:
        before, now = states[row - 1], states[row]
        moved = ((before["contract"] != now["contract"]) & (before["right"] != 0)) | now["rolled"]
        now["rolled"] |= moved
        now["previous_price"] = np.where(moved, before["price"], now["previous_price"])
        now["previous_half_spread"][moved] = 0.0
    return states


@dataclasses.dataclass(frozen=True)
class MarketBlock:
    """T states: as they came, and as the step reads them (`rows`, ROW_DTYPE)."""

    states: Array
    rows: Array
    bad: Array  # bool (T,): the state before stands in for one that broke a rule

    @functools.cached_property
    def kernel(self) -> _kernel.Block:
        """The rows as the native step holds them."""
        return _kernel.Block(self.rows)

    @functools.cached_property
    def ts_event(self) -> Array:
        """Event times, int64 (T,), contiguous."""
        return np.ascontiguousarray(self.states["ts_event"])

    @property
    def rolled(self) -> Array:
        """Slots whose contract left with the step to a state, bool (T, 10)."""
        return slots_rolled(self.rows)

    @property
    def price(self) -> Array:
        """The marks, float64 (T, 10)."""
        marks: Array = self.rows["price"]
        return marks

    @property
    def features(self) -> Array:
        """Frames without an account, float32 (T, 100): columns 0 to 10 are 0."""
        frames: Array = self.rows["features"]
        return frames

    @classmethod
    def of(cls, states: Array, config: TradingConfig, *, behind_held: bool = False) -> Self:
        """Validate market states and lay them out for the step.

        Args:
            states: Market states, MARKET_DTYPE (T,).
            config: What to do with bad states, corporate actions and quoted sizes.
            behind_held: The first state already stands in for one that broke a rule.

        Returns:
            The block of T rows.

        Raises:
            BadMarketData: States broke a rule and `on_bad_data` is "raise", or none is good.
            CorporateAction: A contract's terms changed and `corporate_action` is "refuse".
            NoMarketData: No state at all.
        """
        states, bad = checked(states, on_bad=config.on_bad_data, behind_held=behind_held)
        states = _terms_kept(states, config)
        open_for_trade = states["tradeable"] & ~(states["stale"] | states["closed"])[:, None]
        rows = np.zeros(states.size, ROW_DTYPE)
        with np.errstate(invalid="ignore"):
            half = (states["ask"] - states["bid"]) * 0.5
        rows["half_spread"] = np.where(open_for_trade, half, 0.0)
        for limit, size in (("buy_limit", "ask_size"), ("sell_limit", "bid_size")):
            quoted = states[size] if config.partial_fills else np.inf
            rows[limit] = np.where(open_for_trade, quoted, 0.0)
        for name in ("price", "previous_price", "previous_half_spread", "ts_event"):
            rows[name] = states[name]
        rows["rolled"] = states["rolled"] @ (1 << np.arange(SLOTS))
        stale = states["stale"] * np.uint8(Reason.STALE)
        rows["flags"] = stale + states["closed"] * np.uint8(Reason.CLOSED)
        rows["features"] = market_features(states, config)
        return cls(states, rows, bad)

    @classmethod
    def joined(cls, blocks: Sequence[Self]) -> Self:
        """Join blocks into one; no lane may step from one into the next.

        Args:
            blocks: At least one block.

        Returns:
            A block with the rows of all, in their order.
        """
        if len(blocks) == 1:
            return blocks[0]
        return cls(
            np.concatenate([block.states for block in blocks]),
            np.concatenate([block.rows for block in blocks]),
            np.concatenate([block.bad for block in blocks]),
        )

    def __len__(self) -> int:
        """Return the number of states."""
        return int(self.states.size)


def market_features(states: Array, config: TradingConfig) -> Array:
    """Return the market's part of the observation frames.

    Moneyness is log(underlying / strike), greeks are tanh(greek * scale). Both are 0 in a slot
    without a contract.

    Args:
        states: Market states without a fault, MARKET_DTYPE (T,).
        config: Its `greek_scale` is used.

    Returns:
        Frames, float32 (T, 100); the columns of the portfolio (0 to 10) are 0.
    """
    frames = np.zeros((states.size, FEATURES), np.float32)
    held = states["right"] != 0
    strike = np.where(held, states["strike"], states["underlying"][:, None])
    frames[:, MONEYNESS] = np.log(states["underlying"][:, None] / strike)
    greeks = np.where(held[:, :, None], states["greeks"] * np.array(config.greek_scale), 0.0)
    frames[:, GREEK_FEATURES] = np.tanh(greeks).reshape(states.size, -1)
    np.clip(
        states["indicators"], -INDICATOR_LIMIT, INDICATOR_LIMIT, out=frames[:, INDICATOR_FEATURES]
    )
    return frames


def _terms_kept(states: Array, config: TradingConfig) -> Array:
    """Refuse or close contracts whose terms changed; a changed contract must be marked rolled."""
    before, now = states[:-1], states[1:]
    same = (before["contract"] == now["contract"]) & ~now["rolled"]
    terms = (before["strike"] != now["strike"]) | (before["right"] != now["right"])
    replaced = same & terms & (before["right"] != 0)
    unmarked = (before["contract"] != now["contract"]) & ~now["rolled"] & (before["right"] != 0)
    if unmarked.any() and config.on_bad_data == "hold":
        states = _closed_at_last_mark(states, unmarked)
        before, now = states[:-1], states[1:]
    elif unmarked.any():
        row, slot = np.argwhere(unmarked)[0]
        raise BadMarketData(
            f"state {row + 1}, slot {slot}: contract changed from "
            f"{before['contract'][row, slot]!r} "
            f"to {now['contract'][row, slot]!r} but is not marked as rolled"
        )
    if not replaced.any():
        return states
    row, slot = np.argwhere(replaced)[0]
    if config.corporate_action == "refuse":
        raise CorporateAction(
            f"state {row + 1}, slot {slot}: {now['contract'][row, slot]!r} had strike "
            f"{before['strike'][row, slot]} and now {now['strike'][row, slot]}; "
            "set trading.corporate_action = close to go on"
        )
    return _closed_at_last_mark(states, replaced)


def _closed_at_last_mark(states: Array, leaving: Array) -> Array:
    """Mark slots as rolled, bool (T - 1, 10) from the second state on; no spread is known."""
    states = states.copy()
    states["rolled"][1:] |= leaving
    closing = np.where(leaving, states["price"][:-1], states["previous_price"][1:])
    states["previous_price"][1:] = closing
    states["previous_half_spread"][1:][leaving] = 0.0
    return states
