"""Bad data at every entry: a typed error or a held state, never NaN in what a learner sees."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.trading import TradingConfig
from tests.workers.trading_env.markets import market
from workers.contract.dtypes import MARKET_DTYPE, SLOTS, TICK_DTYPE
from workers.trading_env.env.environment import TradingEnvironment
from workers.trading_env.errors import BadMarketData, EndOfData, NoMarketData, TradingEnvError
from workers.trading_env.market.block import bad_rows
from workers.trading_env.providers.recorded import RecordedProvider, states_of_ticks
from workers.trading_env.providers.synthetic import ROOT, SyntheticChain

NUMBERS = st.sampled_from(
    [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-300, 1e300, -1e300, 5e-324, 1.0, 1e12, 2.0**63]
)
FLOATS = [name for name in MARKET_DTYPE.names if MARKET_DTYPE[name].base.kind == "f"]
OTHERS = ["ts_event", "right", "contract", "rolled", "tradeable", "stale", "closed", "expiry"]
FAULTS = st.lists(
    st.tuples(
        st.integers(0, 11),  # state
        st.sampled_from(FLOATS + OTHERS),
        st.integers(0, 49),  # place within the field
        NUMBERS,
    ),
    min_size=1,
    max_size=6,
)


def spoil(state, name, place, value):
    """Write `value` into a field, as far as its type takes it."""
    field = state[name]
    if MARKET_DTYPE[name].base.kind == "S":
        value = str(value).encode()
    elif MARKET_DTYPE[name].base.kind in "iub":
        finite = np.nan_to_num(value, posinf=2**62, neginf=-(2**62))
        value = int(np.clip(finite, -100, 100)) if name == "right" else int(finite) % 2**62
    elif MARKET_DTYPE[name].base == np.float32 and abs(value) > 1e38:
        value = np.inf
    if field.shape:
        field.reshape(-1)[place % field.size] = value
    else:
        state[name] = value


class Spoiled:
    """A stream of twelve states, some of them spoiled or something else altogether."""

    def __init__(self, states, odd):
        self.states, self.odd, self.row = states, odd, 0

    def reset(self, *, seed=None):
        """Start anew."""
        del seed
        self.row = -1
        return self.advance()

    def advance(self):
        """Return the next state."""
        self.row += 1
        if self.row >= len(self.states):
            raise EndOfData("done")
        return self.odd.get(self.row, self.states[self.row])


def play(provider, config):
    """An episode; whatever comes out must be fit to learn from."""
    env = TradingEnvironment(provider, config)
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=0)
    for _ in range(14):
        assert env.observation_space.contains(observation)
        assert np.isfinite([info["cash"], info["equity"], info["costs"]]).all()
        observation, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, SLOTS))
        assert np.isfinite(reward)
        assert np.isfinite(info["fills"]).all()
        if terminated or truncated:
            break
    assert env.observation_space.contains(observation)


ODD = st.sampled_from(
    [
        None,
        1.0,
        "state",
        b"",
        {},
        {"price": 1.0},
        [],
        np.zeros(3),
        np.zeros(2, MARKET_DTYPE),
        np.zeros((), TICK_DTYPE),
        np.array("text"),
        np.zeros((), MARKET_DTYPE),
    ]
)


@settings(max_examples=150)
@given(
    FAULTS,
    st.dictionaries(st.integers(1, 11), ODD, max_size=2),
    st.sampled_from(["hold", "raise"]),
    st.booleans(),
    st.integers(0, 100),
)
def test_spoiled_streams_hold_or_raise(faults, odd, on_bad, closes, seed):
    """NaN, infinities, negatives, other types and shapes: held, or an error of ours."""
    states = market(seed, 12)
    for row, name, place, value in faults:
        spoil(states[row], name, place, value)
    config = TradingConfig(
        on_bad_data=on_bad,
        corporate_action="close" if closes else "refuse",
        partial_fills=closes,
        latency_states=seed % 2,
    )
    for provider in (Spoiled(states, odd), RecordedProvider(states)):
        try:
            play(provider, config)
        except TradingEnvError as error:
            assert len(str(error)) > 20  # noqa: PT017 - either fit to learn from, or typed


def test_a_faulty_state_in_between_is_held():
    """A NaN price: the state before stands in, marked stale, and the episode goes on."""
    states = market(1, 12)
    states["price"][5, 2] = np.nan
    env = TradingEnvironment(RecordedProvider(states))
    env.reset(seed=0)
    for _ in range(4):
        *_, info = env.step(np.ones(SLOTS))
    held = env.simulation.windows.view()[0, -1, 11:].copy()
    observation, *_, info = env.step(np.zeros(SLOTS))
    assert (observation[-1, 11:] == held).all()
    *_, info = env.step(np.zeros(SLOTS))
    assert not info["fills"].any()
    with pytest.raises(BadMarketData, match="price"):
        TradingEnvironment(RecordedProvider(states), TradingConfig(on_bad_data="raise"))


def test_duplicate_times_are_taken_and_backward_ones_are_not():
    """A state at the time of the one before is a state; one before it is a fault."""
    states = market(1, 12)
    states["ts_event"][5] = states["ts_event"][4]
    assert not bad_rows(states)["time backwards"].any()
    states["ts_event"][6] = states["ts_event"][3]
    assert np.flatnonzero(bad_rows(states)["time backwards"]).tolist() == [6]


TICK_FAULTS = st.lists(
    st.tuples(
        st.integers(0, 10**6),  # row
        st.sampled_from([n for n in TICK_DTYPE.names if TICK_DTYPE[n].kind in "fiS"]),
        NUMBERS,
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=40)
@given(TICK_FAULTS, st.integers(0, 5))
def test_spoiled_ticks_never_make_a_bad_state(faults, seed):
    """Quotes of any nonsense: what becomes of them is a sane market state, or none."""
    batches = [batch.copy() for batch in SyntheticChain().ticks(25, seed=seed)]
    ticks = np.concatenate(batches)
    for row, name, value in faults:
        kind = TICK_DTYPE[name].kind
        if kind == "S":
            ticks[name][row % ticks.size] = str(value).encode()
        elif kind == "i":
            info = np.iinfo(TICK_DTYPE[name])
            finite = float(np.nan_to_num(value, posinf=1e18, neginf=-1e18))
            ticks[name][row % ticks.size] = int(np.clip(finite, info.min / 4, info.max / 4))
        else:
            ticks[name][row % ticks.size] = value
    config = TradingConfig()
    try:
        states = states_of_ticks([ticks], config, root=ROOT)
    except NoMarketData:
        return
    for rule, rows in bad_rows(states).items():
        assert not rows.any(), rule
    if states.size > 1:
        play(RecordedProvider(states), config)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
@pytest.mark.parametrize("side", ["bid", "ask"])
def test_a_side_that_is_no_price_is_absent(side, value):
    """Recorded feeds write 0, NaN or nothing for an absent side: the slot is not tradeable."""
    batches = list(SyntheticChain(absent=0.0, crossed=0.0, silent=0.0).ticks(10, seed=1))
    for batch in batches[5:]:
        batch[side][1:] = value
    states = states_of_ticks(batches, TradingConfig(), root=ROOT)
    assert states["tradeable"][:5].all()
    if side == "ask" or value != 0.0:
        assert not states["tradeable"][5:].any()
    assert (states["price"][5:] > 0).all()


def test_locked_quotes_trade_and_crossed_ones_do_not():
    """bid = ask is a quote; bid > ask is none."""
    for shift, tradeable in ((0.0, True), (0.01, False)):
        batches = list(SyntheticChain(absent=0.0, crossed=0.0, silent=0.0).ticks(6, seed=1))
        for batch in batches[3:]:
            batch["bid"][1:] = batch["ask"][1:] + shift
        states = states_of_ticks(batches, TradingConfig(), root=ROOT)
        assert states["tradeable"][:3].all()
        assert (states["tradeable"][3:] == tradeable).all()


def test_volatility_zero_means_not_computed():
    """IV 0 and greeks 0 of a feed are computed from the quote, and agree with those it gives."""
    chain = SyntheticChain(absent=0.0, crossed=0.0, silent=0.0, without_greeks=0.0)
    given = states_of_ticks(chain.ticks(3, seed=1), TradingConfig(), root=ROOT)
    bare = SyntheticChain(absent=0.0, crossed=0.0, silent=0.0, without_greeks=1.0)
    computed = states_of_ticks(bare.ticks(3, seed=1), TradingConfig(), root=ROOT)
    assert (computed["implied_volatility"] > 0).all()
    vega = given["greeks"][:, :, 3]
    near = np.abs(given["implied_volatility"] - computed["implied_volatility"]) * vega
    assert (near < 0.02).all()  # within a cent and a half of price: what rounding of quotes leaves
    assert np.isfinite(json.loads(json.dumps(computed["greeks"].tolist()))).all()
