"""Quotes to market states: what is chosen, marked, rolled and settled."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.trading import SlotsConfig, SlotTarget, TradingConfig
from tests.workers.trading_env.markets import market
from workers.contract.dtypes import SLOTS, TICK_DTYPE
from workers.market_data.archive import occ_symbol
from workers.trading_env.account.portfolio import Reason
from workers.trading_env.account.simulation import Simulation
from workers.trading_env.errors import BadMarketData, CorporateAction
from workers.trading_env.market.block import MarketBlock
from workers.trading_env.market.slots import EMPTY, Chain, SlotChoice
from workers.trading_env.market.state import MarketState
from workers.trading_env.providers.synthetic import ROOT, SyntheticChain

SECOND = 10**9
FRIDAY = dt.date(2026, 1, 9)
EXPIRY = 1_767_992_400 * SECOND  # that day 16:00 in New York


def quotes(at, *rows, underlying=100.0):
    """Ticks at `at` (ns): the underlying, then (symbol, bid, ask)."""
    ticks = np.zeros(1 + len(rows), TICK_DTYPE)
    for name in TICK_DTYPE.names:
        if TICK_DTYPE[name].kind == "f":
            ticks[name] = np.nan
    ticks["ts_event"] = at
    ticks["symbol"][0], ticks["last"][0] = b"ABC", underlying
    for place, (symbol, bid, ask) in enumerate(rows, start=1):
        ticks[place]["symbol"] = symbol.encode()
        ticks[place]["bid"], ticks[place]["ask"] = bid, ask
        ticks[place]["bid_size"] = ticks[place]["ask_size"] = 5.0
    return ticks


def symbol(strike, right=1, day=FRIDAY):
    """An OCC symbol on ABC."""
    return occ_symbol("ABC", day, "C" if right > 0 else "P", round(strike * 1000))


def state_of(config=None):
    """A market state of ABC, slots allowed to change at once."""
    slots = SlotsConfig(min_hold_states=0, hysteresis=0.0, spread_penalty=0.0, patience_states=2)
    return MarketState(config or TradingConfig(slots=slots), root="ABC")


def test_marks_are_mids_and_stand_without_a_quote():
    """The middle of the quote; with a side gone the last mark, not tradeable."""
    one = state_of()
    one.apply(quotes(SECOND, (symbol(100.0), 2.0, 2.2)))
    first = one.state()
    slot = int(np.flatnonzero(first["right"])[0])
    assert first["price"][slot] == pytest.approx(2.1)
    assert first["tradeable"][slot]
    one.apply(quotes(2 * SECOND, (symbol(100.0), 3.0, np.nan)))
    second = one.state()
    assert second["price"][slot] == pytest.approx(2.1)
    assert not second["tradeable"][slot]
    assert not second["rolled"].any()


def test_what_leaves_a_slot_is_closed_at_its_own_quote():
    """A nearer contract appears: the old one goes at its middle and half its spread."""
    one = state_of()
    near, far = symbol(100.0), symbol(110.0)
    one.apply(quotes(SECOND, (far, 1.0, 1.2)))
    slots = np.flatnonzero(one.state()["right"])
    one.apply(quotes(2 * SECOND, (far, 1.4, 1.8), (near, 2.0, 2.2)))
    state = one.state()
    rolled = np.flatnonzero(state["rolled"])
    assert rolled.size
    assert set(rolled) <= set(slots)
    for slot in rolled:
        assert state["contract"][slot] == near.encode()
        assert state["price"][slot] == pytest.approx(2.1)
        assert state["previous_price"][slot] == pytest.approx(1.6)
        assert state["previous_half_spread"][slot] == pytest.approx(0.2)


@pytest.mark.parametrize(("right", "spot", "worth"), [(1, 107.0, 7.0), (-1, 107.0, 0.0)])
def test_an_expired_contract_is_settled_at_its_intrinsic_value(right, spot, worth):
    """At expiry: intrinsic value, no spread, and the slot looks for the next contract."""
    one = state_of()
    later = symbol(100.0, right, FRIDAY + dt.timedelta(days=7))
    one.apply(quotes(EXPIRY - 3600 * SECOND, (symbol(100.0, right), 2.0, 2.2)))
    held = np.flatnonzero(one.state()["right"])
    one.apply(quotes(EXPIRY, (later, 3.0, 3.2), underlying=spot))
    state = one.state()
    assert state["rolled"][held].all()
    assert state["previous_price"][held] == pytest.approx(worth)
    assert (state["previous_half_spread"][held] == 0.0).all()
    assert later.encode() in state["contract"][held]


def test_the_settlement_reaches_the_account():
    """Long ten through expiry: cash grows by the intrinsic value, no spread is paid."""
    config = TradingConfig(cost_rate=0.0)
    one = state_of(config.model_copy(update={"slots": state_of().config.slots}))
    first, last = symbol(100.0), symbol(100.0, day=FRIDAY + dt.timedelta(days=7))
    states = []
    for at, spot, rows in (
        (EXPIRY - 7200 * SECOND, 100.0, [(first, 2.0, 2.0)]),
        (EXPIRY - 3600 * SECOND, 104.0, [(first, 4.5, 4.5)]),
        (EXPIRY + SECOND, 107.0, [(last, 9.0, 9.2)]),
    ):
        one.apply(quotes(at, *rows, underlying=spot))
        states.append(one.state())
    block = MarketBlock.of(np.stack(states), config)
    simulation = Simulation(1, config)
    row = np.zeros(1, np.int64)
    simulation.reset(block, row)
    slot = int(np.flatnonzero(states[0]["right"])[0])
    action = np.zeros((1, SLOTS))
    action[0, slot] = 1.0
    simulation.step(block, row, row + 1, action)
    found = simulation.step(block, row + 1, row + 2, action, hold=True)
    assert found.reasons[0, slot] & Reason.ROLLED
    assert simulation.accounts.positions[0, slot] == 0.0
    gained = simulation.accounts.equity[0] - config.initial_balance
    assert gained == pytest.approx(10 * 100 * (7.0 - 2.0))


def test_coin_quotes_are_valued_in_the_quote_currency():
    """A Deribit option quoted 0.05 coin at an underlying of 90,000 is worth 4,500."""
    one = MarketState(TradingConfig(), root="BTC")
    ticks = quotes(1_767_258_000 * SECOND, ("BTC-30JAN26-90000-C", 0.049, 0.051))
    ticks = ticks[1:]
    ticks["underlying_price"] = 90_000.0
    one.apply(ticks)
    state = one.state()
    slot = int(np.flatnonzero(state["right"])[0])
    assert state["price"][slot] == pytest.approx(4500.0)
    assert state["ask"][slot] - state["bid"][slot] == pytest.approx(180.0)
    assert 0.2 < state["implied_volatility"][slot] < 1.0
    assert 0.4 < state["greeks"][slot, 0] < 0.7


@pytest.mark.parametrize("reverse", [False, True])
def test_the_nearest_future_is_the_underlying(reverse):
    """Every expiry comes with its own future: the nearest counts, in whatever order they come."""
    one = MarketState(TradingConfig(), root="BTC")
    names = ["BTC-30JAN26-90000-C", "BTC-27MAR26-90000-C", "BTC-25DEC26-90000-C"]
    for hour in range(1, 5):
        ticks = quotes(hour * 3600 * SECOND, *[(name, 0.05, 0.06) for name in names])[1:]
        ticks["underlying_price"] = np.array([90_000.0, 92_000.0, 97_000.0]) + hour
        for tick in ticks[::-1] if reverse else ticks:
            one.apply(tick.reshape(1))
        assert one.underlying == 90_000.0 + hour
    far = ticks[2:].copy()
    far["ts_event"] += 10 * SECOND  # nothing of the nearer ones for long: better than none
    one.apply(far)
    assert one.underlying == 97_004.0


def test_a_chain_without_its_underlying_implies_it():
    """Put-call parity where the feed has no underlying; its own price counts while it has one."""
    one = state_of()
    ticks = quotes(
        SECOND,
        (symbol(100.0), 4.0, 4.2),
        (symbol(100.0, -1), 1.0, 1.2),
        (symbol(105.0), 1.4, 1.6),
        (symbol(105.0, -1), 3.4, 3.6),
    )
    one.apply(ticks[1:])
    assert one.state()["underlying"] == pytest.approx(103.0)
    one.apply(quotes(2 * SECOND, underlying=103.5))
    assert one.state()["underlying"] == 103.5
    alone = state_of()
    alone.apply(ticks[1:2])
    assert alone.state() is None


def test_a_replaced_strike_is_refused_or_closed():
    """A corporate action changes the terms under a name: an error, or closed at the last mark."""
    states = market(1, 6)
    for name in ("rolled", "stale", "closed"):
        states[name] = False
    states["tradeable"] = True
    states["previous_price"], states["previous_half_spread"] = states["price"], 0.0
    states["strike"][3:, 4] = 50.0
    with pytest.raises(CorporateAction, match="strike"):
        MarketBlock.of(states, TradingConfig())
    config = TradingConfig(corporate_action="close")
    block = MarketBlock.of(states, config)
    assert block.rolled[3].tolist() == [slot == 4 for slot in range(SLOTS)]
    assert block.rows["previous_price"][3, 4] == states["price"][2, 4]
    simulation = Simulation(1, config)
    row = np.zeros(1, np.int64)
    simulation.reset(block, row)
    for at in range(2):
        simulation.step(block, row + at, row + at + 1, np.ones((1, SLOTS)))
    before = simulation.accounts.equity[0]
    found = simulation.step(block, row + 2, row + 3, np.ones((1, SLOTS)), hold=True)
    assert simulation.accounts.positions[0, 4] == 0.0
    others = np.delete((states["price"][3] - states["price"][2]), 4).sum() * 1000
    assert simulation.accounts.equity[0] - before == pytest.approx(others - found.costs[0])


def test_an_unmarked_change_of_contract_is_refused_or_closed():
    """A contract that changes without a roll must not teleport the position's value."""
    states = market(1, 6)
    states["rolled"] = False
    states["previous_price"], states["previous_half_spread"] = states["price"], 0.0
    states["contract"][3:, 4] = b"Y"
    with pytest.raises(BadMarketData, match="not marked as rolled"):
        MarketBlock.of(states, TradingConfig(on_bad_data="raise"))
    block = MarketBlock.of(states, TradingConfig())
    assert block.rolled[3, 4]
    assert block.rows["previous_price"][3, 4] == states["price"][2, 4]


