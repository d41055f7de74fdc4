"""Quality gates: one bit a doubt, set on whole batches at once. Nothing is changed silently.

Bits go into the row's `flags`; what happens to a flagged row is configuration. Gates that compare
with the last quote of the same symbol (backwards, duplicate, jump) keep it across batches, and
get it back after a restart from the table `quotes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from config.ingest import GATES

if TYPE_CHECKING:
    from config.ingest import IngestConfig

Rows = np.ndarray[Any, np.dtype[Any]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
BIT = {name: np.uint32(1 << position) for position, name in enumerate(GATES)}
_GREEKS = ("delta", "gamma", "vega", "theta", "rho")


class Gates:
    """Flags rows and says which of them may be published."""

    def __init__(self, config: IngestConfig) -> None:
        """Start with no memory of any symbol."""
        self._config = config
        self._drop = _mask(config, "drop")
        self._dead = _mask(config, "dead_letter")
        self._last: dict[bytes, tuple[int, float]] = {}  # symbol -> event time ns, mid

    def remember(self, rows: Rows) -> None:
        """Take rows (each symbol's newest last) as what was seen before."""
        mids = _mid(rows)
        self._last.update(
            zip(
                rows["symbol"].tolist(),
                zip(rows["ts_event"].tolist(), mids.tolist(), strict=True),
                strict=True,
            )
        )

    def flag(self, rows: Rows) -> None:
        """Set the bits of `rows` (in the order of their offsets) and remember them."""
        config = self._config
        bid, ask, mid = rows["bid"], rows["ask"], _mid(rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            doubts = {
                "nonfinite": _nonfinite(rows),
                "negative": (bid < 0) | (ask < 0) | (rows["last"] < 0) | (rows["volume"] < 0),
                "crossed": bid > ask,
                "locked": bid == ask,
                "zero_bid": bid == 0,
                "wide": (ask - bid) > config.wide_share * mid,
                "iv_range": (rows["implied_volatility"] < 0)
                | (rows["implied_volatility"] > config.iv_max),
                "greek_sign": (rows["gamma"] < 0) | (rows["vega"] < 0),
                "future": (rows["ts_recv"] > 0)
                & (rows["ts_event"] > rows["ts_recv"] + int(config.future_s * 1e9)),
            }
            before_ts, before_mid = self._previous(rows, mid)
            doubts["backwards"] = rows["ts_event"] < before_ts
            doubts["duplicate"] = _same_as_before(rows, before_ts, before_mid, mid)
            doubts["jump"] = np.abs(mid - before_mid) > config.jump_share * before_mid
        for name, mask in doubts.items():
            rows["flags"][mask] |= BIT[name]
        self.remember(rows)

    def dropped(self, rows: Rows) -> Mask:
        """Tell which rows are to be left out."""
        wrong: Mask = (rows["flags"] & self._drop) != 0
        return wrong & ~self.dead(rows)

    def dead(self, rows: Rows) -> Mask:
        """Tell which rows go to the dead-letter topic."""
        wrong: Mask = (rows["flags"] & self._dead) != 0
        return wrong

    def _previous(self, rows: Rows, mid: Rows) -> tuple[Rows, Rows]:
        """Event time and mid of each row's predecessor of the same symbol (0 and NaN: none)."""
        order = np.argsort(rows["symbol"], kind="stable")
        symbols = rows["symbol"][order]
        first = np.ones(rows.size, bool)
        first[1:] = symbols[1:] != symbols[:-1]
        before_ts = np.zeros(rows.size, np.int64)
        before_mid = np.full(rows.size, np.nan)
        before_ts[order[1:]] = rows["ts_event"][order[:-1]]
        before_mid[order[1:]] = mid[order[:-1]]
        for at in order[first].tolist():
            known = self._last.get(rows["symbol"][at], (0, np.nan))
            before_ts[at], before_mid[at] = known
        return before_ts, before_mid


def counts(rows: Rows) -> dict[str, int]:
    """Give how many rows carry each bit (only those that occur)."""
    found = {name: int(((rows["flags"] & bit) != 0).sum()) for name, bit in BIT.items()}
    return {name: count for name, count in found.items() if count}


def _mask(config: IngestConfig, policy: str) -> np.uint32:
    bits = np.uint32(0)
    for name, chosen in config.gates.items():
        if chosen == policy:
            bits |= BIT[name]
    return bits


def _mid(rows: Rows) -> Rows:
    mid: Rows = 0.5 * (rows["bid"] + rows["ask"])
    return mid


def _nonfinite(rows: Rows) -> Mask:
    """Infinite numbers anywhere, or no price at all; NaN alone means absent, which is allowed."""
    wrong = np.zeros(rows.size, bool)
    for name in ("bid", "ask", "last", "implied_volatility", "underlying_price", *_GREEKS):
        wrong |= np.isinf(rows[name])
    wrong |= np.isnan(rows["bid"]) & np.isnan(rows["ask"]) & np.isnan(rows["last"])
    return wrong


def _same_as_before(rows: Rows, before_ts: Rows, before_mid: Rows, mid: Rows) -> Mask:
    same: Mask = (rows["ts_event"] == before_ts) & (
        (mid == before_mid) | (np.isnan(mid) & np.isnan(before_mid))
    )
    return same
