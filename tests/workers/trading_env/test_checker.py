"""check_provider: finds what is planted, and nothing in our own providers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.workers.trading_env.markets import Streamed, market
from workers.trading_env.errors import ContractViolation, EndOfData
from workers.trading_env.providers.checker import check_provider
from workers.trading_env.providers.known_optimum import known_optimum_provider
from workers.trading_env.providers.recorded import RecordedProvider
from workers.trading_env.providers.synthetic import synthetic_provider


def test_our_own_providers_pass():
    """Recorded, streamed, synthetic and known-optimum ones keep the contract."""
    for provider in (
        RecordedProvider([market(1, 80), market(2, 90)], random_start=True, min_steps=60),
        Streamed(RecordedProvider(market(1, 80))),
        synthetic_provider(1, states=150),
        known_optimum_provider(steps=100, assets=3),
    ):
        assert check_provider(provider) >= 50


class Broken:
    """A provider with one fault planted."""

    def __init__(self, fault=None, *, states=None):
        self.states = market(5, 120) if states is None else states
        self.fault = fault
        self.buffer = np.zeros((), self.states.dtype)
        self.resets = 0
        self.row = 0

    def reset(self, *, seed=None):
        """Start an episode."""
        self.resets += 1
        self.row = (seed or 0) - 1
        return self.advance()

    def advance(self):
        """Return the next state, with the fault in it."""
        self.row += 1
        if self.row == 100 and self.fault == "after the end":
            raise EndOfData("once")
        if self.row >= self.states.size:
            raise EndOfData("for good")
        state = np.array(self.states[self.row])
        if self.fault == "buffer":
            self.buffer[...] = state
            return self.buffer
        if self.fault == "rng":
            state["underlying"] *= self.resets
        if self.fault == "shape" and self.row == 50:
            return state.reshape(1)
        if self.fault == "dtype" and self.row == 50:
            return state["price"]
        if callable(self.fault) and self.row == 50:
            self.fault(state)
        return state


def plant(name, value, slot=3):
    """A fault that sets a field."""

    def fault(state):
        if state[name].shape:
            state[name][slot] = value
        else:
            state[name] = value

    return fault


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (plant("price", np.nan), "price"),
        (plant("price", -1.0), "price"),
        (plant("underlying", 0.0), "underlying"),
        (plant("underlying", np.inf), "underlying"),
        (plant("indicators", np.nan), "indicator"),
        (plant("greeks", np.inf), "greek"),
        (plant("strike", -5.0), "strike"),
        (plant("ts_event", 5), "backwards"),
        (plant("right", 3), "right"),
        (plant("contract", b"ANOTHER"), "not marked as rolled"),
        ("shape", "shape"),
        ("dtype", "MARKET_DTYPE"),
        ("buffer", "changed after it was given"),
        ("rng", "another episode"),
        ("after the end", "after it had raised EndOfData"),
    ],
)
def test_planted_faults_are_found(fault, says):
    """Each of them is named."""
    with pytest.raises(ContractViolation, match=says):
        check_provider(Broken(fault))


@pytest.mark.parametrize("by", ["value", "sign", "slot"])
def test_look_ahead_is_found(by):
    """An indicator that is the next move, or its sign, of the underlying or of a slot."""
    states = market(5, 120)
    move = np.zeros(120)
    move[:-1] = np.diff(np.log(states["underlying"]))
    if by == "slot":
        states["rolled"] = False
        states["previous_price"], states["previous_half_spread"] = states["price"], 0.0
        move[:-1] = np.diff(states["price"][:, 4])
    states["indicators"][:, 7] = np.sign(move) if by == "sign" else 20 * move
    with pytest.raises(ContractViolation, match="looks ahead"):
        check_provider(Broken(states=states))


def test_a_slot_that_is_filled_has_no_move():
    """From empty to a contract at 150 is no move of a price, though its greeks change with it."""
    states = market(5, 200)
    states["rolled"] = False
    states["previous_price"], states["previous_half_spread"] = states["price"], 0.0
    states["greeks"][:, 4], states["price"][:, 4] = 0.5, 150.0 + states["price"][:, 4]
    states["bid"][:, 4] = states["ask"][:, 4] = states["price"][:, 4]
    states["previous_price"][:, 4] = states["price"][:, 4]
    for name in ("price", "previous_price", "strike", "right", "greeks", "expiry"):
        states[name][:90, 4] = 0
    states["contract"][:90, 4], states["tradeable"][:90, 4] = b"", False
    assert check_provider(Broken(states=states)) > 150


def test_one_leap_alone_is_no_look_ahead():
    """A single move of fifty times the others at a flag of its time: no rule follows from one."""
    states = market(5, 200)
    states["underlying"] = 100.0 * (1 + 1e-5 * np.cumsum(np.sin(np.arange(200.0))))
    states["underlying"][100:] *= 1.05
    states["indicators"][:, 7] = 0.0
    states["indicators"][99, 7] = 1.0
    assert check_provider(Broken(states=states)) == 200


def test_a_refusal_says_what_was_seen():
    """The correlation, with and without the largest moves, and over how many moves it is."""
    states = market(5, 120)
    states["indicators"][:-1, 7] = np.diff(np.log(states["underlying"])) * 20
    with pytest.raises(ContractViolation, match=r"correlation 1\.0000, 1\.0000 .* over 119 moves"):
        check_provider(Broken(states=states))


def test_what_is_no_provider_is_named():
    """An object without the two methods, an episode of one state."""
    with pytest.raises(ContractViolation, match="advance"):
        check_provider(object())
    with pytest.raises(ContractViolation, match="two"):
        check_provider(Broken(states=market(0, 1)))