def test_late_and_unrelated_ticks_change_nothing():
    """Older than what is known, another root, no known notation: ignored, and counted as such."""
    one = state_of()
    one.apply(quotes(5 * SECOND, (symbol(100.0), 2.0, 2.2)))
    before = one.state()
    late = quotes(SECOND, (symbol(100.0), 9.0, 9.2), underlying=50.0)
    unrelated = quotes(6 * SECOND, ("XYZ   260109C00100000", 9.0, 9.2), ("?!", 1.0, 2.0))[1:]
    assert one.apply(late) == 1
    assert one.apply(unrelated) == 0
    after = one.state()
    assert after["price"].tolist() == before["price"].tolist()
    assert after["underlying"] == before["underlying"]
    assert one.refused == {b"?!"}


def test_age_and_staleness_are_market_time():
    """Options silent for longer than stale_s of market time: the state is stale, none trades."""
    one = state_of()
    one.apply(quotes(SECOND, (symbol(100.0), 2.0, 2.2)))
    assert not one.state()["stale"]
    one.apply(quotes(200 * SECOND))
    state = one.state()
    assert state["age_s"] == 199.0
    assert not state["stale"]
    one.apply(quotes(400 * SECOND))
    state = one.state()
    assert state["stale"]
    assert not state["tradeable"].any()


