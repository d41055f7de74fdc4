"""What a policy has to beat: nothing, chance, holding, hedging, and what hindsight would have done.

All but the oracle see observations alone, as a policy does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workers.contract.dtypes import GREEKS, SLOTS
from workers.trading_env.market.block import GREEK_FEATURES, POSITIONS, slots_rolled

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array
    from workers.trading_env.env.vector import TradingVectorEnv
    from workers.trading_env.evaluation.run import Policy


def flat(observations: Array) -> Array:
    """Hold nothing."""
    return np.zeros((len(observations), SLOTS), np.float32)


class BuyAndHold:
    """Hold a share of the limit in every slot, long; after a roll the next contract."""

    def __init__(self, share: float = 0.5) -> None:
        """Hold `share` of the limit."""
        self._share = np.float32(share)

    def __call__(self, observations: Array) -> Array:
        """Actions (n, 10)."""
        return np.full((len(observations), SLOTS), self._share)


class Random:
    """Uniform targets, drawn anew at each step from a seed."""

    def __init__(self, seed: int = 0) -> None:
        """Draw from this seed, from its beginning in each rollout."""
        self._seed = seed
        self._rng = np.random.default_rng(seed)

    def begin(self, env: TradingVectorEnv) -> None:
        """Start the draws anew."""
        del env
        self._rng = np.random.default_rng(self._seed)

    def __call__(self, observations: Array) -> Array:
        """Actions (n, 10)."""
        return self._rng.uniform(-1.0, 1.0, (len(observations), SLOTS)).astype(np.float32)


class DeltaHedge:
    """Long volatility without direction: calls held long, puts so that the deltas cancel.

    The deltas are read back from the observation. With no put to hedge with, nothing is held; the
    hedge is adjusted when the net delta is off by more than `band` of the limit.
    """

    def __init__(self, config: TradingConfig, share: float = 0.5, band: float = 0.1) -> None:
        """Hold calls up to `share` of the limit."""
        self._scale = config.greek_scale[0]
        self._share, self._band = share, band

    def __call__(self, observations: Array) -> Array:
        """Actions (n, 10)."""
        newest = np.asarray(observations)[:, -1]
        squashed = newest[:, GREEK_FEATURES].reshape(-1, SLOTS, GREEKS)[:, :, 0]
        delta = np.arctanh(np.clip(squashed, -0.999999, 0.999999)) / self._scale
        calls, puts = np.clip(delta, 0.0, None), np.clip(-delta, 0.0, None)
        up, down = calls.sum(1, keepdims=True), puts.sum(1, keepdims=True)
        hedged = (up > 1e-6) & (down > 1e-6)
        ratio = np.divide(up, down, out=np.ones_like(up), where=hedged)
        # the side with the larger position holds `share`
        larger = np.maximum(ratio, 1.0)
        target = np.where(calls > 0, self._share / larger, self._share * ratio / larger)
        target = np.where(hedged & (delta != 0), target, 0.0)
        held = newest[:, POSITIONS]
        off = np.abs((held * delta).sum(1, keepdims=True)) / np.maximum(up * self._share, 1e-6)
        filled = np.abs(held - target).max(1, keepdims=True) < self._share
        keep = (off < self._band) & filled & (held != 0).any(1, keepdims=True)
        return np.where(keep, held, target).astype(np.float32)


class Oracle:
    """What hindsight would have held: the best path of each slot through {-1, 0, +1} x the limit.

    Found by dynamic programming over the recorded states (Bellman, Dynamic Programming, 1957) with
    commission and spread; exact where fills are immediate and whole, a bound to compare with where
    they are not. It looks into the future on purpose: no policy can be expected to reach it.
    """

    def __init__(self) -> None:
        """Wait for an environment."""
        self._env: TradingVectorEnv | None = None

    def begin(self, env: TradingVectorEnv) -> None:
        """Plan the path through every state of the environment's market."""
        self._env = env
        self._plan = best_paths(env.market.block().rows, env.config)
        self._held = np.zeros((env.num_envs, SLOTS), np.int64)

    def __call__(self, observations: Array) -> Array:
        """Return actions float32 (n, 10) for observations (n, 16, 100).

        Raises:
            ValueError: `begin` was not called.
        """
        if self._env is None:
            raise ValueError("the oracle has no environment yet; call begin(env) first")
        newest = np.asarray(observations)[:, -1]
        held = np.rint(newest[:, POSITIONS]).astype(np.int64) + 1
        rows = self._env.market.then
        chosen = self._plan[rows[:, None], np.arange(SLOTS), held]
        actions: Array = (chosen - 1).astype(np.float32)
        return actions


def best_paths(rows: Array, config: TradingConfig) -> Array:
    """Return the best next position for each state, slot and position held (Bellman, 1957).

    Values are per contract and unit of the multiplier. Where nothing can trade the position stays;
    where a slot rolls it is closed at its previous contract's price and cost.

    Args:
        rows: Rows of a block, ROW_DTYPE (T,).
        config: Its `cost_rate` and `spread_share` are used.

    Returns:
        int8 (T, 10, 3): 0 short, 1 flat, 2 long; the last axis is the position held.
    """
    count = rows.size
    levels = np.array([-1.0, 0.0, 1.0])
    plan = np.ones((count, SLOTS, 3), np.int8)
    worth = np.zeros((SLOTS, 3))  # of being at state t + 1 with this position
    unit = rows["price"] * config.cost_rate + rows["half_spread"] * config.spread_share
    left = rows["previous_price"]
    leaving = left * config.cost_rate + rows["previous_half_spread"] * config.spread_share
    tradeable = (rows["buy_limit"] > 0) & (rows["sell_limit"] > 0)
    change = np.abs(levels[:, None] - levels[None, :])  # held, chosen
    all_rolled = slots_rolled(rows)
    for t in range(count - 2, -1, -1):
        rolled = all_rolled[t + 1]
        after = np.where(rolled, left[t + 1], rows["price"][t + 1])
        gain = levels * (after - rows["price"][t])[:, None]
        ahead = np.where(
            rolled[:, None], worth[:, 1:2] - np.abs(levels) * leaving[t + 1][:, None], worth
        )
        value = (gain + ahead)[:, None, :] - change * unit[t][:, None, None]
        value = np.where(tradeable[t][:, None, None] | (change == 0), value, -np.inf)
        plan[t] = value.argmax(2)
        worth = value.max(2)
    return plan


def baselines(config: TradingConfig, *, seed: int = 0) -> dict[str, Policy]:
    """The baselines by name."""
    return {
        "flat": flat,
        "buy_and_hold": BuyAndHold(),
        "random": Random(seed),
        "delta_hedge": DeltaHedge(config),
        "oracle": Oracle(),
    }
