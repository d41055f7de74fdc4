"""The underlying's price that a chain implies, for feeds that do not give one.

Put-call parity (Stoll, Journal of Finance, 1969): call - put = discount x (forward - strike). For
American options on a share it is a bound and not an equation; near the money and near expiry the
difference is within the spread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workers.trading_env.market.pricing import YEAR_NS

if TYPE_CHECKING:
    from mesh.arrays import Array

PAIRS = 5  # strikes nearest the money of which the median is taken


def implied_underlying(
    expiry: Array,
    strike: Array,
    right: Array,
    middle: Array,
    coin: Array,
    *,
    now: int,
    rate: float,
    dividend: float,
) -> float | None:
    """Return the spot price that the nearest expiry with quoted pairs implies.

    Put-call parity (Stoll, 1969) at each strike whose call and put are both quoted; the median of
    the strikes nearest the money.

    Args:
        expiry: Expiries, int64 (n,), ns since the epoch.
        strike: Strikes, float64 (n,), quote currency.
        right: int8 (n,), +1 for a call, -1 for a put.
        middle: Middles of the quotes, float64 (n,), in quote currency or, where `coin`, in units
            of the underlying; NaN where there is no two-sided quote.
        coin: bool (n,), whether the option is quoted in units of the underlying.
        now: Time of the quotes, ns since the epoch.
        rate: Interest rate per year, continuously compounded.
        dividend: Dividend yield per year, continuously compounded.

    Returns:
        The spot price in quote currency, or None without a strike of which call and put are quoted.
    """
    usable = np.isfinite(middle) & (middle > 0) & (expiry > now)
    calls, puts = np.flatnonzero(usable & (right > 0)), np.flatnonzero(usable & (right < 0))
    terms = np.empty(expiry.size, [("expiry", "<i8"), ("strike", "<f8")])
    terms["expiry"], terms["strike"] = expiry, strike
    pairs, at_call, at_put = np.intersect1d(terms[calls], terms[puts], return_indices=True)
    if pairs.size == 0:
        return None
    near = pairs["expiry"] == pairs["expiry"].min()
    level, years = pairs["strike"][near], (int(pairs["expiry"].min()) - now) / YEAR_NS
    call, put = calls[at_call][near], puts[at_put][near]
    gap = middle[call] - middle[put]
    with np.errstate(divide="ignore", invalid="ignore"):
        forward = np.where(coin[call], level / (1.0 - gap), level + gap * np.exp(rate * years))
    sane = np.isfinite(forward) & (forward > 0)
    if not sane.any():
        return None
    nearest = np.argsort(np.abs(gap[sane]), kind="stable")[:PAIRS]
    spot = float(np.median(forward[sane][nearest])) * float(np.exp((dividend - rate) * years))
    return spot if spot > 0 else None
