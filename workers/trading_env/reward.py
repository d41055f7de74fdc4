"""Rewards, float64 and vectorised over lanes; they update the statistics they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from config.trading import TradingConfig

Array = np.ndarray[Any, np.dtype[Any]]

#: Returns over which the risk of the reward is taken.
RETURNS = 20
_AGE = np.arange(RETURNS)


def risk_adjusted(
    equity: Array, peak: Array, returns: Array, count: Array, value: Array, config: TradingConfig
) -> Array:
    """Return - risk_weight * std of the last 20 returns - drawdown_weight * excess drawdown.

    `equity` (n,) is before and `value` (n,) after the step. `peak`, `returns` (n, 20, a ring) and
    `count` are brought up to date. The standard deviation is that of the population; of a single
    return it is 0.
    """
    gained = (value - equity) / equity
    np.maximum(peak, value, out=peak)
    place = count.astype(np.int64) % RETURNS
    returns[np.arange(len(place)), place] = gained
    count += 1.0
    seen = np.minimum(count, RETURNS)
    mean = returns.sum(1) / seen
    deviation = returns - mean[:, None]
    if seen.min(initial=RETURNS) < RETURNS:
        deviation *= seen[:, None] > _AGE
    risk = np.sqrt((deviation * deviation).sum(1) / seen)
    excess = np.maximum((peak - value) / peak - config.drawdown_free, 0.0)
    reward: Array = gained - config.risk_weight * risk - config.drawdown_weight * excess
    return reward


def linear_quadratic(swept: Array, positions: Array, change: Array, config: TradingConfig) -> Array:
    """Gain - risk / 2 * position^2 - cost / 2 * change^2, positions as shares of the limit.

    Gains are per unit of contract_limit * multiplier. The reward of Garleanu and Pedersen,
    Dynamic Trading with Predictable Returns and Transaction Costs (Journal of Finance, 2013),
    for one asset; `known_optimum` gives the best policy and its value.
    """
    limit = config.contract_limit
    gain = swept / (limit * config.multiplier)
    held = (positions / limit) ** 2
    moved = (change / limit) ** 2
    reward: Array = (
        gain
        - 0.5 * config.quadratic_risk * held.sum(1)
        - 0.5 * config.quadratic_cost * moved.sum(1)
    )
    return reward
