"""Providers that break every rule: rows and streams agree, and nothing comes from nowhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from config.trading import TradingConfig
from tests.workers.trading_env.markets import Streamed, market
from tests.workers.trading_env.test_bad_input import FLOATS, OTHERS, spoil
from workers.contract.dtypes import SLOTS
from workers.trading_env.account.simulation import Simulation
from workers.trading_env.env.environment import TradingEnvironment
from workers.trading_env.errors import BadMarketData, EndOfData, StaleData, TradingEnvError
from workers.trading_env.market.block import MarketBlock
from workers.trading_env.providers.recorded import RecordedProvider

STEPS = 16
MARKS = {"price", "previous_price"}
NO_PRICE = [np.nan, np.inf, -np.inf, -1.0, -1e300, 2.0**63]
FAULTS = st.lists(
    st.tuples(
        st.integers(1, STEPS - 1),  # state
        st.sampled_from(FLOATS + OTHERS),
        st.integers(0, 49),  # place within the field
        st.sampled_from([*NO_PRICE, 0.0, 1e-300, 1.0, 1e12, 2.0**61]),
    ),
    max_size=6,
)


def constant_market(seed, steps=STEPS):
    """Contracts come and go, each with a price of its own that never changes."""
    states = market(seed, steps)
    held = np.arange(SLOTS)
    listed = SLOTS
    for step in range(steps):
        rolled = states["rolled"][step]
        before = held.copy()
        held[rolled] = np.arange(listed, listed + rolled.sum())
        listed += int(rolled.sum())
        price, left = 1.0 + held * 7 % 97, 1.0 + before * 7 % 97
        states["contract"][step] = [f"K{number}".encode() for number in held]
        states["strike"][step] = 50.0 + held % 7
        states["price"][step], states["previous_price"][step] = price, np.where(rolled, left, price)
        states["bid"][step], states["ask"][step] = price - 0.1, price + 0.1
        states["previous_half_spread"][step] = np.where(rolled, 0.1, 0.0)
    return states


def spoiled(states, faults):
    """States with faults in them; a price of another contract is none that anyone could find."""
    for row, name, place, value in faults:
        if name not in MARKS or value in NO_PRICE or np.isnan(value):
            spoil(states[row], name, place, value)
    return states


class Losing:
    """A stream that loses states (BadMarketData) and keeps others waiting (StaleData)."""

    def __init__(self, states, losses):
        self.states, self.losses = states, losses

    def reset(self, *, seed=None):
        """Start anew."""
        del seed
        self.row, self.left = 0, dict(self.losses)
        return self.states[0]

    def advance(self):
        """Return the next state, or none."""
        lost = self.left.pop(self.row + 1, None)
        if lost is not StaleData:
            self.row += 1
        if lost is not None:
            raise lost("on purpose")
        if self.row >= self.states.size:
            raise EndOfData("done")
        return self.states[self.row]


def played(provider, config, seed):
    """All that an episode gives, up to the error that ends it."""
    given, rng = [], np.random.default_rng(seed)
    try:
        env = TradingEnvironment(provider, config)
        given.append((env.reset(seed=0)[0].tobytes(),))
        over = False
        while not over:
            window, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, SLOTS))
            values = {name: np.asarray(value).tobytes() for name, value in info.items()}
            given.append((window.tobytes(), reward, terminated, truncated, values))
            over = terminated or truncated
    except TradingEnvError as error:
        given.append(type(error))
    return given


@settings(max_examples=150)
@given(st.integers(0, 10**6), FAULTS, st.integers(0, 2), st.booleans())
@example(0, [(5, "price", 0, np.nan), (5, "ts_event", 0, 2.0**61)], 0, True)
def test_rows_and_streams_agree_on_whatever_is_wrong(seed, faults, latency, closes):
    """The same faults in states that are known as a whole and in those that come one by one."""
    states = spoiled(constant_market(seed), faults)
    config = TradingConfig(
        latency_states=latency, corporate_action="close" if closes else "refuse", ruin_share=0.0
    )
    rows = played(RecordedProvider(states), config, seed)
    stream = played(Streamed(RecordedProvider(states)), config, seed)
    if rows[0] is not stream[-1]:  # refused as a whole, or when it came to it
        assert rows == stream


@settings(max_examples=200)
@given(
    st.integers(0, 10**6),
    FAULTS,
    st.dictionaries(
        st.integers(1, STEPS - 1), st.sampled_from([BadMarketData, StaleData]), max_size=4
    ),
    st.integers(0, 2),
    st.sampled_from([0.0, 1.0]),
)
def test_nothing_is_gained_where_no_price_moves(seed, faults, losses, latency, spread):
    """Equity and costs make the first balance to 1e-9, whatever is spoilt, lost, late or renamed:
    no contract is closed at the price of another.
    """
    states = spoiled(constant_market(seed), faults)
    config = TradingConfig(
        latency_states=latency,
        corporate_action="close",
        ruin_share=0.0,
        cost_rate=0.001 * spread,
        spread_share=spread,
    )
    rng = np.random.default_rng(seed)
    for provider in (RecordedProvider(states), Losing(states, losses)):
        env = TradingEnvironment(provider, config)
        try:
            env.reset(seed=0)
            for _ in range(STEPS - 1):
                window, reward, *_, truncated, info = env.step(rng.uniform(-1, 1, SLOTS))
                assert env.observation_space.contains(window)
                assert np.isfinite(reward)
                whole = info["equity"] + env.simulation.accounts.costs[0]
                assert whole == pytest.approx(config.initial_balance, rel=1e-9, abs=0)
                if truncated:
                    break
        except TradingEnvError as error:
            assert len(str(error)) > 20  # noqa: PT017 - exact, or a typed error


def test_a_roll_that_was_swallowed_is_no_gain():
    """A at 5 rolls to B at 50 in a state without a price, B to C in the next: A goes at 5."""
    states = market(1, 8)
    states["tradeable"] = True
    states["rolled"] = states["stale"] = states["closed"] = False
    for start, name, price in ((0, b"A", 5.0), (4, b"B", 50.0), (5, b"C", 7.0)):
        for field in ("price", "bid", "ask", "previous_price"):
            states[field][start:] = price
        states["contract"][start:] = name
    states["previous_half_spread"] = 0.0
    states["rolled"][4:6], states["previous_price"][4], states["previous_price"][5] = (
        True,
        5.0,
        50.0,
    )
    states["price"][4, 0] = np.nan
    config = TradingConfig(cost_rate=0.0, spread_share=0.0)
    for provider in (RecordedProvider(states), Streamed(RecordedProvider(states))):
        env = TradingEnvironment(provider, config)
        env.reset(seed=0)
        for _ in range(7):
            *_, info = env.step(np.full(SLOTS, 0.1))
            assert info["equity"] == config.initial_balance


def test_a_million_steps_over_expiries_and_splits_reconcile():
    """1,024 lanes, 1,000 states with rolls, settlements without a spread and strikes replaced
    under their names: equity and costs make the first balance, to 1e-9.
    """
    states = constant_market(3, 1001)
    settled = np.random.default_rng(3).random((1001, SLOTS)) < 0.5
    states["previous_half_spread"][settled] = 0.0
    for start in range(40, 1000, 40):  # a split: the name stays, the strike does not
        states["strike"][start:, start // 40 % SLOTS] /= 2.0
    config = TradingConfig(
        initial_balance=1e9,
        corporate_action="close",
        cost_rate=1e-3,
        spread_share=1.0,
        ruin_share=0.0,
        latency_states=1,
    )
    block = MarketBlock.of(states, config)
    assert block.rolled.sum() > states["rolled"].sum() + 20
    lanes = 1024
    simulation = Simulation(lanes, config)
    simulation.reset(block, np.zeros(lanes, np.int64))
    rng = np.random.default_rng(4)
    for row in range(1000):
        now = np.full(lanes, row)
        simulation.step(block, now, now + 1, rng.uniform(-1, 1, (lanes, SLOTS)))
    accounts = simulation.accounts
    assert accounts.costs.min() > 1e5
    whole = accounts.equity + accounts.costs
    assert whole == pytest.approx(config.initial_balance, rel=1e-9, abs=0)
