"""`check_provider`: the contract of market data providers as a tool, for users' own ones.

Plays an episode and looks for what would spoil learning without an error: NaN and
infinity, time that runs backwards, shapes that change, contracts that change unmarked, states
that change after they were given, another episode for the same seed, and columns that know the
next move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from config.trading import TradingConfig
from workers.contract.dtypes import MARKET_DTYPE, SLOTS
from workers.trading_env.errors import ContractViolation, EndOfData, TradingEnvError
from workers.trading_env.market.block import (
    GREEK_FEATURES,
    INDICATOR_FEATURES,
    MONEYNESS,
    MarketBlock,
    bad_rows,
    market_features,
)
from workers.trading_env.market.indicators import NAMES
from workers.trading_env.providers.protocol import IndexedProvider, MarketDataProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.arrays import Array

#: A column that explains more than this of the next move, or its sign more often, is no forecast.
TOO_GOOD = 0.98
MIN_MOVES = 40  # fewer say nothing about look-ahead
OUTLIERS = 0.05  # share of the moves, the largest, without which a correlation has to hold as well


def check_provider(
    provider: MarketDataProvider,
    *,
    config: TradingConfig | None = None,
    seed: int = 0,
    steps: int = 2000,
    deterministic: bool = True,
) -> int:
    """Play up to `steps` steps of an episode and return how many states there were.

    Args:
        provider: The provider to examine.
        config: The rules by which environments would read its states; the defaults without one.
        seed: Seed of the episode.
        steps: Largest number of steps; an episode has one state more.
        deterministic: False for a live source, which cannot play an episode twice.

    Returns:
        The number of states, at least 2.

    Raises:
        ContractViolation: At the first fault; the message names the rule and the state.

    Example:
        >>> from workers.trading_env.providers.synthetic import synthetic_provider
        >>> check_provider(synthetic_provider(3, states=60), steps=20)
        21
    """
    config = TradingConfig() if config is None else config
    if not isinstance(provider, MarketDataProvider):
        raise ContractViolation(
            f"{type(provider).__name__} has not both reset(*, seed=None) and advance()"
        )
    states = _episode(provider, seed, steps)
    _sane(states, config)
    if deterministic:
        again = _episode(provider, seed, steps)
        _same(states, again, f"reset(seed={seed}) gave another episode the second time")
    if isinstance(provider, IndexedProvider):
        first, last = provider.episode(seed)
        rows = np.concatenate(provider.segments)[first : last + 1][: states.size]
        _same(states, rows, "the rows of segments are not the states that advance() gives")
    _no_look_ahead(states, config)
    return int(states.size)


def _episode(provider: MarketDataProvider, seed: int, steps: int) -> Array:
    """The states of an episode, each checked for its shape and for changing afterwards."""
    given: list[Any] = []
    kept: list[Array] = []
    for index, state in enumerate(_states(provider, seed)):
        if getattr(state, "dtype", None) != MARKET_DTYPE or state.shape != ():
            found = f"{type(state).__name__} {getattr(state, 'dtype', '')}"[:120]
            shape = getattr(state, "shape", None)
            raise ContractViolation(
                f"state {index} is {found} of shape {shape}; every state must be a MARKET_DTYPE "
                "record of shape ()"
            )
        given.append(state)
        kept.append(np.array(state))
        if len(kept) > steps:
            break
    for index, (state, copy) in enumerate(zip(given, kept, strict=True)):
        if not _equal(np.asarray(state).reshape(1), copy.reshape(1)):
            raise ContractViolation(
                f"state {index} was changed after it was given; give a copy, not a buffer that is "
                "filled again"
            )
    if len(kept) < 2:
        raise ContractViolation(f"the episode has {len(kept)} states; at least two are needed")
    return np.stack(kept)


def _states(provider: MarketDataProvider, seed: int) -> Iterator[Any]:
    try:
        yield provider.reset(seed=seed)
        while True:
            yield provider.advance()
    except EndOfData:
        try:
            provider.advance()
        except EndOfData:
            return
        raise ContractViolation("advance() gave a state after it had raised EndOfData") from None


def _sane(states: Array, config: TradingConfig) -> None:
    rules = bad_rows(states)
    bad = np.logical_or.reduce(list(rules.values()))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        broken = ", ".join(rule for rule, rows in rules.items() if rows[row])
        raise ContractViolation(
            f"state {row} (ts_event {int(states['ts_event'][row])}): {broken}; correct the "
            "provider: environments would hold such a state or refuse it"
        )
    strict = config.model_copy(update={"on_bad_data": "raise"})
    try:
        MarketBlock.of(states, strict)
    except TradingEnvError as error:
        raise ContractViolation(str(error)) from error


def _equal(one: Array, two: Array) -> bool:
    return one.size == two.size and all(
        np.array_equal(one[name], two[name], equal_nan=one[name].dtype.kind == "f")
        for name in MARKET_DTYPE.names or ()
        if name != "ts_published"
    )


def _same(one: Array, two: Array, what: str) -> None:
    if not _equal(one, two):
        count = min(one.size, two.size)
        differs = [
            row for row in range(count) if not _equal(one[row : row + 1], two[row : row + 1])
        ]
        where = f"from state {differs[0]} on" if differs else f"{one.size} and {two.size} states"
        raise ContractViolation(f"{what} ({where})")


def _no_look_ahead(states: Array, config: TradingConfig) -> None:
    """Refuse columns of state t that tell the move from t to t + 1 all but exactly."""
    features = market_features(states, config)[:-1].astype(float)
    names = _column_names()
    moves = {"the underlying": np.log(states["underlying"][1:] / states["underlying"][:-1])}
    held = states["right"] != 0  # a slot that is filled has no move: its price was nobody's before
    for slot in range(SLOTS):
        stays = ~states["rolled"][1:, slot] & held[1:, slot] & held[:-1, slot]
        move = np.where(stays, states["price"][1:, slot] - states["price"][:-1, slot], np.nan)
        moves[f"slot {slot}"] = move
    for what, move in moves.items():
        counted = np.isfinite(move) & (move != 0)
        if counted.sum() < MIN_MOVES:
            continue
        for column, name in names.items():
            seen = _tells(features[counted, column], move[counted])
            if seen:
                raise ContractViolation(
                    f"{name} of a state tells the move of {what} to the next one: {seen} over "
                    f"{int(counted.sum())} moves; it looks ahead: use what was known at the "
                    "state's time alone"
                )


def _tells(known: Array, move: Array) -> str:
    """How `known` tells `move`, by value or by sign; empty where it does not."""
    if _is_constant(known, move):
        return ""
    ordinary = np.abs(move) <= np.quantile(np.abs(move), 1.0 - OUTLIERS)
    correlations = [_correlation(known, move), _correlation(known[ordinary], move[ordinary])]
    if min(map(abs, correlations)) > TOO_GOOD and correlations[0] * correlations[1] > 0:
        return f"correlation {correlations[0]:.4f}, {correlations[1]:.4f} without the largest"
    centred = known - np.median(known) if (known > 0).all() or (known < 0).all() else known
    signs = np.sign(centred) == np.sign(move)
    both = (move > 0).any() and (move < 0).any()
    agreement = max(signs.mean(), 1.0 - signs.mean()) if both and (centred != 0).all() else 0.0
    return f"the sign of {agreement:.1%}" if agreement > TOO_GOOD else ""


def _correlation(known: Array, move: Array) -> float:
    return 0.0 if _is_constant(known, move) else float(np.corrcoef(known, move)[0, 1])


def _is_constant(known: Array, move: Array) -> bool:
    """Whether one of them is: of it nothing can be told."""
    return bool(known.std() < 1e-12 or move.std() < 1e-15)


def _column_names() -> dict[int, str]:
    greeks = ("delta", "gamma", "theta", "vega", "rho")
    names = {MONEYNESS.start + slot: f"log-moneyness of slot {slot}" for slot in range(SLOTS)}
    for index in range(GREEK_FEATURES.stop - GREEK_FEATURES.start):
        slot, greek = divmod(index, len(greeks))
        names[GREEK_FEATURES.start + index] = f"{greeks[greek]} of slot {slot}"
    for index, name in enumerate(NAMES):
        names[INDICATOR_FEATURES.start + index] = f"indicator {name!r}"
    return names
