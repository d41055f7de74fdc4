"""A market whose best policy and value are known in closed form: learning can be proved on it.

Garleanu and Pedersen, Dynamic Trading with Predictable Returns and Transaction Costs (Journal of
Finance, 2013), for independent assets and one signal each, with the reward `linear_quadratic`:

    price(t+1)  = price(t) + signal(t) + noise * normal
    signal(t+1) = persistence * signal(t) + shock * normal
    reward(t)   = sum y * (price(t+1) - price(t)) - risk / 2 * y^2 - cost / 2 * (y - x)^2

where x is the position before and y after the trade, as shares of the contract limit. The signals
are the first indicators of the observation. With discount g the value of (x, s) is quadratic,

    V = -a/2 x^2 + b x s + d/2 s^2 + e        y = (cost x + (1 + g persistence b) s) / D
    D = risk + cost + g a                     g a^2 + (risk + cost - g cost) a - cost risk = 0
    b = cost / (D - g persistence cost)       e = g d shock^2 / (2 (1 - g))
    d = (1 + g persistence b)^2 / (D (1 - g persistence^2))

per asset: the Bellman equation with V put in. Positions are bounded by the limit, which the
defaults hardly ever reach, so that the bound costs nothing that can be measured.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from config.trading import TradingConfig
from workers.contract.dtypes import MARKET_DTYPE, SLOTS
from workers.trading_env.errors import BadMarketData
from workers.trading_env.market.block import INDICATOR_FEATURES, POSITIONS
from workers.trading_env.providers.recorded import RecordedProvider

if TYPE_CHECKING:
    from mesh.arrays import Array

START_PRICE = 1000.0
STEP_NS = 60 * 10**9
FAR = 1 << 62  # an expiry that never comes
UNLIMITED = 1e9  # contracts quoted


def known_optimum_config(**changes: Any) -> TradingConfig:
    """The rules under which the optimum is the one known: the reward above, no other cost."""
    rules: dict[str, Any] = {
        "reward": "linear_quadratic",
        "cost_rate": 0.0,
        "spread_share": 0.0,
        "ruin_share": 0.0,
    }
    return TradingConfig(**{**rules, **changes})


@dataclasses.dataclass(frozen=True)
class KnownOptimum:
    """The best policy of one asset, and its value.

    With a discount of 0 the next reward alone counts. The module's docstring has the formulas and
    their source.

    Raises:
        ValueError: Unless risk is above 0, cost and shock are not negative, persistence lies in
            (-1, 1) and discount in [0, 1].
    """

    risk: float = 1.0
    cost: float = 1.0
    persistence: float = 0.8
    shock: float = 0.12
    discount: float = 0.99

    def __post_init__(self) -> None:
        """Refuse numbers without an optimum."""
        allowed = {
            "risk": ("above 0", 0.0 < self.risk < math.inf),
            "cost": ("not negative", 0.0 <= self.cost < math.inf),
            "persistence": ("between -1 and 1", -1.0 < self.persistence < 1.0),
            "shock": ("not negative", 0.0 <= self.shock < math.inf),
            "discount": ("0 to 1", 0.0 <= self.discount <= 1.0),
        }
        for name, (wanted, holds) in allowed.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {wanted}")

    @property
    def coefficients(self) -> tuple[float, float, float, float]:
        """(a, b, d, e) of the value."""
        g, risk, cost, rho = self.discount, self.risk, self.cost, self.persistence
        linear = risk + cost - g * cost
        # the root that does not divide by g, which may be 0
        a = 2.0 * cost * risk / (linear + math.sqrt(linear * linear + 4.0 * g * cost * risk))
        whole = risk + cost + g * a
        b = cost / (whole - g * rho * cost)
        d = (1.0 + g * rho * b) ** 2 / (whole * (1.0 - g * rho * rho))
        e = g * d * self.shock**2 / (2.0 * (1.0 - g)) if g < 1.0 else math.inf
        return a, b, d, e

    def action(self, position: Array | float, signal: Array | float) -> Array:
        """Return the best position after the trade.

        Args:
            position: Position before the trade, as a share of the limit; any shape.
            signal: Signals of a shape that broadcasts with `position`.

        Returns:
            Positions as shares of the limit, float64, not clipped to it.
        """
        a, b, _, _ = self.coefficients
        g = self.discount
        aim = self.cost * np.asarray(position) + (1.0 + g * self.persistence * b) * signal
        best: Array = np.asarray(aim / (self.risk + self.cost + g * a))
        return best

    def value(self, position: Array | float, signal: Array | float) -> Array:
        """Return the expected discounted sum of the rewards under the best policy.

        Args:
            position: Position before the trade, as a share of the limit; any shape.
            signal: Signals of a shape that broadcasts with `position`.

        Returns:
            The values, float64; infinite at a discount of 1.
        """
        a, b, d, e = self.coefficients
        x, s = np.asarray(position), np.asarray(signal)
        worth: Array = np.asarray(-0.5 * a * x * x + b * x * s + 0.5 * d * s * s + e)
        return worth

    def average_reward(self) -> float:
        """Reward a step in the long run of the policy that is best without discount."""
        _, _, d, _ = dataclasses.replace(self, discount=1.0).coefficients
        return 0.5 * d * self.shock**2

    def act(self, observations: Array) -> Array:
        """Best actions float32 (n, 10) for observations (n, 16, 100); slots without signal: 0."""
        newest = np.asarray(observations)[:, -1]
        signals = newest[:, INDICATOR_FEATURES][:, :SLOTS]
        best: Array = self.action(newest[:, POSITIONS], signals)
        return np.clip(best, -1.0, 1.0).astype(np.float32)


def known_optimum_provider(
    seed: int = 0,
    *,
    optimum: KnownOptimum | None = None,
    episodes: int = 64,
    steps: int = 256,
    assets: int = 1,
    noise: float = 0.1,
) -> RecordedProvider:
    """Return a provider of independent segments of the market; each episode is one of them.

    Args:
        seed: The same seed gives the same market.
        optimum: The market's parameters; the defaults without one.
        episodes: Number of segments.
        steps: Steps of each segment.
        assets: Number of slots with a contract and a signal, 1 to 10; the others are empty.
        noise: Standard deviation of the price moves around the signal, quote currency.

    Returns:
        The provider, which holds all states in memory.

    Raises:
        ValueError: `episodes`, `steps` or `assets` is out of range.
        BadMarketData: A price falls to 0 or below.
    """
    model = KnownOptimum() if optimum is None else optimum
    if not 1 <= assets <= SLOTS or steps < 1 or episodes < 1:
        raise ValueError(f"{episodes} episodes of {steps} steps with {assets} assets: need >= 1")
    rng = np.random.default_rng(seed)
    shape = (episodes, steps + 1, assets)
    signal = np.empty(shape)
    shocks = model.shock * rng.standard_normal(shape)
    signal[:, 0] = shocks[:, 0] / math.sqrt(1.0 - model.persistence**2)
    for step in range(steps):
        signal[:, step + 1] = model.persistence * signal[:, step] + shocks[:, step + 1]
    moves = signal[:, :-1] + noise * rng.standard_normal((episodes, steps, assets))
    price = np.full(shape, START_PRICE)
    price[:, 1:] += np.cumsum(moves, axis=1)
    if price.min() <= 0.0:
        raise BadMarketData(
            f"the prices of {steps} steps fall to {price.min():.1f}; use fewer steps or less noise"
        )
    return RecordedProvider([_states(p, s) for p, s in zip(price, signal, strict=True)])


def _states(price: Array, signal: Array) -> Array:
    """Market states (T,) of prices and signals (T, assets)."""
    count, assets = price.shape
    states = np.zeros(count, MARKET_DTYPE)
    states["ts_event"] = (1 + np.arange(count)) * STEP_NS
    states["step"] = np.arange(count)
    states["underlying"] = price[:, 0]
    held = slice(0, assets)
    states["contract"][:, held] = [f"KNOWN-{slot}".encode() for slot in range(assets)]
    states["strike"][:, held], states["right"][:, held] = START_PRICE, 1
    states["expiry"][:, held] = FAR
    for name in ("bid", "ask", "implied_volatility"):
        states[name] = np.nan
    for name in ("bid", "ask", "price", "previous_price"):
        states[name][:, held] = price
    states["bid_size"][:, held] = states["ask_size"][:, held] = UNLIMITED
    states["tradeable"][:, held] = True
    states["greeks"][:, held, 0] = 1.0
    states["indicators"][:, held] = signal
    return states
