"""Accounts: they reconcile, whatever is traded, rolled and not quoted."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from config.trading import TradingConfig
from workers.contract.dtypes import MARKET_DTYPE, SLOTS
from workers.trading_env.account.simulation import Simulation
from workers.trading_env.market.block import MarketBlock


def market(seed, steps):
    """A random but sane market: prices, spreads, rolls, slots without a quote."""
    rng = np.random.default_rng(seed)
    states = np.zeros(steps, MARKET_DTYPE)
    states["ts_event"] = np.arange(1, steps + 1) * 10**9
    states["step"] = np.arange(steps)
    states["underlying"] = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, steps)))
    states["strike"], states["right"] = 100.0, 1
    states["expiry"] = 10**18
    states["contract"] = b"X"
    price = 5.0 * np.exp(np.cumsum(rng.normal(0, 0.05, (steps, SLOTS)), axis=0))
    half = 0.02 * price
    states["price"], states["bid"], states["ask"] = price, price - half, price + half
    states["bid_size"] = states["ask_size"] = 10.0
    states["tradeable"] = rng.random((steps, SLOTS)) > 0.1
    states["rolled"][1:] = rng.random((steps - 1, SLOTS)) < 0.05
    states["previous_price"] = np.where(states["rolled"], price * 1.1, price)
    states["previous_half_spread"] = np.where(states["rolled"], half, 0.0)
    return states


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_accounts_reconcile(seed, lanes):
    """Equity moved by exactly the gains less the costs; cash + positions x price is the equity."""
    config = TradingConfig(ruin_share=0.0)
    block = MarketBlock.of(market(seed, 300), config)
    simulation = Simulation(lanes, config)
    rng = np.random.default_rng(seed)
    simulation.reset(block, np.zeros(lanes, np.int64))
    gains = np.zeros(lanes)
    costs = np.zeros(lanes)
    for row in range(299):
        now = np.full(lanes, row)
        outcome = simulation.step(block, now, now + 1, rng.uniform(-1, 1, (lanes, SLOTS)))
        gains += outcome.swept
        costs += outcome.costs
        accounts = simulation.accounts
        worth = (accounts.positions * block.price[row + 1]).sum(1) * config.multiplier
        assert np.allclose(accounts.cash + worth, accounts.equity, rtol=1e-12)
        assert (costs >= 0).all()
    moved = accounts.equity - config.initial_balance
    assert np.allclose(moved, gains - costs, rtol=0, atol=1e-9 * config.initial_balance)


def test_no_fill_without_a_quote():
    """In a state that is not tradeable nothing is bought or sold, whatever is wanted."""
    states = market(1, 3)
    states["tradeable"] = False
    states["rolled"] = False
    states["previous_price"] = states["price"]
    config = TradingConfig()
    block = MarketBlock.of(states, config)
    simulation = Simulation(2, config)
    simulation.reset(block, np.zeros(2, np.int64))
    zero = np.zeros(2, np.int64)
    outcome = simulation.step(block, zero, zero + 1, np.ones((2, SLOTS)))
    assert not outcome.change.any()
    assert simulation.accounts.equity.tolist() == [config.initial_balance] * 2


def test_saved_accounts_go_on_bit_for_bit():
    """to_bytes and from_bytes give accounts that do exactly the same afterwards."""
    config = TradingConfig(latency_states=2)
    block = MarketBlock.of(market(3, 60), config)
    rng = np.random.default_rng(0)
    one, two = Simulation(4, config), Simulation(4, config)
    zero = np.zeros(4, np.int64)
    one.reset(block, zero)
    two.reset(block, zero)
    for row in range(59):
        actions = rng.uniform(-1, 1, (4, SLOTS))
        first = one.step(block, zero + row, zero + row + 1, actions)
        two.accounts.from_bytes(two.accounts.to_bytes())
        second = two.step(block, zero + row, zero + row + 1, actions)
        assert first.reward.tobytes() == second.reward.tobytes()
    assert one.accounts.to_bytes() == two.accounts.to_bytes()
