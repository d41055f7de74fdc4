"""The native step: what plain Python does, and no array that does not fit gets into it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.trading import TradingConfig
from tests.workers.trading_env.markets import market
from tests.workers.trading_env.plain import PlainEnvironment
from workers.contract.dtypes import SLOTS
from workers.trading_env.account import _kernel
from workers.trading_env.account.observation import Windows
from workers.trading_env.account.portfolio import Portfolios, Reason
from workers.trading_env.account.simulation import Simulation
from workers.trading_env.market.block import MarketBlock

RULES = st.builds(
    TradingConfig,
    cost_rate=st.sampled_from([0.0, 0.001]),
    spread_share=st.sampled_from([0.0, 1.0]),
    latency_states=st.integers(0, 3),
    partial_fills=st.booleans(),
    reward=st.sampled_from(["risk_adjusted", "linear_quadratic"]),
    initial_balance=st.sampled_from([50_000.0, 1_000_000.0]),
    contract_limit=st.sampled_from([1.0, 7.0, 10.0]),
)


@settings(max_examples=15)
@given(st.integers(0, 10**6), RULES)
def test_the_step_is_what_plain_python_does(seed, config):
    """Windows, rewards, costs, fills and ruin of three lanes: equal to rounding."""
    states = market(seed, 60)
    block = MarketBlock.of(states, config)
    lanes = 3
    simulation = Simulation(lanes, config)
    rows = np.arange(lanes) * 7
    simulation.reset(block, rows)
    oracles = [PlainEnvironment(states, config) for _ in range(lanes)]
    for oracle, row in zip(oracles, rows, strict=True):
        assert oracle.reset(row).shape == (16, 100)
    rng = np.random.default_rng(seed)
    for step in range(40):
        actions = rng.uniform(-1.2, 1.2, (lanes, SLOTS)).astype(np.float32)
        found = simulation.step(block, rows + step, rows + step + 1, actions)
        for lane, oracle in enumerate(oracles):
            window, reward, ruined, costs, fills = oracle.step(actions[lane])
            assert np.allclose(simulation.windows.view()[lane], window, rtol=1e-5, atol=1e-6)
            mine = [found.reward[lane], found.costs[lane], simulation.accounts.equity[lane]]
            theirs = [reward, costs, oracle.equity]
            assert np.allclose(mine + found.change[lane].tolist(), theirs + fills, 1e-9, 1e-9)
            assert bool(found.ruined[lane]) == ruined
        if any(oracle.equity <= 1000.0 for oracle in oracles):
            break


@pytest.mark.parametrize("latency", [0, 2])
def test_a_million_steps_reconcile(latency):
    """1,024 lanes, 1,000 steps, every rule of execution on: gains less costs are equity, to 1e-9.

    Spreads, rates, partial fills, latency, absent quotes, stale states, a closed market and rolls
    all happen; equity, cash and the costs of the account are each summed apart.
    """
    config = TradingConfig(
        ruin_share=0.0,
        initial_balance=1e9,
        cost_rate=1e-3,
        spread_share=1.0,
        partial_fills=True,
        latency_states=latency,
    )
    block = MarketBlock.of(market(4, 1001), config)
    lanes = 1024
    simulation = Simulation(lanes, config)
    rng = np.random.default_rng(4)
    simulation.reset(block, np.zeros(lanes, np.int64))
    gains, costs = np.zeros((2, lanes, 1000))
    happened = 0
    for row in range(1000):
        now = np.full(lanes, row)
        found = simulation.step(block, now, now + 1, rng.uniform(-1, 1, (lanes, SLOTS)))
        gains[:, row], costs[:, row] = found.swept, found.costs
        happened |= int(np.bitwise_or.reduce(found.reasons, axis=None))
    wanted = Reason.NO_QUOTE | Reason.PARTIAL | Reason.STALE | Reason.CLOSED | Reason.ROLLED
    assert Reason(happened) == wanted
    tolerance = 1e-9 * config.initial_balance
    moved = simulation.accounts.equity - config.initial_balance
    assert moved == pytest.approx((gains - costs).sum(1), rel=0, abs=tolerance)
    assert simulation.accounts.costs == pytest.approx(costs.sum(1), rel=1e-9)
    worth = (simulation.accounts.positions * block.price[1000]).sum(1) * config.multiplier
    whole = simulation.accounts.cash + worth
    assert whole == pytest.approx(simulation.accounts.equity, rel=1e-12)


def test_one_lane_reconciles_over_a_million_steps():
    """One account, a million steps back and forth over the same states: still to 1e-9."""
    config = TradingConfig(ruin_share=0.0, initial_balance=1e9, cost_rate=1e-6, spread_share=0.0)
    states = market(9, 512)
    states["rolled"] = False
    states["previous_price"], states["previous_half_spread"] = states["price"], 0.0
    block = MarketBlock.of(states, config)
    simulation = Simulation(1, config)
    rows = np.concatenate([np.arange(512), np.arange(510, 0, -1)])
    rows = np.resize(rows, 1_000_001)[:, None]
    simulation.reset(block, rows[0])
    actions = np.random.default_rng(1).uniform(-1, 1, (4096, 1, SLOTS))
    gains = 0.0
    carry = 0.0
    step = simulation.step
    for k in range(1_000_000):
        found = step(block, rows[k], rows[k + 1], actions[k & 4095])
        moved = found.swept[0] - found.costs[0] - carry
        total = gains + moved
        carry = (total - gains) - moved
        gains = total
    found = simulation.accounts.equity[0] - config.initial_balance
    assert found == pytest.approx(gains, rel=0, abs=1e-9 * config.initial_balance)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tradeable": False}, Reason.NO_QUOTE),
        ({"stale": True}, Reason.NO_QUOTE | Reason.STALE),
        ({"closed": True}, Reason.NO_QUOTE | Reason.CLOSED),
        ({"ask_size": 2.0}, Reason.PARTIAL),
    ],
)
def test_reasons_say_why_nothing_was_filled(change, reason):
    """No quote, a stale state, a closed market, a small quote: nothing or part, and why."""
    states = market(1, 3)
    states["rolled"] = states["stale"] = states["closed"] = False
    states["tradeable"] = True
    states["ask_size"] = 10.0
    states["previous_price"] = states["price"]
    for name, value in change.items():
        states[name] = value
    config = TradingConfig(partial_fills=True)
    block = MarketBlock.of(states, config)
    simulation = Simulation(1, config)
    zero = np.zeros(1, np.int64)
    simulation.reset(block, zero)
    found = simulation.step(block, zero, zero + 1, np.ones((1, SLOTS)))
    assert (found.reasons == int(reason)).all()
    assert (found.change == (2.0 if reason is Reason.PARTIAL else 0.0)).all()


def test_holding_moves_nothing():
    """`hold` keeps positions to the last bit and costs nothing."""
    config = TradingConfig(contract_limit=7.0)
    states = market(2, 50)
    states["rolled"] = False
    states["previous_price"], states["previous_half_spread"] = states["price"], 0.0
    block = MarketBlock.of(states, config)
    simulation = Simulation(2, config)
    rows = np.zeros(2, np.int64)
    simulation.reset(block, rows)
    simulation.step(block, rows, rows + 1, np.full((2, SLOTS), 1 / 3))
    before = simulation.accounts.positions.copy()
    for row in range(1, 49):
        found = simulation.step(block, rows + row, rows + row + 1, np.zeros((2, SLOTS)), hold=True)
        assert not found.costs.any()
    assert (simulation.accounts.positions == before).all()


def test_arrays_that_do_not_fit_are_refused():
    """Wrong types, shapes, rows beyond the block: an error, never memory of others."""
    config = TradingConfig()
    block = MarketBlock.of(market(1, 5), config)
    simulation = Simulation(2, config)
    rows = np.zeros(2, np.int64)
    simulation.reset(block, rows)
    actions = np.zeros((2, SLOTS))
    with pytest.raises(IndexError):
        simulation.step(block, rows, rows + 5, actions)
    with pytest.raises(IndexError):
        simulation.step(block, rows - 1, rows, actions)
    with pytest.raises(ValueError, match="now"):
        simulation.step(block, rows.astype(np.int32), rows, actions)
    with pytest.raises(ValueError, match="then"):
        simulation.step(block, rows, rows[:1], actions)
    with pytest.raises(ValueError, match="fresh"):
        simulation.step(block, rows, rows + 1, actions, np.zeros(2, np.uint8))
    with pytest.raises(IndexError):
        simulation.reset(block, rows, np.array([0, 2]))
    with pytest.raises(ValueError, match="ROW_DTYPE"):
        _kernel.Block(np.zeros(3))
    with pytest.raises(ValueError, match="memory"):
        _kernel.Lanes(*[np.zeros((2, 2))] * 5)


@pytest.mark.parametrize("written", ["memory", "pending", "frames", "steps"])
def test_read_only_arrays_are_refused(written):
    """Lanes writes to its four arrays, so it refuses one that is read-only and names it."""
    arrays = {
        "memory": np.zeros((2, Portfolios(2, TradingConfig()).memory.shape[1])),
        "pending": np.zeros((2, 0, SLOTS)),
        "frames": np.zeros(Windows(2).frames.shape, np.float32),
        "steps": np.zeros(2, np.int64),
    }
    arrays[written].flags.writeable = False
    with pytest.raises(ValueError, match=f"{written}: not a writable"):
        _kernel.Lanes(*arrays.values(), np.zeros(1))