def chain_of(strikes, quoted=None):
    """Calls and puts of one expiry."""
    count = 2 * len(strikes)
    return Chain(
        expiry=np.full(count, EXPIRY),
        strike=np.repeat(np.array(strikes, float), 2),
        right=np.tile([1, -1], len(strikes)).astype(np.int8),
        quoted=np.ones(count, bool) if quoted is None else quoted,
        spread=np.zeros(count),
    )


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.0, 0.05), st.integers(0, 30))
def test_slots_never_share_a_contract_and_hold_what_fits(seed, hysteresis, least):
    """Random walks over a chain that goes blind in places: distinct, right kind, not expired."""
    rng = np.random.default_rng(seed)
    choice = SlotChoice(SlotsConfig(hysteresis=hysteresis, min_hold_states=least))
    chain = chain_of(np.arange(80, 121, 2))
    spot, now = 100.0, EXPIRY - 86_400 * SECOND
    since = np.zeros(SLOTS, int)
    for _ in range(120):
        quoted = rng.random(chain.quoted.size) > 0.2
        before = choice.held.copy()
        changed = choice.choose(chain_of(np.arange(80, 121, 2), quoted), spot, now)
        held = choice.held[choice.held != EMPTY]
        assert held.size == np.unique(held).size
        rights = [1 if t.right == "call" else -1 for t in SlotsConfig().targets]
        for slot, index in enumerate(choice.held):
            assert index == EMPTY or chain.right[index] == rights[slot]
        early = changed & (before != EMPTY) & (since + 1 < least)
        assert not early.any()
        since = np.where(changed, 0, since + 1)
        spot *= np.exp(rng.normal(0, 0.004))
        now += 60 * SECOND
    choice.choose(chain_of(np.arange(80, 121, 2)), spot, EXPIRY)
    assert (choice.held == EMPTY).all()


