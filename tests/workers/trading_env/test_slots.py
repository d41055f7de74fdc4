"""The choice of slots on chains of a few options, without a market around it."""

from __future__ import annotations

import numpy as np

from config.trading import SlotsConfig
from workers.contract.dtypes import SLOTS
from workers.trading_env.market.slots import EMPTY, Chain, SlotChoice

DAY_NS = 86_400 * 10**9
NOW = 100 * DAY_NS


def chain(strikes=range(60, 141, 2), *, quoted=True, days=(30, 60, 90)):
    """Calls and puts at every strike and expiry, all quoted without a spread."""
    terms = [
        (NOW + day * DAY_NS, float(strike), right)
        for day in days
        for strike in strikes
        for right in (1, -1)
    ]
    expiry, strike, right = zip(*terms, strict=True)
    count = len(terms)
    return Chain(
        np.array(expiry, np.int64),
        np.array(strike),
        np.array(right, np.int8),
        np.full(count, quoted),
        np.zeros(count),
    )


def test_every_slot_holds_a_contract_of_its_own():
    """With enough options all slots are filled, each once, by the right that its target names."""
    config = SlotsConfig()
    slots = SlotChoice(config)
    options = chain()
    changed = slots.choose(options, 100.0, NOW)
    assert changed.all()
    assert len(set(slots.held.tolist())) == SLOTS
    wanted = [1 if target.right == "call" else -1 for target in config.targets]
    assert options.right[slots.held].tolist() == wanted


def test_the_same_chain_changes_nothing():
    """A second choice on an unchanged market keeps every contract."""
    slots = SlotChoice(SlotsConfig())
    slots.choose(chain(), 100.0, NOW)
    held = slots.held.copy()
    assert not slots.choose(chain(), 100.0, NOW + 1).any()
    assert (slots.held == held).all()


def test_nothing_quoted_leaves_the_slots_empty():
    """An option without a two-sided quote is not chosen."""
    slots = SlotChoice(SlotsConfig())
    assert not slots.choose(chain(quoted=False), 100.0, NOW).any()
    assert (slots.held == EMPTY).all()


def test_an_expired_contract_leaves_its_slot():
    """At expiry a slot gives its contract up, though nothing can replace it."""
    slots = SlotChoice(SlotsConfig())
    options = chain(days=(30,))
    slots.choose(options, 100.0, NOW)
    filled = slots.held != EMPTY
    assert filled.any()
    changed = slots.choose(options, 100.0, NOW + 30 * DAY_NS)
    assert (changed == filled).all()
    assert (slots.held == EMPTY).all()
