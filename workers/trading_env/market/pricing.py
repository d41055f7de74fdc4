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
    """Price European options on a spot; never below the discounted intrinsic value.

    Black, Scholes (1973) with the continuous dividend yield of Merton (1973).

    Args:
        spot: Price of the underlying, quote currency.
        strike: Strike price, quote currency.
        years: Time to expiry in years of 365 days.
        rate: Interest rate per year, continuously compounded.
        dividend: Dividend yield per year, continuously compounded.
        volatility: Volatility per square root of a year.
        right: +1 for a call, -1 for a put.

    Returns:
        Prices in quote currency, float64, of the shape to which the arguments broadcast.

    Example:
        >>> call = black_scholes(100.0, 100.0, 1.0, 0.05, 0.0, 0.2, 1)
        >>> put = black_scholes(100.0, 100.0, 1.0, 0.05, 0.0, 0.2, -1)
        >>> round(float(call), 4), round(float(put), 4)
        (10.4506, 5.5735)
    """
    growth = np.exp((np.asarray(rate) - dividend) * years)
    return black_76(np.asarray(spot) * growth, strike, years, rate, volatility, right)


def black_76(
    forward: Number, strike: Number, years: Number, rate: Number, volatility: Number, right: Number
) -> Array:
    """Price European options on a forward or a future (Black, 1976).

    Args:
        forward: Price of the forward or future, quote currency.
        strike: Strike price, quote currency.
        years: Time to expiry in years of 365 days.
        rate: Interest rate per year, continuously compounded.
        volatility: Volatility per square root of a year.
        right: +1 for a call, -1 for a put.

    Returns:
        Prices in quote currency, float64, of the shape to which the arguments broadcast.

    Example:
        >>> round(float(black_76(100.0, 100.0, 1.0, 0.0, 0.2, 1)), 4)
        7.9656
    """
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
    """Return the derivatives of `black_scholes`: delta, gamma, theta, vega, rho.

    The closed forms of the formula of Black, Scholes and Merton (1973), differentiated.

    Args:
        spot: Price of the underlying, quote currency.
        strike: Strike price, quote currency.
        years: Time to expiry in years of 365 days.
        rate: Interest rate per year, continuously compounded.
        dividend: Dividend yield per year, continuously compounded.
        volatility: Volatility per square root of a year.
        right: +1 for a call, -1 for a put.

    Returns:
        float64 (..., 5), the five in this order in the last axis: theta per year, vega per 1.00 of
        volatility, rho per 1.00 of rate. Without time or volatility left gamma and theta are 0.

    Example:
        >>> [round(each, 3) for each in greeks(100.0, 100.0, 1.0, 0.05, 0.0, 0.2, 1).tolist()]
        [0.637, 0.019, -6.414, 37.524, 53.232]
    """
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
    """Return the volatility at which `black_scholes` has this price.

    Newton steps kept inside a bracket that each evaluation narrows (bisection where a step would
    leave it), started at the inflection point (Manaster, Koehler, 1982), on the out-of-the-money
    side of the same strike, where the price is all time value and nothing cancels.

    Args:
        price: Price of the option, quote currency.
        spot: Price of the underlying, quote currency.
        strike: Strike price, quote currency.
        years: Time to expiry in years of 365 days.
        rate: Interest rate per year, continuously compounded.
        dividend: Dividend yield per year, continuously compounded.
        right: +1 for a call, -1 for a put.

    Returns:
        Volatilities, float64, of the shape to which the arguments broadcast; NaN where no
        volatility from 1e-4 to 10 reproduces the price.

    Example:
        >>> round(float(implied_volatility(10.4506, 100.0, 100.0, 1.0, 0.05, 0.0, 1)), 4)
        0.2
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
