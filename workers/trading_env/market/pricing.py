"""European option prices, greeks and implied volatility, vectorised over any shape, float64.

Black, Scholes (Journal of Political Economy, 1973) with the continuous yield of Merton (1973);
Black (Journal of Financial Economics, 1976) is the same formula on a forward. Units as in the
records: theta per year, vega per 1.00 of volatility, rho per 1.00 of rate, times in years
(ACT/365), `right` +1 for a call and -1 for a put. With no time or no volatility left the value is
the discounted intrinsic one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr

from mesh.arrays import Array

Number = float | Array

YEAR_NS = 365 * 86_400 * 10**9
LOWEST, HIGHEST = 1e-4, 10.0
_SQRT_2PI = np.sqrt(2.0 * np.pi)
_TINY = 1e-12


def black_scholes(
    spot: Number,
    strike: Number,
    years: Number,
    rate: Number,
    dividend: Number,
    volatility: Number,
    right: Number,
) -> Array:
    """Price of a European option on `spot`; 0 * discount below the intrinsic value never."""
    growth = np.exp((np.asarray(rate) - dividend) * years)
    return black_76(np.asarray(spot) * growth, strike, years, rate, volatility, right)


def black_76(
    forward: Number, strike: Number, years: Number, rate: Number, volatility: Number, right: Number
) -> Array:
    """Price of a European option on a forward or future."""
    discount = np.exp(-np.asarray(rate) * years)
    d1, d2 = _d1_d2(forward, strike, years, volatility)
    sign = np.asarray(right)
    value = sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * d2))
    price: Array = discount * np.maximum(value, 0.0)
    return price


def greeks(
    spot: Number,
    strike: Number,
    years: Number,
    rate: Number,
    dividend: Number,
    volatility: Number,
    right: Number,
) -> Array:
    """Delta, gamma, theta, vega, rho in the last axis: shape (..., 5)."""
    rate, dividend = np.asarray(rate, float), np.asarray(dividend, float)
    years, sigma = np.asarray(years, float), np.asarray(volatility, float)
    sign = np.asarray(right)
    discount, yielded = np.exp(-rate * years), np.exp(-dividend * years)
    forward = spot * yielded / discount
    d1, d2 = _d1_d2(forward, strike, years, sigma)
    density = np.exp(-0.5 * d1 * d1) / _SQRT_2PI
    root = np.sqrt(np.maximum(years, _TINY))
    delta = sign * yielded * ndtr(sign * d1)
    gamma = yielded * density / (np.asarray(spot) * np.maximum(sigma, _TINY) * root)
    vega = np.where(years > 0, spot * yielded * density * root, 0.0)
    carried = dividend * spot * yielded * ndtr(sign * d1) - rate * strike * discount * ndtr(
        sign * d2
    )
    theta = -0.5 * spot * yielded * density * sigma / root + sign * carried
    rho = sign * strike * years * discount * ndtr(sign * d2)
    live = (years > 0) & (sigma > 0)
    parts = [delta, np.where(live, gamma, 0.0), np.where(live, theta, 0.0), vega, rho]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def implied_volatility(
    price: Number,
    spot: Number,
    strike: Number,
    years: Number,
    rate: Number,
    dividend: Number,
    right: Number,
) -> Array:
    """Volatility at which `black_scholes` gives `price`; NaN where there is none in [1e-4, 10].

    Newton steps kept inside a bracket that each evaluation narrows (bisection where a step would
    leave it), on the out-of-the-money side of the same strike, where the price is all time value
    and nothing cancels.
    """
    price, spot, strike, years, rate, dividend, right = np.broadcast_arrays(
        *(np.asarray(each, float) for each in (price, spot, strike, years, rate, dividend, right))
    )
    with np.errstate(all="ignore"):
        discount = np.exp(-rate * years)
        forward = spot * np.exp((rate - dividend) * years)
        value = price / discount
        in_the_money = right * (forward - strike) > 0
        # put-call parity turns it into the option of the other kind
        value = np.where(in_the_money, value - right * (forward - strike), value)
        side = np.where(in_the_money, -right, right)
        sound = (years > 0) & (forward > 0) & (strike > 0) & np.isfinite(value) & (value > 0)
        one = np.ones_like(forward)
        f, k = np.where(sound, forward, one), np.where(sound, strike, one)
        t, v = np.where(sound, years, one), np.where(sound, value, 0.1 * one)
        sigma, low, high = _solve(v, f, k, t, side)
        reached = (low > LOWEST) & (high < HIGHEST)
    result: Array = np.where(sound & reached, sigma, np.nan)
    return result


def _solve(value: Array, forward: Array, strike: Array, years: Array, side: Array) -> Any:
    """Undiscounted inversion: (volatility, low and high end of its bracket)."""
    low, high = np.full_like(value, LOWEST), np.full_like(value, HIGHEST)
    # Manaster and Koehler (1982): the inflection point, from which Newton converges
    sigma = np.sqrt(2.0 * np.abs(np.log(forward / strike)) / years)
    sigma = np.clip(np.where(sigma < 1e-2, 0.2, sigma), 2 * LOWEST, 0.5 * HIGHEST)
    root = np.sqrt(years)
    done = np.zeros(value.shape, bool)
    for _ in range(80):
        d1, d2 = _d1_d2(forward, strike, years, sigma)
        model = side * (forward * ndtr(side * d1) - strike * ndtr(side * d2))
        over = model > value
        high = np.where(over & ~done, sigma, high)
        low = np.where(over | done, low, sigma)
        vega = forward * np.exp(-0.5 * d1 * d1) / _SQRT_2PI * root
        # Newton on the logarithm: far out of the money the price itself is flat
        step = np.log(value / np.maximum(model, 1e-300)) * model / np.maximum(vega, 1e-300)
        # what has converged stays: its next step may leave a bracket that has closed around it
        near = np.abs(model - value) <= 1e-6 * value  # where the model is 0 so is the step
        done |= near & (np.abs(step) <= 1e-14 + 1e-13 * sigma)
        moved = sigma + step
        # below, price and vega are too small for their ratio to say anything
        inside = (moved > low) & (moved < high) & (vega > 1e-290)
        moved = np.where(inside, moved, 0.5 * (low + high))
        done |= high - low <= 1e-14
        sigma = np.where(done, sigma, moved)
        if done.all():
            break
    low = np.where(sigma > LOWEST * 1.01, np.maximum(low, 2 * LOWEST), low)
    high = np.where(sigma < HIGHEST * 0.99, np.minimum(high, 0.5 * HIGHEST + 0.5 * sigma), high)
    return sigma, low, high


def _d1_d2(
    forward: Number, strike: Number, years: Number, volatility: Number
) -> tuple[Array, Array]:
    spread = np.maximum(np.asarray(volatility) * np.sqrt(np.maximum(years, 0.0)), _TINY)
    d1 = np.log(np.asarray(forward) / strike) / spread + 0.5 * spread
    return d1, d1 - spread
