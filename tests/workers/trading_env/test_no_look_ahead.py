"""Nothing knows the future: planted futures do not pay, cut data changes nothing before the cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.trading import TradingConfig
from tests.workers.trading_env.markets import market
from workers.contract.dtypes import SLOTS
from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.errors import NoMarketData, TradingEnvError
from workers.trading_env.market.block import INDICATOR_FEATURES
from workers.trading_env.providers.recorded import RecordedProvider, states_of_ticks
from workers.trading_env.providers.splits import last_part, walk_forward, walk_forward_providers
from workers.trading_env.providers.synthetic import ROOT, SyntheticChain, synthetic_provider

FREE = TradingConfig(cost_rate=0.0, spread_share=0.0, ruin_share=0.0)


def planted(seed, steps, lead):
    """A random walk whose first indicators tell the sign of the move that ends `lead` states on."""
    states = market(seed, steps)
    for name in ("rolled", "stale", "closed"):
        states[name] = False
    states["tradeable"] = True
    rng = np.random.default_rng(seed)
    price = 50.0 + np.cumsum(rng.normal(0, 0.05, (steps, SLOTS)), axis=0)
    assert price.min() > 0
    states["price"] = states["bid"] = states["ask"] = states["previous_price"] = price
    states["previous_half_spread"] = 0.0
    sign = np.zeros((steps, SLOTS))
    sign[1:] = np.sign(np.diff(price, axis=0))  # of the move that ended at this state
    states["indicators"] = 0.0
    states["indicators"][: steps - lead, :SLOTS] = sign[lead:]
    return states


def earned(states):
    """Profit a step and contract of a policy that goes where the planted indicator points."""
    env = TradingVectorEnv(RecordedProvider(states), 1, FREE)
    observation, _ = env.reset(seed=0)
    gains = []
    for _ in range(states.size - 2):
        equity = env.simulation.accounts.equity[0]
        signal = observation[:, -1, INDICATOR_FEATURES][:, :SLOTS]
        observation, *_, info = env.step(signal)
        gains.append(info["equity"][0] - equity)
    gains = np.array(gains) / (SLOTS * FREE.contract_limit * FREE.multiplier)
    return gains.mean(), gains.std() / np.sqrt(gains.size)


def test_a_planted_future_pays_nothing():
    """What would pay only if seen a state early earns nothing; seen early, it earns every move."""
    move = 0.05 * np.sqrt(2 / np.pi)
    honest, error = earned(planted(1, 3000, lead=0))
    assert abs(honest) < 4 * error
    assert abs(honest) < 0.1 * move
    peeking, _ = earned(planted(1, 3000, lead=1))
    assert peeking == pytest.approx(move, rel=0.1)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 38), st.integers(0, 2))
def test_what_comes_after_changes_nothing_before(seed, cut, latency):
    """Another market from state `cut` on: every observation and reward before it is the same."""
    config = TradingConfig(latency_states=latency, ruin_share=0.0)
    states = market(seed, 40)
    other = states.copy()
    other[cut:] = market(seed + 1, 40)[cut:]
    actions = np.random.default_rng(seed).uniform(-1, 1, (39, 1, SLOTS))
    found = []
    for version in (states, other):
        env = TradingVectorEnv(RecordedProvider(version), 1, config)
        parts = [env.reset(seed=0)[0].tobytes()]
        for step in range(cut - 1):
            observation, reward, *_ = env.step(actions[step])
            parts.append(observation.tobytes() + reward.tobytes())
        found.append(parts)
    assert found[0] == found[1]


def test_market_states_do_not_know_later_ticks():
    """Ticks cut after any moment give the states that all ticks give, up to there."""
    batches = list(SyntheticChain().ticks(120, seed=3))
    whole = states_of_ticks(batches, FREE, root=ROOT)
    for cut in (20, 63, 111):
        part = states_of_ticks(batches[:cut], FREE, root=ROOT)
        same = part.size - 1  # the last one is made because the data ends
        for name in whole.dtype.names:
            equal = {"equal_nan": True} if whole[name].dtype.kind == "f" else {}
            assert np.array_equal(part[name][:same], whole[name][:same], **equal), (cut, name)


CLOCKS = st.lists(
    st.tuples(
        st.integers(0, 10**6),  # tick
        st.integers(1, 40),  # how many in a row
        st.sampled_from([2 * 86_400, -2 * 86_400, 10**9, -(10**9), 3600, -3600, 300]),  # s
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(CLOCKS, st.integers(300, 2400), st.sampled_from([7, 64, 10**6]), st.integers(0, 3))
def test_wrong_clocks_do_not_make_later_ticks_known(clocks, cut, batch, seed):
    """Clocks of single ticks and of runs of them off by minutes to years: states up to a cut within
    a batch are those of all ticks, and it does not matter how they come in batches.
    """
    ticks = np.concatenate(list(SyntheticChain().ticks(30, seed=seed)))
    for tick, run, seconds in clocks:
        start = tick % ticks.size
        ticks["ts_event"][start : start + run] += seconds * 10**9

    def made(given, size):
        try:
            return states_of_ticks(np.split(given, range(size, given.size, size)), FREE, root=ROOT)
        except TradingEnvError:  # most of them are wrong
            return None

    whole, other, part = made(ticks, 10**6), made(ticks, batch), made(ticks[:cut], 10**6)
    if whole is None or other is None or part is None:
        return
    assert whole.size == other.size >= part.size - 1
    for name in whole.dtype.names:
        equal = {"equal_nan": True} if whole[name].dtype.kind == "f" else {}
        assert np.array_equal(whole[name], other[name], **equal), name
        same = part.size - 1
        assert np.array_equal(part[name][:same], whole[name][:same], **equal), name


def test_a_longer_synthetic_market_begins_as_a_shorter_one():
    """The same seed with more states only appends."""
    short, long = (synthetic_provider(2, states=count).states for count in (80, 160))
    for name in ("price", "strike", "indicators", "greeks", "ts_event"):
        assert np.array_equal(short[name], long[name][: short.size]), name


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 600), min_size=30, max_size=300),
    st.integers(1, 5),
    st.floats(0, 2000),
    st.booleans(),
)
def test_walk_forward_keeps_the_embargo(gaps, folds, embargo_s, expanding):
    """Every test state is later than every training state by the embargo; tests do not overlap."""
    times = np.cumsum(np.array(gaps)) * 10**9
    try:
        splits = walk_forward(times, folds=folds, embargo_s=embargo_s, expanding=expanding)
    except NoMarketData as error:
        assert "embargo" in str(error)  # noqa: PT017 - either refused, naming why, or right
        return
    tested = np.zeros(times.size, int)
    for split in splits:
        train, test = times[split.train], times[split.test]
        assert train.size >= 2
        assert test.size >= 2
        assert (test[0] - train[-1]) / 1e9 >= embargo_s - 1e-6
        assert split.train.stop <= split.test.start
        tested[split.test] += 1
    assert tested.max() == 1


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 600), min_size=1, max_size=300),
    st.floats(0.01, 0.99),
    st.integers(0, 40),
)
def test_last_part_is_the_end_and_keeps_the_embargo(gaps, share, embargo):
    """The test is the end of the file, and later than the training by so many median gaps."""
    times = np.cumsum(np.array(gaps)) * 10**9
    try:
        split = last_part(times, share=share, embargo_states=embargo)
    except NoMarketData as error:
        assert "training and" in str(error) or times.size < 2  # noqa: PT017 - refused, or right
        return
    train, test = times[split.train], times[split.test]
    assert split.test.stop == times.size
    assert test.size == int(times.size * share) >= 2
    assert train.size > embargo
    gap_s = embargo * float(np.median(np.diff(times))) / 1e9
    assert (test[0] - train[-1]) / 1e9 >= gap_s - 1e-6


def test_a_share_must_leave_something():
    """All of it or none of it is no part."""
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match=f"share is {share}"):
            last_part(np.arange(100), share=share, embargo_states=0)


def test_walk_forward_providers_play():
    """Training and test providers of each fold give episodes of their own rows."""
    states = market(0, 200)
    pairs = list(walk_forward_providers(states, folds=3, embargo_s=10))
    assert len(pairs) == 3
    for train, test in pairs:
        assert train.states["ts_event"].max() + 10 * 10**9 <= test.states["ts_event"].min()
        env = TradingVectorEnv(test, 2)
        _, info = env.reset(seed=0)
        assert (info["ts_event"] == test.states["ts_event"][0]).all()
