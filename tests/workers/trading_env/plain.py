"""The trading environment in plain Python, one lane, as its page describes it: the oracle."""

from __future__ import annotations

import math
import statistics
from collections import deque

import numpy as np

from workers.contract.dtypes import FEATURES, SLOTS, WINDOW
from workers.trading_env.market.block import market_features


class PlainEnvironment:
    """One lane over states (T,) of MARKET_DTYPE that hold no fault."""

    def __init__(self, states, config):
        names = states.dtype.names
        self.states = [
            dict(zip(names, (states[name][row].tolist() for name in names), strict=True))
            for row in range(states.size)
        ]
        self.config = config
        self.features = market_features(states, config)

    def reset(self, row):
        """Start an episode at `row`; gives the window."""
        self.row = row
        self.cash = self.equity = self.peak = self.config.initial_balance
        self.positions = [0.0] * SLOTS
        self.returns = deque(maxlen=20)
        self.orders = deque([[0.0] * SLOTS for _ in range(self.config.latency_states)])
        frame = self._frame()
        self.frames = deque([frame] * WINDOW, maxlen=WINDOW)
        return np.stack(self.frames)

    def step(self, action):
        """Return (window, reward, ruined, costs, fills)."""
        config = self.config
        here, there = self.states[self.row], self.states[self.row + 1]
        wanted = [min(1.0, max(-1.0, float(a))) * config.contract_limit for a in action]
        self.orders.append(wanted)
        wanted = self.orders.popleft()
        costs, gains, fills = 0.0, 0.0, []
        for slot in range(SLOTS):
            fill = self._fill(here, slot, wanted[slot] - self.positions[slot])
            half = (here["ask"][slot] - here["bid"][slot]) / 2 if fill else 0.0
            costs += abs(fill) * self._unit_cost(here["price"][slot], half)
            self.cash -= fill * here["price"][slot] * config.multiplier
            self.positions[slot] += fill
            fills.append(fill)
        held = list(self.positions)
        for slot in range(SLOTS):
            after = there["previous_price" if there["rolled"][slot] else "price"][slot]
            gains += held[slot] * (after - here["price"][slot])
            if there["rolled"][slot]:
                costs += abs(held[slot]) * self._unit_cost(
                    after, there["previous_half_spread"][slot]
                )
                self.cash += held[slot] * after * config.multiplier
                self.positions[slot] = 0.0
                for order in self.orders:
                    order[slot] = 0.0
        costs *= config.multiplier
        self.cash -= costs
        worth = sum(p * there["price"][j] for j, p in enumerate(self.positions))
        value = self.cash + worth * config.multiplier
        reward = self._reward(value, gains, held, fills)
        self.equity = value
        self.row += 1
        self.frames.append(self._frame())
        ruined = value <= config.ruin_share * config.initial_balance
        return np.stack(self.frames), reward, ruined, costs, fills

    def _fill(self, here, slot, change):
        if not here["tradeable"][slot] or here["stale"] or here["closed"]:
            return 0.0
        if not self.config.partial_fills:
            return change
        return max(-here["bid_size"][slot], min(here["ask_size"][slot], change))

    def _unit_cost(self, price, half):
        return price * self.config.cost_rate + half * self.config.spread_share

    def _reward(self, value, gains, held, fills):
        config = self.config
        if config.reward == "linear_quadratic":
            limit = config.contract_limit
            risk = sum((p / limit) ** 2 for p in held)
            moved = sum((c / limit) ** 2 for c in fills)
            return (
                gains / limit
                - config.quadratic_risk / 2 * risk
                - (config.quadratic_cost / 2 * moved)
            )
        gained = value / self.equity - 1.0
        self.peak = max(self.peak, value)
        self.returns.append(gained)
        drawdown = (self.peak - value) / self.peak
        return (
            gained
            - config.risk_weight * statistics.pstdev(self.returns)
            - config.drawdown_weight * max(0.0, drawdown - config.drawdown_free)
        )

    def _frame(self):
        frame = np.zeros(FEATURES, np.float32)
        frame[:] = self.features[self.row]
        frame[0] = self.cash / self.config.initial_balance
        frame[1:11] = [p / self.config.contract_limit for p in self.positions]
        assert all(math.isfinite(value) for value in frame)
        return frame