def test_hysteresis_keeps_slots_from_flapping():
    """An underlying that swings around the middle between two strikes: no change at all."""
    calm, flapping = 0, 0
    apart = tuple(
        SlotTarget(expiry_rank=0, right=("call", "put")[k // 5], moneyness=0.08 * (k % 5 - 2))
        for k in range(SLOTS)
    )
    for hysteresis in (0.015, 0.0):
        config = SlotsConfig(
            targets=apart, hysteresis=hysteresis, min_hold_states=0, spread_penalty=0.0
        )
        choice = SlotChoice(config)
        chain = chain_of(np.arange(60, 151, 2))
        choice.choose(chain, 100.9, EXPIRY - 86_400 * SECOND)
        changes = 0
        for step in range(100):
            spot = 101.0 + (0.15 if step % 2 else -0.15)
            changes += choice.choose(chain, spot, EXPIRY - 80_000 * SECOND).sum()
        calm, flapping = (changes, flapping) if hysteresis else (calm, changes)
    assert calm == 0
    assert flapping > 50


def test_thousands_of_contracts_are_chosen_from():
    """A chain of 4,000: the contracts nearest to what the slots look for."""
    chain = SyntheticChain(
        strikes=tuple(50.0 + 0.1 * k for k in range(1000)), absent=0.0, crossed=0.0, silent=0.0
    )
    targets = tuple(
        SlotTarget(expiry_rank=k % 2, right=("call", "put")[k // 5], moneyness=0.01 * (k % 5 - 2))
        for k in range(SLOTS)
    )
    config = TradingConfig(slots=SlotsConfig(targets=targets, spread_penalty=0.0))
    one = MarketState(config, root=ROOT)
    for batch in chain.ticks(2, seed=0):
        one.apply(batch)
    state = one.state()
    assert one.known == 4000
    for slot, target in enumerate(targets):
        found = np.log(state["strike"][slot] / state["underlying"])
        assert found == pytest.approx(target.moneyness, abs=0.001)
        assert state["right"][slot] == (1 if target.right == "call" else -1)
